"""A/B experiments: who gets which arm, what is recorded, and the state of an experiment. It does not know routes."""
