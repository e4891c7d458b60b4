"""Measures the answers of a model or a server on a data set."""
