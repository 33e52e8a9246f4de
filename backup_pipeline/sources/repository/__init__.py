"""Git repositories: bundle, working tree archive, metadata, restore."""
