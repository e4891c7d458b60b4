"""Calls to models: one HTTP client, a cache, and the task model that answers for a candidate."""
