"""The loss of machines: `python -m tests.faults --replication`. See README.md one folder above."""
