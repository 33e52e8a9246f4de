"""Reading data out: dumps, COPY, fingerprints, profiles."""
