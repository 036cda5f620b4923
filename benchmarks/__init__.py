"""How fast the service is, beside what its users would otherwise write. See README.md."""
