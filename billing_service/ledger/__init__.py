"""What is stored and what it adds up to: records, customers, sums, statements, API keys."""
