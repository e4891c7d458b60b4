"""Searches over candidates: which to compare, and when to stop. It does not know what a candidate is."""
