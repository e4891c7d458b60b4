"""Computes the report of an experiment from the recorded outcomes of its units. It does not depend on SQL or HTTP."""
