"""PostgreSQL client. The only room that imports psycopg or starts PostgreSQL's programs."""
