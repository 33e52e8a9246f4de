"""Rebuild of a database: built beside the live one, compared, and swapped in by rename.

Each step has its reverse until the swap has happened; then `undo` is the way back.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import datetime
from typing import BinaryIO

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.errors import ValidationError
from backup_pipeline.model.progress import Progress, ProgressSink
from backup_pipeline.model.restore import RestoreResult, Undo
from backup_pipeline.operations.backup.emergency import make_emergency_set
from backup_pipeline.operations.proof.drill import written_by
from backup_pipeline.operations.restore.records import forget_result, keep_result, results
from backup_pipeline.operations.restore.run import RestoreSource
from backup_pipeline.operations.restore.target_inspection import TargetInspection, jobs_of
from backup_pipeline.postgres.catalog.keycloak_schema import keycloak_state
from backup_pipeline.postgres.compare.comparison import REFUSED, compare_database
from backup_pipeline.postgres.compare.reparsed import reparsed_by
from backup_pipeline.postgres.load.rebuild import UNFINISHED, Rebuilt, drop_copy, rebuild_database
from backup_pipeline.postgres.server.databases import comment_on_database, create_roles, drop_roles
from backup_pipeline.postgres.server.swap import BEFORE, RESTORE, is_side_of, side_name, swap_in
from backup_pipeline.rules.skipped_statements import reported
from backup_pipeline.sources.postgres import keycloak


def begun_result(selection: RestoreSource, inspection: TargetInspection, now: datetime) -> RestoreResult:
    """Return the result of a restore that has just begun."""
    return RestoreResult(
        restore_id=f"{now:%Y-%m-%dT%H%M%SZ}-{selection.source}",
        plan_id=inspection.plan.plan_id,
        set_id=selection.set_id,
        plan=selection.plan_name,
        source=selection.source,
        kind="postgres",
        options=selection.options,
        target=inspection.target.label,
        restored=inspection.target.database,
        started_at=now,
        finished_at=now,
        warnings=inspection.plan.warnings,
    )


class Rebuild:
    """One rebuild, from the dump to the swap.

    Args:
        selection: set, source and options.
        inspection: of the target, with the plan that was confirmed.
        run_id: of the Dagster run, for the emergency set.
        progress: receives what is being done.
        now: names the new database and the one that is kept.
    """

    def __init__(
        self,
        selection: RestoreSource,
        inspection: TargetInspection,
        run_id: str,
        progress: ProgressSink,
        now: datetime,
    ) -> None:
        self._selection = selection
        self._inspection = inspection
        self._run_id = run_id
        self._progress = progress
        self._now = now
        self._swapping = not selection.options.into
        self._numbers: dict[str, float | int] = {}
        self._warnings: list[str] = []

    def run(self) -> RestoreResult:
        """Build, compare, capture what is there, swap.

        Raises:
            ValidationError: the new database differs from the backup; it was removed.
        """
        began = time.monotonic()
        self._remove_leftovers()
        target, databases = self._inspection.target, self._inspection.facts.databases
        name = side_name(target.database, RESTORE, self._now, databases) if self._swapping else target.database
        with ExitStack() as way_back:
            self._make_roles(way_back)
            done = self._build(name, way_back)
            self._compare(done)
            emergency = self._settle_and_capture(done)
            result = begun_result(self._selection, self._inspection, self._now)
            result = result.model_copy(update={"emergency_set": emergency})
            undo = self._put_in_place(result, name, way_back)
            way_back.pop_all()
        self._numbers["seconds"] = round(time.monotonic() - began, 3)
        self._progress(Progress("restore", done.data_bytes, done.data_bytes, finished=True))
        warnings = tuple(dict.fromkeys((*self._inspection.plan.warnings, *self._warnings)))
        return result.model_copy(
            update={"finished_at": utc_now(), "warnings": warnings, "numbers": self._numbers, "undo": undo}
        )

    def _open_dump(self) -> BinaryIO:
        return self._selection.open(self._inspection.dump.files[0].path)

    @property
    def _encoding(self) -> str:
        catalog = self._inspection.expected.catalog
        return catalog.encoding if catalog else ""

    def _remove_leftovers(self) -> None:
        """Remove what restores left that were killed while they built; the lock says that nobody builds here now."""
        selection, target = self._selection, self._inspection.target
        for left in sorted(self._inspection.facts.databases):
            if is_side_of(left, target.database, RESTORE):
                drop_copy(target.with_database(left))
                for known in results(selection.site, selection.plan_name, selection.source):
                    if known.swapping and known.restored == left:
                        forget_result(selection.site, known)
        if not self._swapping and self._inspection.properties is not None:
            drop_copy(target)  # the plan says so, and refuses any other

    def _make_roles(self, way_back: ExitStack) -> None:
        if self._selection.options.create_roles:
            target = self._inspection.target
            made = create_roles(target, self._inspection.plan.missing_roles)
            way_back.callback(drop_roles, target, made)
            self._warnings += [f"role {role} was made without login" for role in made]

    def _build(self, name: str, way_back: ExitStack) -> Rebuilt:
        inspection, options = self._inspection, self._selection.options
        catalog = inspection.expected.catalog
        done = rebuild_database(
            self._open_dump,
            inspection.target.with_database(name),
            written_by=written_by(inspection.dump),
            like=inspection.properties if self._swapping else None,
            comment="" if self._swapping else UNFINISHED,
            encoding=self._encoding,
            locale=catalog.locale if catalog else None,
            jobs=jobs_of(self._selection),
            careful=options.careful,
            search_path=inspection.expected.search_path,
            progress=self._progress,
        )
        way_back.callback(drop_copy, done.target)
        self._numbers["restore_seconds"] = round(done.seconds, 3)
        return done

    def _compare(self, done: Rebuilt) -> None:
        selection, inspection = self._selection, self._inspection
        comparison = compare_database(
            done.target,
            inspection.expected,
            skipped_lines=done.skipped_lines,
            jobs=jobs_of(selection),
            progress=self._progress,
            reparse=reparsed_by(
                inspection.target, self._open_dump, written_by=written_by(inspection.dump), encoding=self._encoding
            ),
        )
        user = inspection.facts.user
        self._warnings += reported(done.skipped_lines, user)
        if done.skipped_settings:
            names = ", ".join(done.skipped_settings)
            self._warnings.append(f"settings of the database left out, which {user} may not make: {names}")
        self._numbers |= {"compare_seconds": round(comparison.seconds, 3), "rows": comparison.rows}
        if comparison.findings:
            first = "; ".join(f"{f.subject} {f.problem}" for f in comparison.findings[:5])
            raise ValidationError(
                f"The rebuilt database differs from the backup in {len(comparison.findings)} things: {first}.",
                where=f"{selection.plan_name}/{selection.set_id} {selection.source}",
                remedy="What was live is untouched and the copy was removed. Drill the set; use another one.",
            )
        self._warnings += [f"{f.subject}: {f.problem}" for f in comparison.skipped if f.subject != REFUSED]

    def _settle_and_capture(self, done: Rebuilt) -> str:
        """Free Keycloak's lock in the new database, then capture the live one; return the emergency set's id."""
        state, settled = keycloak.settle(done.target)
        self._warnings += settled
        if not self._swapping or self._inspection.properties is None:
            return ""
        if state is not None:
            live = keycloak_state(self._inspection.target)
            if (warning := keycloak.version_warning(state, live)) is not None and warning:
                self._warnings.append(warning)
        if self._selection.options.skip_emergency_backup:
            return ""
        selection = self._selection
        return make_emergency_set(
            selection.site, selection.plan_name, selection.source, run_id=self._run_id, progress=self._progress
        )

    def _put_in_place(self, result: RestoreResult, name: str, way_back: ExitStack) -> Undo:
        inspection, selection, target = self._inspection, self._selection, self._inspection.target
        if not self._swapping:
            comment_on_database(target.with_database(name), None)
            return Undo(remedy=f"drop database {target.database} when it is not needed any more")
        there = inspection.properties is not None
        kept = side_name(target.database, BEFORE, self._now, inspection.facts.databases) if there else ""
        undo = Undo(kind="database", live=target.database, kept=kept)
        # Written first: a process that is killed from here on leaves a record, and `undo` finds the way back.
        before = result.model_copy(update={"restored": name, "undo": undo, "swapping": True})
        way_back.callback(forget_result, selection.site, before)
        keep_result(selection.site, before)
        began = time.monotonic()
        swap_in(target, name, kept)
        self._numbers["swap_seconds"] = round(time.monotonic() - began, 3)
        return undo
