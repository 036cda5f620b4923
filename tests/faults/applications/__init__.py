"""Applications of many workers recording usage, and what may befall them: `python -m tests.faults.applications`."""
