"""The front door: pages of our own before Dagster's, answering whether the backups are safe."""
