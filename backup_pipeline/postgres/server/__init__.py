"""Servers, connections, databases, client programs, snapshots."""
