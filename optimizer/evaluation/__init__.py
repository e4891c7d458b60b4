"""Evaluates the answers of endpoints to a data set, and the preferences of a judge against labels by people."""
