"""What a caller may rely on, over HTTP alone: the same tests for the service and for the fake one of the client."""
