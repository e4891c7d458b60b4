"""The statistics of experiments: computes a report from the outcomes of units. It does not depend on SQL or HTTP."""
