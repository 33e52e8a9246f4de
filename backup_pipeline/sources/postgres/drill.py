"""Drill of a PostgreSQL database: its dump loaded into a scratch server, compared with what the set recorded."""

from __future__ import annotations

from collections.abc import Sequence

from backup_pipeline.artefacts.drilling import DrillArea, DrillBeside, Drills, SealedPart
from backup_pipeline.artefacts.types import OpenFile, inspect
from backup_pipeline.errors import SettingsError
from backup_pipeline.model.drill_outcome import DrillOutcome
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord
from backup_pipeline.postgres.compare.scratch_restore import SECONDS_VARIABLE, DrillHooks, drill_database
from backup_pipeline.postgres.export.dump_content import DumpContent
from backup_pipeline.postgres.load.pool import default_jobs
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.rules.scratch_server import DRILL_VARIABLE
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.postgres.drill_exports import compare_exports
from backup_pipeline.sources.postgres.inspect import content_findings, is_archive
from backup_pipeline.sources.postgres.recorded import expectation_of, needs_of_dump, progress_of_dump
from backup_pipeline.sources.postgres.scratch_servers import ScratchServers


class DatabaseDrills(Drills):
    """The drills of one set's databases."""

    def __init__(self, area: DrillArea) -> None:
        self._area = area
        self._servers = ScratchServers(area)

    def drill(self, part: SealedPart, beside: DrillBeside | None) -> DrillOutcome:
        """Load the dump into a database of its own, compare rows, objects and exports, and remove it again."""
        kinds = {str(record.kind): record for record in part.records}
        dump = kinds[ArtefactKind.POSTGRES_DUMP]
        exports = [record for record in part.records if record.kind == ArtefactKind.TABLE_EXPORT]
        expected = expectation_of(part.open_file, dump, kinds.get(ArtefactKind.POSTGRES_ROLES))

        inspection = _Inspection(part.open_file, dump, exports)

        def more_checks(target: PostgresTarget) -> list[Finding]:
            if beside is not None:
                beside.compare_server(target)
            found = compare_exports(part.open_file, exports, target, jobs=self._area.options.jobs or default_jobs())
            inspection.compared = True
            return found

        place = self._servers.server(needs_of_dump(expected, dump))
        if place.target is None:
            return DrillOutcome(findings=inspection.findings(), missing_here=list(place.missing))
        outcome = drill_database(
            lambda: part.open_file(dump.files[0].path),
            expected,
            place.target,
            DrillHooks(self._area.options.before_comparison, more_checks, inspection.observe),
            seconds=_seconds(self._area.site),
            jobs=self._area.options.jobs,
            progress=progress_of_dump(self._area.progress, dump, expected),
        )
        outcome.findings += inspection.findings()
        outcome.skipped += [Finding(subject=DRILL_VARIABLE, problem=reported) for reported in place.warnings]
        outcome.details["scratch_server"] = place.label
        return outcome


class _Inspection:
    """The structure of a dump and its exports, inspected as a drill reads them; read here where it did not.

    Attributes:
        observe: takes the text of the dump as it is loaded; None where nobody asks for it.
        compared: set when all of it was loaded, and the exports were compared.
    """

    def __init__(self, open_file: OpenFile, dump: ArtefactRecord, exports: Sequence[ArtefactRecord]) -> None:
        self._open_file, self._dump, self._exports = open_file, dump, exports
        self._content = DumpContent()
        # Nothing is asked of an archive's text: restoring it inspects it.
        self.observe = None if is_archive(dump) else self._content.feed
        self.compared = False

    def findings(self) -> list[Finding]:
        """Return what is wrong with them."""
        if not self.compared:
            left = [*self._exports] if is_archive(self._dump) else [self._dump, *self._exports]
            return [finding for record in left for finding in inspect(self._open_file, record)]
        found = [] if is_archive(self._dump) else [*content_findings(self._open_file, self._dump, self._content)]
        for record in self._exports:
            others = tuple(file for file in record.files if not file.path.endswith(".parquet"))
            found += inspect(self._open_file, record.model_copy(update={"files": others})) if others else []
        return found


def _seconds(site: Site) -> float:
    """Return how long the drill of a database may take; 0 for as long as its size allows."""
    text = site.value(SECONDS_VARIABLE)
    try:
        return float(text) if text else 0
    except ValueError:
        raise SettingsError(
            "Not a number of seconds.", where=SECONDS_VARIABLE, remedy="Write 7200, or remove the variable."
        ) from None
