"""Comparison of a restored database with what was recorded of its source."""
