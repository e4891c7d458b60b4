"""Retrieves the examples that are shown for a query, and selects and orders them by their token counts."""
