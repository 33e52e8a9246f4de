"""Loading dumps into a new database: parsing, roles, parallel sessions, refused data."""
