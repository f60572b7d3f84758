"""Accuracy, time and size of engines, and how sure we are of them."""
