"""One file per technique: checkpoint to checkpoint, in PyTorch."""
