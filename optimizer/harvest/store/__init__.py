"""Reads the store of drpo-proxy, SQLite or PostgreSQL, without writing to it."""
