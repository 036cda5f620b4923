"""The async client of the billing service."""

__version__ = "0.1.0"
