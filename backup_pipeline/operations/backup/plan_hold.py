"""How a run's process holds its plan: alone from first to last, or beside the run's other processes, source by source.

Alone (all steps of the run in one process) the plan's lock is held all the time. Beside others it is held while the set
is opened and while it is sealed; in between each process has a claim to the source that it captures, and what the run
did once is noted beside the claims. What a capture does is not known here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack

from pydantic import TypeAdapter

from backup_pipeline.errors import LockError, RefusedError, StoreError
from backup_pipeline.model.command_record import CommandRecord
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.sites.stores import plan_lock
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.claims import Claims
from backup_pipeline.stores.contract import PlanStore, SetWriter
from backup_pipeline.system.locks import Holder

_COMMANDS = "commands"
_RECORDS = TypeAdapter(tuple[CommandRecord, ...])


class PlanHold:
    """See the module.

    Args:
        site: the site.
        store: the plan's store.
        root_run_id: the run that began the set; its re-executions complete it.
        purpose: shown to others who wait.
        beside: whether the run's sources are captured by several processes.
        on_wait: called with who is waited for.
    """

    def __init__(
        self,
        site: Site,
        store: PlanStore,
        root_run_id: str,
        *,
        purpose: str,
        beside: bool,
        on_wait: Callable[[Holder], None],
    ) -> None:
        self._site = site
        self._store = store
        self._owner = root_run_id
        self._purpose = purpose
        self.beside = beside
        self._on_wait = on_wait
        self._claims = Claims(store, root_run_id)

    def _lock(self, *, beside: bool) -> AbstractContextManager[Holder]:
        return plan_lock(
            self._site, self._store, self._purpose, owner=self._owner, beside=beside, on_wait=self._on_wait
        )

    @contextlib.contextmanager
    def opening(self, whole_run: ExitStack) -> Iterator[None]:
        """Hold the plan while its set is begun or reopened; alone, until `whole_run` ends."""
        if self.beside:
            with self._lock(beside=True):
                yield
        else:
            whole_run.enter_context(self._lock(beside=False))
            yield

    @contextlib.contextmanager
    def claim(self, writer: SetWriter, source: str) -> Iterator[int]:
        """Have a source of the set to oneself for the block; gives the generation of the claim, 0 where none was.

        Raises:
            LockError: the claim was lost again at once.
            StoreError: the set was sealed or removed meanwhile.
        """
        set_id = writer.draft.set_id
        if not self.beside:
            # What a process had claimed that was cut off since: it must not pass for this capture.
            yield self._claims.next_generation(set_id, source) if self._claims.generation(set_id, source) else 0
            return
        purpose = f"{source} of {self._store.plan}/{set_id}"
        with self._claims.hold(set_id, source, purpose=purpose, on_wait=self._on_wait) as claim:
            # Whoever seals waits for claims first, and then holds the lock: one of both gives way.
            with self._lock(beside=True):
                # No more than this under the lock, for which the run's other processes wait.
                if set_id not in self._store.ids() or set_id in self._store.sealed_ids():
                    raise StoreError(
                        "The set was sealed or removed meanwhile.",
                        where=f"{self._store.plan}/{set_id}",
                        remedy="Start a new backup.",
                    )
            writer.claimed(claim.tag)
            yield claim.generation

    @contextlib.contextmanager
    def sealing(self, writer: SetWriter) -> Iterator[SetWriter]:
        """Hold the plan for the seal, when nobody captures a source of its sets any more; gives the writer that seals.

        Raises:
            RefusedError: a source was captured under a claim that is not the newest one.
        """
        set_id = writer.draft.set_id
        with contextlib.ExitStack() as stack:
            if self.beside:
                stack.enter_context(self._lock(beside=False))
                writer = self._store.reopen(set_id)
            for done in writer.sources_done():
                if done.generation != (newest := self._claims.generation(set_id, done.source)):
                    raise RefusedError(
                        f"{done.source} was captured under claim {done.generation}, and claim {newest} is the newest.",
                        where=f"{self._store.plan}/{set_id}",
                        remedy="Re-execute the run from failure: it captures this source again.",
                    )
            yield writer
            self._claims.forget(set_id)

    def is_open(self, set_id: SetId, run_id: str) -> bool:
        """Return whether a process of the run has opened the set, and done all that is done once."""
        return self._claims.noted(set_id, f"open-{run_id}") is not None

    def note_open(self, set_id: SetId, run_id: str) -> None:
        """Spare the run's other processes the lock for opening the set."""
        self._claims.note(set_id, f"open-{run_id}", b"")

    def is_first(self, set_id: SetId, run_id: str) -> bool:
        """Return whether this is the run's first process to open the set; asked while it is opened."""
        return self._claims.note(set_id, f"run-{run_id}", b"")

    def owed_commands(self, set_id: SetId) -> list[CommandRecord] | None:
        """Return what the commands before a set's captures did, while those after are owed; None when they are not."""
        data = self._claims.noted(set_id, _COMMANDS)
        return None if data is None else list(_RECORDS.validate_json(data))

    def owe_commands(self, set_id: SetId, records: Sequence[CommandRecord]) -> None:
        """Note that the commands after the captures are owed, and what those before did."""
        self._claims.unnote(set_id, _COMMANDS)
        self._claims.note(set_id, _COMMANDS, _RECORDS.dump_json(tuple(records)))

    def settle_commands(self, set_id: SetId, *, unless_claimed: bool = False) -> bool:
        """Return whether this process is to run the commands that are owed; nobody else does then.

        Args:
            set_id: the set.
            unless_claimed: not while other processes capture sources of it.
        """
        try:
            with self._lock(beside=True) if unless_claimed else contextlib.nullcontext():
                return not (unless_claimed and self._claims.busy(own=True)) and self._claims.unnote(set_id, _COMMANDS)
        except LockError:
            return False
