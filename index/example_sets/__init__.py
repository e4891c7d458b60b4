"""Partitions a bank into example sets. Requests with the same set begin with the same text, which stays cached."""
