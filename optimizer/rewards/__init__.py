"""Scores one answer to one query."""
