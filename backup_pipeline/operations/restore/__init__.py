"""Restore: plan, apply, undo."""
