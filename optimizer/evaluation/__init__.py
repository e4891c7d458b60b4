"""Evaluation of endpoints on a data set, and of a judge against labels by people."""
