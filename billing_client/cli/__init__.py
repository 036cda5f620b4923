"""The `billing` command line; it needs the extra `cli`."""
