"""OpenAI's wire formats as pure functions. It does no I/O and does not depend on backends."""
