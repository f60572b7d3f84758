"""What kinds of task have in common."""
