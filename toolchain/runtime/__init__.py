"""What runs where a bundle is deployed: it never imports torch or transformers."""
