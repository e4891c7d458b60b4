"""Compares prompt optimizers at equal cost: table of tests/bench/README.md. `__main__` says how."""
