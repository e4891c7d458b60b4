"""Compares prompt optimizers at equal cost: docs/benchmarks.md. `__main__` says how."""
