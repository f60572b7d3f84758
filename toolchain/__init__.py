"""toolchain: from a transformer encoder to the engine you should ship, with the measurements that say so."""

__version__ = "0.1.0"
