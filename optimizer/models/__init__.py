"""Calls to models: an HTTP client, cached calls, and the task model."""
