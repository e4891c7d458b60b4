"""The statistics of experiments: arrays in, a report out. They do not depend on SQL or HTTP."""
