"""Merging rows of a dump into existing tables (upsert)."""
