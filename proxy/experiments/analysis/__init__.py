"""Statistics: arrays in, a report out. It does not know SQL or HTTP."""
