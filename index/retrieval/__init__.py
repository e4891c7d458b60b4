"""Chooses the examples that are shown for one query."""
