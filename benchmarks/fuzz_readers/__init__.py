"""What ``fuzz.py`` is made of: good inputs, changes of them, the readers, and what watches a case."""
