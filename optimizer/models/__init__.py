"""Calls models: an HTTP client, the cache of paid calls, and the task model."""
