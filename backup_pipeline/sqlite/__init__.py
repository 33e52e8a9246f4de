"""SQLite client: consistent copies, catalog, contents, known applications."""
