"""Checks of what a run relies on, such as its judge."""
