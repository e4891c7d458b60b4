"""Scores the answers of model servers to a data set, and measures how often a judge agrees with people's labels."""
