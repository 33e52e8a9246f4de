"""Query, difference and re-export of the tables inside sets."""
