"""Reads, checks and writes bundles: the directory that the optimizer writes and the proxy serves."""
