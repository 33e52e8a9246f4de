"""Backup: capture of a plan's sources and the seal."""
