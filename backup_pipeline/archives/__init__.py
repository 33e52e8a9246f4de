"""Tar and zip archives: writing, listing, safe extraction, file attributes."""
