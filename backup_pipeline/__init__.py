"""Backup and restore pipeline on Dagster. Nothing is imported here, so that short commands stay short."""

__version__ = "1.0.0"
