"""Claims: which process captures which source, where several write to one unsealed set at once.

A claim is a lock beside the sets, `.claims/<set>.<source>.claim`, refreshed by its holder. A holder that is gone, or
whose heartbeat did not change for as long as a lease, loses it to the next who claims the source. Each claim has a
generation, one more than the last. Who was cut off and comes back finds its claim gone, or another's, and writes
nothing more: every write asks right before it counts. Notes of what a run did once lie beside the claims. Which sets
exist is not known here.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from backup_pipeline.model.set_id import SetId
from backup_pipeline.stores.contract import LOCK_NAME, PlanStore
from backup_pipeline.system.files import PART_SUFFIX
from backup_pipeline.system.locks import Holder

_FOLDER = ".claims/"
_CLAIM = ".claim"
_GENERATION = "generation"
_PART = re.compile(rf"\..*\.claim-([0-9a-f]{{8}}){re.escape(PART_SUFFIX)}")


@dataclass(frozen=True)
class Claim:
    """One process's right to capture one source into one set.

    Attributes:
        generation: how many claims to this source the set has had, this one included.
        tag: stands in the names of files that its holder has not completed.
    """

    generation: int
    tag: str


class Claims:
    """The claims to the sources of a plan's unsealed sets.

    Args:
        store: the plan's.
        owner: the run whose processes share a set: for the others a living claim means that the plan is busy.
    """

    def __init__(self, store: PlanStore, owner: str) -> None:
        self._store = store
        self._owner = owner

    def busy(self, *, own: bool) -> list[Holder | None]:
        """Return who has a living claim, of other runs and, with `own`, of this one; None for an unreadable one."""
        living = self._store.coordination.living(_FOLDER, _CLAIM, owner=self._owner)
        return [one for one in living if own or one is None or one.owner != self._owner]

    @contextlib.contextmanager
    def hold(
        self, set_id: SetId, source: str, *, purpose: str, on_wait: Callable[[Holder], None] | None = None
    ) -> Iterator[Claim]:
        """Have a claim to a source while the block runs; waits for another process of the run that has it.

        Raises:
            LockError: it was lost before it could be noted.
            StoreError: it cannot be written.
        """
        name = f"{_FOLDER}{set_id}.{source}{_CLAIM}"
        with self._store.coordination.hold(
            name, purpose=purpose, owner=self._owner, on_wait=on_wait, leased=True
        ) as holder:
            claim = Claim(self.next_generation(set_id, source), f"claim-{holder.token[:8]}")
            self._remove_parts(set_id)
            yield claim

    def next_generation(self, set_id: SetId, source: str) -> int:
        """Note that a source is captured anew, and return the generation."""
        number = self.generation(set_id, source) + 1
        self._store.coordination.write(f"{_FOLDER}{set_id}.{source}.{_GENERATION}", b"%d\n" % number)
        return number

    def generation(self, set_id: SetId, source: str) -> int:
        """Return the generation of the newest claim to a source; 0 where there was none."""
        data = self._store.coordination.read(f"{_FOLDER}{set_id}.{source}.{_GENERATION}") or b""
        return int(data) if data.strip().isdigit() else 0

    def _remove_parts(self, set_id: SetId) -> None:
        """Remove what holders of claims that are lost have not completed; their disk space is needed again."""
        living = self.busy(own=True)
        if None in living:
            return
        tags = {holder.token[:8] for holder in living if holder is not None}
        for part in self._store.path_of(set_id).rglob(f".*{PART_SUFFIX}"):
            if (found := _PART.fullmatch(part.name)) and found[1] not in tags:
                part.unlink(missing_ok=True)

    def note(self, set_id: SetId, name: str, data: bytes) -> bool:
        """Note something of a set unless it is noted already; return whether this call did."""
        if self.noted(set_id, name) is not None:
            return False
        self._store.coordination.write(f"{_FOLDER}{set_id}.{name}", data)
        return True

    def noted(self, set_id: SetId, name: str) -> bytes | None:
        """Return what is noted of a set; None when nothing is."""
        return self._store.coordination.read(f"{_FOLDER}{set_id}.{name}")

    def unnote(self, set_id: SetId, name: str) -> bool:
        """Remove a note; return whether there was one."""
        return self._store.coordination.remove(f"{_FOLDER}{set_id}.{name}")

    def forget(self, set_id: SetId) -> None:
        """Remove what is kept for a set that is sealed, and for sets that are no more."""
        if not (names := self._store.coordination.names(_FOLDER)):
            return
        there = {*self._store.ids()} - {set_id}
        for name in names:
            if name.removeprefix(_FOLDER).partition(".")[0] not in there:
                self._store.coordination.remove(name)


def writing(store: PlanStore) -> Holder | None:
    """Return a living process that writes to a plan's store, or removes from it; None when none does."""
    holders = [*store.coordination.living("", LOCK_NAME), *Claims(store, "").busy(own=True)]
    return next((one for one in holders if one is not None), None)
