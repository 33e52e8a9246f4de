"""A restore or undo that is killed around its swap: the next command knows what became of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backup_pipeline.errors import LockError, RefusedError
from backup_pipeline.model.restore import RestoreOptions, RestoreResult
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.restore import database as restore_database
from backup_pipeline.operations.restore.records import results
from backup_pipeline.operations.restore.run import apply_restore, plan_restore
from backup_pipeline.operations.restore.undo import drop_kept, plan_undo, undo_restore
from backup_pipeline.postgres.server import swap
from backup_pipeline.postgres.server.databases import drop_database, read_properties, server_facts, sole_restore
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.system import file_swap
from backup_pipeline_tests.postgres.restoring import ask, run, sealed_set
from backup_pipeline_tests.sites import TestSite, dsn

SETTINGS = """
store: backups
sources:
  shop: {kind: postgres, dsn_env: SHOP_URL}
  files: {kind: folder, path: files}
plans:
  nightly: {sources: [shop, files]}
"""


class TargetInspection:
    """A site with a database and a folder, one set of both, and a later state of both."""

    def __init__(self, test_site: TestSite, target: PostgresTarget, set_id: SetId) -> None:
        self.test_site, self.target, self.set_id = test_site, target, set_id

    def apply(self, source: str, into: str = "") -> RestoreResult:
        site, options = self.test_site.site, RestoreOptions(into=into)
        plan = plan_restore(site, "nightly", self.set_id, source, options)
        return apply_restore(
            site, "nightly", self.set_id, source, options, plan_id=plan.plan_id, confirm=plan.confirm
        )  # fmt: skip

    def undo(self, source: str = "shop") -> None:
        undo_restore(self.test_site.site, "nightly", source, confirm=self.confirm(source))

    def confirm(self, source: str) -> str:
        return self.target.database if source == "shop" else "files"

    def undoable(self, source: str = "shop") -> bool:
        try:
            plan_undo(self.test_site.site, "nightly", source)
        except RefusedError:
            return False
        return True

    def state(self, source: str = "shop") -> str:
        if source == "shop":
            return str(ask(self.target, "select what from t")[0][0])
        return (self.test_site.folder / "files/a").read_text()

    def sides(self) -> list[str]:
        names = server_facts(self.target).databases
        return sorted(n.split("__")[1].split("_")[0] for n in names if n.startswith(f"{self.target.database}__"))


@pytest.fixture
def inspection(tmp_path: Path, database: Callable[..., PostgresTarget]) -> Iterator[TargetInspection]:
    target = database()
    run(target, "create table t (what text); insert into t values ('saved')")
    site = TestSite(tmp_path)
    site.variables["SHOP_URL"] = dsn(target)
    site.write(SETTINGS)
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_text("saved")
    made = TargetInspection(site, target, sealed_set(site.site, "nightly"))
    run(target, "update t set what = 'later'")
    (tmp_path / "files/a").write_text("later")
    yield made
    for name in server_facts(target).databases:
        if name.startswith(f"{target.database}__"):
            drop_database(target.with_database(name))


def killed(module: object, step: str, work: Callable[[], object], *, after: bool) -> None:
    """Do the work in a process that dies, without any cleaning up, before or after this step of it."""
    pid = os.fork()
    if pid == 0:
        real = getattr(module, step)

        def dies(*arguments: object, **named: object) -> None:
            if after:
                real(*arguments, **named)
            os._exit(9)

        setattr(module, step, dies)
        try:
            work()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def test_killed_after_the_swap_of_a_database_it_can_be_undone(inspection: TargetInspection) -> None:
    killed(restore_database, "swap_in", lambda: inspection.apply("shop"), after=True)
    assert (inspection.state(), inspection.sides()) == ("saved", ["before"])
    assert inspection.undoable()
    inspection.undo()
    assert (inspection.state(), inspection.sides()) == ("later", ["undone"])
    assert not inspection.undoable()


def test_killed_before_the_swap_there_is_nothing_to_undo(inspection: TargetInspection) -> None:
    killed(restore_database, "swap_in", lambda: inspection.apply("shop"), after=False)
    assert (inspection.state(), inspection.sides()) == ("later", ["restore"])
    assert [result.swapping for result in results(inspection.test_site.site, "nightly", "shop")] == [True]
    assert not inspection.undoable()
    assert results(inspection.test_site.site, "nightly", "shop") == []


def test_what_a_restore_left_that_was_killed_before_its_swap_is_removed_by_the_next(
    inspection: TargetInspection,
) -> None:
    killed(restore_database, "swap_in", lambda: inspection.apply("shop"), after=False)
    inspection.apply("shop")
    assert inspection.sides() == ["before"]
    assert [result.swapping for result in results(inspection.test_site.site, "nightly", "shop")] == [False]


def test_a_database_of_another_name_that_is_not_whole_says_so_and_is_made_again(inspection: TargetInspection) -> None:
    name = f"{inspection.target.database}__copy"
    copy = inspection.target.with_database(name)
    killed(restore_database, "compare_database", lambda: inspection.apply("shop", into=name), after=False)
    assert (left := read_properties(copy)) is not None
    assert "not whole" in (left.comment or "")
    inspection.apply("shop", into=name)
    assert (made := read_properties(copy)) is not None
    assert made.comment is None
    assert ask(copy, "select what from t") == [("saved",)]
    with pytest.raises(RefusedError, match="exists already"):
        inspection.apply("shop", into=name)


@pytest.mark.parametrize("after", [False, True])
def test_an_undo_that_is_killed_before_or_after_its_swap_is_not_done_twice(
    inspection: TargetInspection, after: bool
) -> None:
    inspection.apply("shop")
    killed(swap, "swap_back", inspection.undo, after=after)
    assert inspection.state() == ("later" if after else "saved")
    assert inspection.undoable() is not after
    if not after:
        inspection.undo()
        assert inspection.state() == "later"
    assert not inspection.undoable()


@pytest.mark.parametrize("after", [False, True])
def test_a_folders_restore_and_its_undo_are_known_after_being_killed(inspection: TargetInspection, after: bool) -> None:
    killed(file_swap, "replace_last", lambda: inspection.apply("files"), after=after)
    assert inspection.undoable("files"), "all that was missing is done"
    assert inspection.state("files") == "saved"
    killed(file_swap, "_undo_part", lambda: inspection.undo("files"), after=after)
    assert not inspection.undoable("files"), "an undo that has begun is finished"
    assert inspection.state("files") == "later"


def test_what_restores_keep_is_not_dropped_under_a_restore_that_runs(inspection: TargetInspection) -> None:
    with sole_restore(inspection.target), pytest.raises(LockError):
        drop_kept(inspection.test_site.site, "nightly", "shop", confirm=inspection.target.database)


def test_a_copy_with_a_subscription_is_removed_when_the_restore_fails(
    inspection: TargetInspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(inspection.target, "create subscription feed connection 'host=127.0.0.1 port=1 dbname=x' publication p"
                      " with (connect = false, slot_name = none)")  # fmt: skip
    try:
        inspection.set_id = sealed_set(inspection.test_site.site, "nightly")

        def fail(*_: object, **__: object) -> None:
            raise RefusedError("Injected.")

        monkeypatch.setattr(restore_database, "swap_in", fail)
        with pytest.raises(RefusedError, match="Injected"):
            inspection.apply("shop")
        assert inspection.sides() == []
        assert results(inspection.test_site.site, "nightly", "shop") == []
        with pytest.raises(RefusedError, match="DROP SUBSCRIPTION"):
            drop_database(inspection.target)
    finally:
        run(inspection.target, "drop subscription feed")
