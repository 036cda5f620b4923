"""Overviews for people: two months beside each other, and lists of customers."""
