"""The list of sets with their proofs, for `list`, `show` and `status`. Reads only, and little.

Figures and texts come from manifests, records and proofs; no artefact is opened. Formatting is the command's work.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from backup_pipeline.errors import SetNotFoundError
from backup_pipeline.model.backup_set import BackupSet, SetState
from backup_pipeline.model.indexed_set import KnownSet
from backup_pipeline.model.proof import Finding, ProofKind
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.sites.stores import open_sets, open_store, resolve_set, split_place
from backup_pipeline.operations.status.present_files import as_text, files_not_there
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.claims import writing
from backup_pipeline.stores.contract import PlanStore

RUNNING = "running"
# Of so many newest sets the files are checked: a store may have thousands of sets.
_INSPECTED = 100


@dataclass(frozen=True)
class ListedSet:
    """One set of a plan: what the store says of it, whether it is being written, and which of its files are gone."""

    known: KnownSet
    running: bool = False
    missing: str = ""
    vault: str = ""

    @property
    def name(self) -> str:
        """`PLAN/SET`; `VAULT:PLAN/SET` for a copy."""
        return f"{f'{self.vault}:' if self.vault else ''}{self.known.plan}/{self.known.set_id}"

    @property
    def state(self) -> str:
        """complete, incomplete, damaged, or running."""
        return RUNNING if self.running else SetState.DAMAGED.value if self.missing else self.known.state.value

    @property
    def verified(self) -> bool:
        """Whether its newest verification passed, and its files are still there."""
        return self.known.verified and not self.missing

    @property
    def proven(self) -> bool:
        """Whether its newest drill passed, nothing was found since, and its files are still there."""
        return self.known.proven and not self.missing

    @property
    def restored(self) -> bool:
        """Whether an imported set was restored and counted by its newest drill, and its files are still there."""
        return self.known.restored and not self.missing

    @property
    def imported(self) -> bool:
        """Whether something in it was imported."""
        return any("imported" in facts for facts in self.known.facts.values())

    @property
    def partial(self) -> bool:
        """Whether it has fewer sources than its plan."""
        return self.known.partial

    @property
    def rows(self) -> int:
        """Rows of all table exports, and of imported dumps."""
        return self.known.rows

    @property
    def checks(self) -> tuple[int, int]:
        """How many checks passed, and how many did not."""
        return self.known.checks

    @property
    def broken_data(self) -> tuple[str, ...]:
        """What of its data was broken where it came from."""
        return self.known.broken_data

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person must know: failures with their artefact, damage, a kind of its own."""
        notes = [f"{'.'.join(failure.key)}: {failure.what}" for failure in self.known.failures]
        notes += [f"broken data, held as it was: {broken}" for broken in self.known.broken_data]
        if self.missing:
            notes.append(f"not whole any more: {self.missing}")
        if self.known.problem:
            notes.append(self.known.problem)
        if self.known.state is SetState.INCOMPLETE and not self.known.failures and not self.running:
            notes.append("ended before the seal")
        for kind in ProofKind:
            last = self.known.last_proof(kind)
            if last and not last.passed:
                notes.append(f"{kind.value} failed: {_first(last.findings)}")
        if tried := self.known.not_drilled_here:
            notes.append(f"could not be drilled here, which says nothing against the set: {_first(tried.missing_here)}")
        if self.known.damaged_proofs:
            notes.append("a file in proofs/ was changed: verify and drill the set again")
        return tuple(notes)

    def as_dict(self, now: datetime) -> dict[str, object]:
        """Return the set for `--json`: figures and times, no artefacts."""
        passed, failed = self.known.checks
        tried = self.known.not_drilled_here
        return {
            **({"vault": self.vault} if self.vault else {}),
            "plan": self.known.plan,
            "set": self.known.set_id,
            "state": self.state,
            "purpose": self.known.purpose.value,
            "partial": self.known.partial,
            "environment": self.known.environment,
            "started_at": self.known.started_at.isoformat(),
            "sealed_at": self.known.sealed_at.isoformat() if self.known.sealed_at else None,
            "age_seconds": int((now - self.known.started_at).total_seconds()),
            "size": self.known.size,
            "rows": self.known.rows,
            "artefacts": self.known.artefacts,
            "checks": {"passed": passed, "failed": failed},
            "broken_data": list(self.known.broken_data),
            "facts": self.known.facts,
            "verified": self.verified,
            "verified_at": _passed_at(self.known, ProofKind.VERIFICATION),
            "proven": self.proven,
            "imported": self.imported,
            "restored": self.restored,
            "proven_at": _passed_at(self.known, ProofKind.DRILL),
            "missing_for_a_drill": [finding.model_dump() for finding in (tried.missing_here if tried else ())],
            "failures": [
                {"artefact": ".".join(f.key), "what": f.what, "remedy": f.remedy} for f in self.known.failures
            ],
            "notes": list(self.notes),
        }


def _passed_at(known: KnownSet, kind: ProofKind) -> str | None:
    last = known.last_proof(kind)
    return last.finished_at.isoformat() if last and last.passed else None


def _first(found: Sequence[Finding]) -> str:
    if not found:
        return "no finding recorded"
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{found[0].subject}: {found[0].problem}{more}"


@dataclass(frozen=True)
class ShownSet(ListedSet):
    """One set with all that is recorded of it."""

    known: BackupSet


def list_plan(site: Site, plan: str, *, from_files: bool = False) -> Iterator[ListedSet]:
    """Yield every set of a plan, oldest first; unsealed ones are running while somebody holds the plan's lock.

    Args:
        site: the site.
        plan: the plan; `VAULT:PLAN` for its copies in a vault, of which only what they say of themselves is read.
        from_files: read every set's files, whatever the index of the store holds: for what is signed.
    """
    vault, _ = split_place(plan)
    if vault:
        yield from (ListedSet(known, vault=vault) for known in open_sets(site, plan).sets())
        return
    store = open_store(site, plan)
    held = writing(store) is not None
    ids = store.ids()
    newest, inspected = ids[-1:], set(ids[-_INSPECTED:])
    for known in store.sets() if from_files else store.listed_sets():
        # The holder writes one set: the newest, unless it completes an older one, which then counts as incomplete here.
        running = held and known.state is SetState.INCOMPLETE and (known.set_id,) == newest
        missing = as_text(files_not_there(store, known)) if known.set_id in inspected else ""
        yield ListedSet(known, running, missing)


def show_set(site: Site, name: str) -> ShownSet:
    """Return the set that a name means (see `resolve_set`)."""
    plan, set_id = resolve_set(site, name)
    vault, _ = split_place(plan)
    if vault:
        return ShownSet(open_sets(site, plan).read(set_id), vault=vault)
    store = open_store(site, plan)
    return _shown(store, set_id, store.ids()[-1:])


def show_sets(site: Site, plan: str, ids: Sequence[SetId]) -> Iterator[ShownSet]:
    """Yield some sets of a plan's store; one that retention removes meanwhile is passed over.

    Args:
        site: the site.
        plan: the plan.
        ids: the sets.
    """
    store = open_store(site, plan)
    newest = store.ids()[-1:]
    for set_id in ids:
        with contextlib.suppress(SetNotFoundError):
            yield _shown(store, set_id, newest)


def _shown(store: PlanStore, set_id: SetId, newest: Sequence[SetId]) -> ShownSet:
    known = store.read(set_id)
    held = writing(store) is not None
    running = held and known.state is SetState.INCOMPLETE and set_id in newest
    return ShownSet(known, running, as_text(files_not_there(store, known)))


def artefact_dict(record: ArtefactRecord) -> dict[str, object]:
    """Return one artefact for `show --json`."""
    return {
        "artefact": record.name,
        "source": record.source,
        "kind": str(record.kind),
        "from": record.source_label,
        "server_version": record.server_version,
        "tool": record.tool.model_dump(mode="json") if record.tool else None,
        "size": record.size,
        "rows": record.rows,
        "fingerprint": record.fingerprint.model_dump(mode="json") if record.fingerprint else None,
        "seconds": (record.finished_at - record.started_at).total_seconds(),
        "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in record.files],
        "facts": record.facts,
        "checks": [
            {
                "name": c.name,
                "passed": c.passed,
                "severity": c.severity.value,
                "summary": c.summary,
                # Of a check that holds the rows would say nothing but that.
                "table": [] if c.passed else list(c.table),
            }
            for c in record.checks
        ],
    }
