"""Statements: what they say, what their digests are made of, and how to check them without the service."""
