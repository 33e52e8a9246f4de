"""The orders' table in SQLite or PostgreSQL: reading, rebuilding, staging."""
