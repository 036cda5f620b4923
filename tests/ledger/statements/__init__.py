"""Tests of the modules of the same room."""
