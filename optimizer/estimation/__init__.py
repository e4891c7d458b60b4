"""Estimates what a run will cost before it starts: calls, tokens, money and time."""
