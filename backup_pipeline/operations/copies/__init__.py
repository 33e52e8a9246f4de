"""Copies of sets in vaults off the machine."""
