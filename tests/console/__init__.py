"""Tests of the console: its pages over HTTP, and in a browser."""
