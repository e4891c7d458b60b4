"""Kinds of model servers: one module for each kind, and a registry. It does not depend on connections or on prompts."""
