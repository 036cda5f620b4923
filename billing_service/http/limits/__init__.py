"""How many requests and records a caller may send in a time, and what it is told of that."""
