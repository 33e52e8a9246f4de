"""One use case per file, called by the shell and by Dagster alike. Neither is imported here."""
