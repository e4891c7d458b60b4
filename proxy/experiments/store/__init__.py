"""Stores the records of experiments in SQLite or PostgreSQL. It does not depend on the statistics."""
