"""Recipe, plan, run."""
