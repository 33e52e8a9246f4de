"""Backup and restore pipeline on Dagster. Nothing is imported here, so that short commands stay short."""

import os

# Arrow reads this when it is loaded, and its own allocator keeps what it was given once: the pages of a Parquet file
# that is being written, say. What is allocated from Python has the allocator of `tables.arrow_memory`.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

__version__ = "1.0.0"
