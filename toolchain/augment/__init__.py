"""Augmentation: more training examples, one file per way to make them."""
