"""The nouns of the design as frozen values. No I/O, no clock, no decisions."""
