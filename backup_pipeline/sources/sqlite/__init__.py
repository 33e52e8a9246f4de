"""SQLite databases: consistent copy, table exports, restore."""
