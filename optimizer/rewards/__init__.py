"""Rewards score how good an answer to a query is. Each kind of reward has a module, and registry.py lists all kinds."""
