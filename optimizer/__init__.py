"""Learns bundles: searches for a prompt, examples and settings, and evaluates the result. Never imports the proxy."""
