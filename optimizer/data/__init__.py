"""Data sets of queries, and their split into training, validation and sealed rows."""
