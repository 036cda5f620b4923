"""A web application of many workers that records usage, and what may happen to it. `python -m tests.faults.webapp`."""
