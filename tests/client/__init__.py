"""The tests of the client: against the service, and against `misbehaving`, a server that fails as it is told."""
