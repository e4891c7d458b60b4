"""Splits a bank of examples into example sets, which share a prefix that the model server can cache."""
