"""Import of backups that other programs made: what is one, of which source and time, and what becomes of it."""
