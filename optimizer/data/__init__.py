"""Reads data sets of queries, and splits them into training, validation and sealed rows."""
