"""Retrieves the examples for a query, selects as many as the token limits allow, and orders them."""
