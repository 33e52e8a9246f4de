"""Rebuild of a database: built beside the live one, compared, and swapped in by rename.

Each step has its reverse until the swap has happened; then `undo` is the way back.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import BinaryIO

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.artefacts.restorer import Application, RestoreSource
from backup_pipeline.errors import ValidationError
from backup_pipeline.model.progress import Progress
from backup_pipeline.model.restore import RestoreResult, Undo
from backup_pipeline.postgres.catalog.keycloak_schema import keycloak_state
from backup_pipeline.postgres.compare.comparison import REFUSED, compare_database
from backup_pipeline.postgres.compare.reparsed import reparsed_by
from backup_pipeline.postgres.load.rebuild import UNFINISHED, LoadOptions, Rebuilt, drop_copy, rebuild_database
from backup_pipeline.postgres.server.databases import comment_on_database, create_roles, drop_roles
from backup_pipeline.postgres.server.swap import BEFORE, RESTORE, is_side_of, side_name, swap_in
from backup_pipeline.rules.skipped_statements import reported
from backup_pipeline.sources.postgres import keycloak
from backup_pipeline.sources.postgres.recorded import progress_of_dump
from backup_pipeline.sources.postgres.target_inspection import TargetInspection, begun_result, jobs_of


class Rebuild:
    """One rebuild, from the dump to the swap.

    Args:
        selection: set, source and options.
        inspection: of the target, with the plan that was confirmed.
        application: of that plan.
    """

    def __init__(self, selection: RestoreSource, inspection: TargetInspection, application: Application) -> None:
        self._selection = selection
        self._inspection = inspection
        self._journal = application.journal
        self._progress = progress_of_dump(application.progress, inspection.dump, inspection.expected)
        self._now = application.now
        self._begun = begun_result(selection, inspection, application)
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
            result = self._begun.model_copy(update={"emergency_set": emergency})
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

    def _remove_leftovers(self) -> None:
        """Remove what restores left that were killed while they built; the lock says that nobody builds here now."""
        target = self._inspection.target
        for left in sorted(self._inspection.facts.databases):
            if is_side_of(left, target.database, RESTORE):
                drop_copy(target.with_database(left))
                for known in self._journal.earlier():
                    if known.swapping and known.restored == left:
                        self._journal.forget(known)
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
        done = rebuild_database(
            self._open_dump,
            inspection.target.with_database(name),
            inspection.expected.origin,
            LoadOptions(jobs=jobs_of(self._selection), careful=options.careful),
            like=inspection.properties if self._swapping else None,
            comment="" if self._swapping else UNFINISHED,
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
            reparse=reparsed_by(inspection.target, self._open_dump, inspection.expected.origin),
        )
        user = inspection.facts.user
        self._warnings += reported(done.skipped_lines, user)
        if done.skipped_settings:
            names = ", ".join(done.skipped_settings)
            self._warnings.append(f"settings of the database skipped, which {user} may not make: {names}")
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
        return self._journal.emergency_set()

    def _put_in_place(self, result: RestoreResult, name: str, way_back: ExitStack) -> Undo:
        inspection, target = self._inspection, self._inspection.target
        if not self._swapping:
            comment_on_database(target.with_database(name), None)
            return Undo(remedy=f"drop database {target.database} when it is not needed any more")
        there = inspection.properties is not None
        kept = side_name(target.database, BEFORE, self._now, inspection.facts.databases) if there else ""
        undo = Undo(kind="database", live=target.database, kept=kept)
        # Written first: a process that is killed from here on leaves a record, and `undo` finds the way back.
        before = result.model_copy(update={"restored": name, "undo": undo, "swapping": True})
        way_back.callback(self._journal.forget, before)
        self._journal.keep(before)
        began = time.monotonic()
        swap_in(target, name, kept)
        self._numbers["swap_seconds"] = round(time.monotonic() - began, 3)
        return undo
