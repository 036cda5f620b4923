"""`billing import`."""
