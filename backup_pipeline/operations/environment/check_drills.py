"""Can the drills that plans promise be carried out on this machine? Nothing is started."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from backup_pipeline.artefacts.drilling import SealedPart
from backup_pipeline.artefacts.restorer import PlannedDrill, Restorer, restorer_of
from backup_pipeline.errors import BackupSystemError
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.rules.environment import EnvironmentFault
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.registry import kind_of


def drill_faults(site: Site, plans: Sequence[str]) -> list[EnvironmentFault]:
    """Return what keeps the drills of these plans from being carried out on this machine."""
    planned: dict[str, tuple[Restorer, list[PlannedDrill]]] = {}
    for plan in plans:
        if site.plan(plan).drill:
            for name in site.plan(plan).sources:
                kind, source = kind_of(site, name)
                restorer = restorer_of(artefact for _, artefact in kind.artefacts(source))
                _, drills = planned.setdefault(restorer.name, (restorer, []))
                drills.append(PlannedDrill(plan, name, _newest(site, plan, name, restorer)))
    return [fault for restorer, drills in planned.values() for fault in restorer.drill_faults(site, drills)]


def _newest(site: Site, plan: str, source: str, restorer: Restorer) -> SealedPart | None:
    """Return what the newest set that the restorer knows holds of a source; None where no set can be read."""
    # Damage is a verification's to find.
    with suppress(BackupSystemError):
        store = open_store(site, plan)
        for set_id in reversed(store.sealed_ids()):
            manifest = store.read(set_id).manifest
            records = [r for r in manifest.artefacts if r.source == source] if manifest else []
            if records and restorer_of(record.kind for record in records).name == restorer.name:
                return SealedPart(lambda path, set_id=set_id: store.open(set_id, path), records)  # type: ignore[misc]
    return None
