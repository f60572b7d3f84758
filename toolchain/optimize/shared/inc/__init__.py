"""What the passes of Intel Neural Compressor (``inc_*``) share.

It stands in ``shared/``, because a package of its own in ``optimize/`` would be a pass.
"""
