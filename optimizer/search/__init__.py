"""Searches over candidates: which ones to compare, and when to stop. They do not depend on what a candidate is."""
