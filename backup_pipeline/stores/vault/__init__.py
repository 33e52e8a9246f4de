"""Vaults: encrypted, deduplicated, signed copies of sealed sets off the machine (docs/formats-vault.md)."""
