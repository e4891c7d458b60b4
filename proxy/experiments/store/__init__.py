"""The SQL store of exposures and feedback: SQLite or PostgreSQL. It does not depend on the statistics."""
