"""Loads bundles, retrieves examples, and selects those that fit the model's context. It does not depend on HTTP."""
