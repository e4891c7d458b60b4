"""Reads, checks and translates OpenAI's wire formats. The package does no I/O and does not depend on backends."""
