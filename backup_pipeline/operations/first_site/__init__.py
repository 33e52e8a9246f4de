"""A first site: what this machine has that can be backed up, and the settings that protect it."""
