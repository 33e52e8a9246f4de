"""State of plans and sets: listing, status, status page."""
