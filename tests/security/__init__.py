"""What an attacker tries: a test for each line of the table in docs/security.md."""
