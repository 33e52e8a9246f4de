"""The system catalog: objects, columns, keys, partitions, settings."""
