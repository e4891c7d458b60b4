"""Finds private data in texts by rules, and replaces it with placeholders. It calls no model and does no I/O."""
