"""Events of Dagster without secrets, before they are stored.

Dagster adds the causes of an error, with what a server or program said, to the event of a failed step.
"""

from __future__ import annotations

import json

from dagster import EventLogEntry
from dagster._serdes import deserialize_value, serialize_value

from backup_pipeline.redaction import may_hold_secrets, redacted_values


def without_secrets(event: EventLogEntry) -> EventLogEntry:
    """Return an event with every text in it redacted: the same one where nothing is to be hidden."""
    text = serialize_value(event)
    if not may_hold_secrets(text):
        return event
    written = json.loads(text)
    safe = redacted_values(written)
    return event if safe == written else deserialize_value(json.dumps(safe), EventLogEntry)
