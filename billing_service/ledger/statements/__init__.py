"""Statements: pieces that are summed up and hashed as time passes, what they make, and what was issued."""
