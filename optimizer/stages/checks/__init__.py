"""Checks whether a run can rely on its judge, and whether a bundle may learn a text."""
