"""Faults made for real, and the check that nothing is lost and nothing doubled."""
