"""Partitions a bank into example sets, whose prompts share prefixes that a model server can cache."""
