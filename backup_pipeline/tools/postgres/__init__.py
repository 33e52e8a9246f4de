"""PostgreSQL: connections, clients, snapshots, catalog, COPY, fingerprints, an embedded server."""
