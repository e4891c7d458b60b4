"""Reads, checks and writes bundles: the directories that the optimizer writes and the proxy serves."""
