"""Where `load_generator` was in version 1.0, for code that imports it from here."""

from nectargan.runs.checkpoint import load_generator

__all__ = ["load_generator"]
