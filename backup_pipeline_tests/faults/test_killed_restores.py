"""A restore or undo that is killed around its swap: the next command knows what became of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backup_pipeline.errors import LockError, RefusedError
from backup_pipeline.model.restore import RestoreOptions, RestoreResult
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.restore.records import results
from backup_pipeline.operations.restore.run import Confirmation, apply_restore, plan_restore
from backup_pipeline.operations.restore.undo import drop_kept, plan_undo, undo_restore
from backup_pipeline.postgres.server.databases import drop_database, read_properties, server_facts, sole_restore
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.sources.postgres import rebuild_and_swap
from backup_pipeline.sources.postgres import restore as database_restore
from backup_pipeline.system import file_swap
from backup_pipeline_tests.support.postgres_restore import ask, run, sealed_set
from backup_pipeline_tests.support.sites import TestSite, dsn

SETTINGS = """
store: backups
sources:
  shop: {kind: postgres, dsn_env: SHOP_URL}
  files: {kind: folder, path: files}
plans:
  nightly: {sources: [shop, files]}
"""


class RestoreCase:
    """A site with a database and a folder, one set of both, and a later state of both."""

    def __init__(self, test_site: TestSite, target: PostgresTarget, set_id: SetId) -> None:
        self.test_site, self.target, self.set_id = test_site, target, set_id

    def apply(self, source: str, into: str = "") -> RestoreResult:
        site, options = self.test_site.site, RestoreOptions(into=into)
        plan = plan_restore(site, "nightly", self.set_id, source, options)
        return apply_restore(
            site, "nightly", self.set_id, source, options, confirmation=Confirmation(plan.plan_id, plan.confirm)
        )

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
def case(tmp_path: Path, database: Callable[..., PostgresTarget]) -> Iterator[RestoreCase]:
    target = database()
    run(target, "create table t (what text); insert into t values ('saved')")
    site = TestSite(tmp_path)
    site.variables["SHOP_URL"] = dsn(target)
    site.write(SETTINGS)
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_text("saved")
    made = RestoreCase(site, target, sealed_set(site.site, "nightly"))
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


def test_killed_after_the_swap_of_a_database_it_can_be_undone(case: RestoreCase) -> None:
    killed(rebuild_and_swap, "swap_in", lambda: case.apply("shop"), after=True)
    assert (case.state(), case.sides()) == ("saved", ["before"])
    assert case.undoable()
    case.undo()
    assert (case.state(), case.sides()) == ("later", ["undone"])
    assert not case.undoable()


def test_killed_before_the_swap_there_is_nothing_to_undo(case: RestoreCase) -> None:
    killed(rebuild_and_swap, "swap_in", lambda: case.apply("shop"), after=False)
    assert (case.state(), case.sides()) == ("later", ["restore"])
    assert [result.swapping for result in results(case.test_site.site, "nightly", "shop")] == [True]
    assert not case.undoable()
    assert results(case.test_site.site, "nightly", "shop") == []


def test_what_a_restore_left_that_was_killed_before_its_swap_is_removed_by_the_next(
    case: RestoreCase,
) -> None:
    killed(rebuild_and_swap, "swap_in", lambda: case.apply("shop"), after=False)
    case.apply("shop")
    assert case.sides() == ["before"]
    assert [result.swapping for result in results(case.test_site.site, "nightly", "shop")] == [False]


def test_a_database_of_another_name_that_is_not_whole_says_so_and_is_made_again(case: RestoreCase) -> None:
    name = f"{case.target.database}__copy"
    copy = case.target.with_database(name)
    killed(rebuild_and_swap, "compare_database", lambda: case.apply("shop", into=name), after=False)
    assert (left := read_properties(copy)) is not None
    assert "not whole" in (left.comment or "")
    case.apply("shop", into=name)
    assert (made := read_properties(copy)) is not None
    assert made.comment is None
    assert ask(copy, "select what from t") == [("saved",)]
    with pytest.raises(RefusedError, match="exists already"):
        case.apply("shop", into=name)


@pytest.mark.parametrize("after", [False, True])
def test_an_undo_that_is_killed_before_or_after_its_swap_is_not_done_twice(case: RestoreCase, after: bool) -> None:
    case.apply("shop")
    killed(database_restore, "swap_back", case.undo, after=after)
    assert case.state() == ("later" if after else "saved")
    assert case.undoable() is not after
    if not after:
        case.undo()
        assert case.state() == "later"
    assert not case.undoable()


@pytest.mark.parametrize("after", [False, True])
def test_a_folders_restore_and_its_undo_are_known_after_being_killed(case: RestoreCase, after: bool) -> None:
    killed(file_swap, "replace_last", lambda: case.apply("files"), after=after)
    assert case.undoable("files"), "all that was missing is done"
    assert case.state("files") == "saved"
    killed(file_swap, "_undo_part", lambda: case.undo("files"), after=after)
    assert not case.undoable("files"), "an undo that has begun is finished"
    assert case.state("files") == "later"


def test_what_restores_keep_is_not_dropped_under_a_restore_that_runs(case: RestoreCase) -> None:
    with sole_restore(case.target), pytest.raises(LockError):
        drop_kept(case.test_site.site, "nightly", "shop", confirm=case.target.database)


def test_a_copy_with_a_subscription_is_removed_when_the_restore_fails(
    case: RestoreCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(
        case.target,
        "create subscription feed connection 'host=127.0.0.1 port=1 dbname=x' publication p"
        " with (connect = false, slot_name = none)",
    )
    try:
        case.set_id = sealed_set(case.test_site.site, "nightly")

        def fail(*_: object, **__: object) -> None:
            raise RefusedError("Injected.")

        monkeypatch.setattr(rebuild_and_swap, "swap_in", fail)
        with pytest.raises(RefusedError, match="Injected"):
            case.apply("shop")
        assert case.sides() == []
        assert results(case.test_site.site, "nightly", "shop") == []
        with pytest.raises(RefusedError, match="DROP SUBSCRIPTION"):
            drop_database(case.target)
    finally:
        run(case.target, "drop subscription feed")
