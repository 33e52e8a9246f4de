"""`<source>_orders.json`: a set's account of the pairs that were written into an order archive."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import BinaryIO

from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactRecord


def inspect_account(open_file: Callable[[str], BinaryIO], record: ArtefactRecord) -> Iterator[Finding]:
    """Yield what is wrong with the account: it must be JSON and say what the record says."""
    path = record.files[0].path
    with open_file(path) as file:
        account = json.loads(file.read())
    pairs = account.get("exported", 0) + account.get("unchanged", 0)
    if pairs != record.details.get("pairs"):
        yield Finding(subject=path, problem=f"{pairs} pairs where the record says {record.details.get('pairs')}.")
