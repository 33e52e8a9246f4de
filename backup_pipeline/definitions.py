"""The Definitions object."""
