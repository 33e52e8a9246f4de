"""Evidence for auditors: what was backed up, verified, drilled and restored in a period, signed and chained."""
