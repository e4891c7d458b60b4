"""Defines fixtures: stores that a test fills, on SQLite and (slow) on PostgreSQL."""

from tests.proxy.experiments.conftest import dsn, postgresql

__all__ = ["dsn", "postgresql"]
