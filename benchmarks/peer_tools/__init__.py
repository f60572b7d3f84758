"""What each peer tool does with the checkpoint, one script a tool, each run in that tool's own environment."""
