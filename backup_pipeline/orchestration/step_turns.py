"""Turns of a run's captures on Celery workers: those that begin together are of different servers.

dagster-celery sends the steps that are ready by their priority, and those of one priority by their names, which brings
the databases of one server to all workers at one time: they share its link, and the other servers wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from backup_pipeline.artefacts.targets import target_of
from backup_pipeline.errors import SettingsError
from backup_pipeline.settings.site import Site

# dagster-celery's; it may not be installed, which the executor says with its remedy.
PRIORITY_TAG = "dagster-celery/priority"
# A priority is one byte for RabbitMQ, where 10 and more are one; so are 9 and more for Redis: the order is the loop's.
_MOST, _LEAST = 255, 10


def turn_tags(site: Site, sources: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the tags of each source's step: the first of every server, then the second of every one, and so on."""
    before: Counter[tuple[str, int] | str] = Counter()
    rounds = {}
    for name in sources:
        server = _server(site, name)
        rounds[name] = before[server]
        before[server] += 1
    order = sorted(sources, key=rounds.__getitem__)
    return {name: {PRIORITY_TAG: str(max(_MOST - turn, _LEAST))} for turn, name in enumerate(order)}


def _server(site: Site, name: str) -> tuple[str, int] | str:
    connection = site.source(name).connection
    try:
        target = target_of(site, connection, name) if connection is not None else None
    except SettingsError:
        target = None
    return name if target is None else (target.host, target.port)
