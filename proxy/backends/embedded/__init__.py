"""The embedded model: a child process that serves a small base model."""
