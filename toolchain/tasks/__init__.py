"""One file per task: its data and labels."""
