"""A site's stores, identity and embedded server; the UI's processes."""
