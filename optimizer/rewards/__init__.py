"""Rewards: how good an answer to a query is. One module per kind of reward; registry.py lists them."""
