"""PostgreSQL databases: dump, table exports, roles, restore."""
