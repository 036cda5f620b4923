"""The tests. `databases` finds a PostgreSQL, `services` runs the service, `conftest` hands both to the tests."""
