"""The layers of a checkpoint: what each tolerates, costs and is worth, and how to share a budget among them."""
