"""The version of the package, defined only here."""

__version__ = "1.1.0"
