"""The durable recorder: usage goes to a file first, and from there to the service."""
