"""Workers that claim sources, stand still, are taken over from, come back and write: only the newest claim counts."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backup_pipeline.errors import LockError
from backup_pipeline.model.set_id import SetId
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.stores.claims import Claims
from backup_pipeline.stores.state import locks
from backup_pipeline.stores.state.database import StateDatabase
from backup_pipeline.stores.state.plan_store import SharedPlanStore
from backup_pipeline_tests.support.examples import examples
from backup_pipeline_tests.support.postgres_restore import ask

SET = SetId("2026-11-21T020000Z")
STEPS = st.lists(
    st.tuples(st.sampled_from(["claim", "stall", "write", "leave", "seal"]), st.integers(0, 2), st.integers(0, 1)),
    min_size=6,
    max_size=16,
)


def _document(generation: int) -> bytes:
    return zlib.compress(json.dumps({"generation": str(generation)}).encode())


class Worker:
    """A worker with a folder of its own; `generations` are those of the claims that it believes to have."""

    def __init__(self, number: int, folder: Path, database: StateDatabase) -> None:
        self.number = number
        vault: Any = None  # nothing is captured here
        self.store = SharedPlanStore(folder, "nightly", vault, database, file_mode=0o600, folder_mode=0o700)
        self.claims = Claims(self.store, "root")
        self.stacks: dict[int, ExitStack] = {}
        self.generations: dict[int, int] = {}

    def claim(self, source: int) -> None:
        stack = ExitStack()
        claim = stack.enter_context(self.claims.hold(SET, f"s{source}", purpose=f"of worker {self.number}"))
        self.stacks[source], self.generations[source] = stack, claim.generation

    def leave(self, source: int) -> None:
        self.stacks.pop(source).close()
        del self.generations[source]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@settings(
    max_examples=examples(15),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS)
# Worker 0 keeps the set open, but whoever asks takes the claim of worker 2 away; claiming another source asks as well.
@example([("claim", 0, 1), ("claim", 2, 0), ("stall", 2, 0), ("seal", 0, 0), ("write", 2, 0)])
@example([("claim", 2, 0), ("stall", 2, 0), ("claim", 0, 1), ("write", 2, 0)])
@example([("claim", 0, 0), ("stall", 0, 0), ("claim", 1, 1), ("leave", 1, 1), ("claim", 0, 1), ("claim", 2, 1)])
def test_whatever_happens_only_the_newest_claim_to_a_source_writes_it(
    database: Callable[..., PostgresTarget], folder: Path, monkeypatch: pytest.MonkeyPatch, steps: list[Any]
) -> None:
    # No heartbeat comes to the help of who is said to stand still.
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 3600.0)
    shared = StateDatabase(database())
    shared.write(f"nightly/{SET}", {"draft": _document(0)})
    workers = [Worker(number, folder / uuid4().hex, shared) for number in range(3)]
    newest: dict[int, int] = {}
    written: dict[int, int] = {}
    stalled: set[tuple[int, int]] = set()
    lost: set[tuple[int, int]] = set()
    sealed = False
    for what, number, source in steps:
        worker = workers[number]
        living = {one for one in range(3) if source in workers[one].stacks and (one, source) not in stalled}
        holder = next((w for w in workers if w.generations.get(source, 0) == newest.get(source, 0) > 0), None)
        if what == "claim" and source not in worker.stacks and not living and not sealed:
            if any(one == number for one, _ in lost):
                # Whoever has lost anything notes nothing, and no claim is left of it.
                with pytest.raises(LockError):
                    worker.claim(source)
            else:
                worker.claim(source)
                assert worker.generations[source] == newest.get(source, 0) + 1
                newest[source] = worker.generations[source]
                lost |= stalled
        elif what == "stall" and source in worker.stacks:
            name = f".claims/{SET}.s{source}.claim"
            if worker is holder:
                back = "update backup_pipeline.locks set beaten = beaten - interval '91 seconds'"
                ask(shared.target, f"{back} where name = '{name}' returning name")
            stalled.add((number, source))
        elif what == "write" and source in worker.stacks:
            held = {name: token for name, token in worker.store.coordination.held.items() if f".s{source}." in name}  # type: ignore[attr-defined]
            data = _document(worker.generations[source])
            if worker is holder and (number, source) not in lost:
                shared.write(f"nightly/{SET}", {f"source/s{source}": data}, held_in="nightly", held=held)
                written[source] = worker.generations[source]
            else:
                with pytest.raises(LockError):
                    shared.write(f"nightly/{SET}", {f"source/s{source}": data}, held_in="nightly", held=held)
        elif what == "leave" and source in worker.stacks:
            worker.leave(source)
            stalled.discard((number, source))
            lost.discard((number, source))
        elif what == "seal" and not sealed:
            # Asking takes the claims of those that stand still away: whoever comes back writes nothing.
            sealed = not worker.claims.busy(own=True)
            lost |= stalled
        found = shared.read(f"nightly/{SET}", ["source/s0", "source/s1"])
        assert {int(name[-1]): data for name, (_, data) in found.items()} == {
            source: _document(generation) for source, generation in written.items()
        }
    for worker in workers:
        for source in list(worker.stacks):
            worker.leave(source)
    assert ask(shared.target, "select name from backup_pipeline.locks") == []
