"""Verifying a sealed set: every file is read again and compared with the manifest, then its structure is inspected.

The manifest itself is held to account by the records written beside it and by its checksum. What was found is stored
with the set. Restoring, which proves more, is `drill`'s work.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from pydantic import ValidationError as PydanticError

from backup_pipeline.artefacts.capture import utc_now
from backup_pipeline.artefacts.time_limits import within_the_plans_limit
from backup_pipeline.artefacts.types import inspect
from backup_pipeline.errors import BackupSystemError, RefusedError, SettingsError, StoreError
from backup_pipeline.model.backup_set import BackupSet, SetState
from backup_pipeline.model.manifest import CHECKSUM_NAME, MANIFEST_NAME, Manifest
from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.model.proof import PROOFS_FOLDER, Finding, Proof, ProofKind
from backup_pipeline.model.record import ArtefactRecord, FileRecord
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.retention.in_use import reading
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.rules.verification import RECORDS_FOLDER, extra_files, file_problem, record_disagreements
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.contract import Store
from backup_pipeline.system.files import sha256_of
from backup_pipeline.system.threads import ContextThreadPool

# Hashing and decompression release the interpreter's lock; more threads than cores only fight for the disk.
_READERS = max(2, min(4, os.cpu_count() or 2))
# What a verification from a vault keeps for its second reading: a set up to this size comes down once.
_KEPT = 1 << 30
_DAMAGED = "Do not restore from this set without need; make a new backup and check the disk."


@within_the_plans_limit("The verification")
def verify_set(
    site: Site,
    plan_name: str,
    set_id: SetId,
    *,
    run_id: str = "",
    progress: ProgressSink = no_progress,
    now: Callable[[], datetime] = utc_now,
) -> Proof:
    """Verify one set and store the result with it.

    Args:
        site: the site.
        plan_name: the plan, or `VAULT:PLAN`.
        set_id: a sealed set, or one whose manifest is damaged.
        run_id: the Dagster run, for the result.
        progress: receives the bytes read.
        now: the clock.

    Returns:
        The result; `passed` is False when anything was found.

    Raises:
        SetNotFoundError: no such set. RefusedError: the set was never sealed.
    """
    with reading(site, plan_name, set_id, "verification", proves=True, keep_bytes=_KEPT) as store:
        proof = verification_of(store, set_id, run_id=run_id, progress=progress, now=now)
        keep_proof(store, proof)
    return proof


def keep_proof(store: Store, proof: Proof) -> None:
    """Store a result with its set.

    Raises:
        BackupSystemError: the place of the set could not be read to the end; nothing is stored then, for such a result
            says nothing of the set.
        StoreError: that is not possible; says what was found, so that the work was not for nothing.
    """
    if (trouble := store.trouble()) is not None:
        raise trouble
    try:
        store.add_proof(proof.set_id, proof)
    except StoreError as error:
        found = "; ".join(f"{finding.subject}: {finding.problem}" for finding in proof.findings[:3])
        more = f" and {len(proof.findings) - 3} more" if len(proof.findings) > 3 else ""
        raise StoreError(
            f"The result of the {proof.kind} cannot be kept with the set: {error.what} "
            f"It was: {found + more if found else 'nothing found'}.",
            where=error.where,
            remedy=error.remedy,
        ) from error


def verify_all(
    site: Site,
    plans: Sequence[str] = (),
    *,
    run_id: str = "",
    progress: ProgressSink = no_progress,
    now: Callable[[], datetime] = utc_now,
) -> Iterator[Proof]:
    """Verify every sealed or damaged set of the plans (all plans by default), oldest first, yielding each result.

    Raises:
        SettingsError: a plan's sets are in a vault and no identity is named; those of the others are verified before.
    """
    refused: SettingsError | None = None
    for plan_name in plans or tuple(site.settings.plans):
        store = open_store(site, plan_name)
        for known in store.sets():
            if known.state is SetState.INCOMPLETE:
                continue
            try:
                yield verify_set(site, plan_name, known.set_id, run_id=run_id, progress=progress, now=now)
            except SettingsError as error:
                refused = error
                break
    if refused is not None:
        raise refused


def verification_of(
    store: Store,
    set_id: SetId,
    *,
    run_id: str = "",
    progress: ProgressSink = no_progress,
    now: Callable[[], datetime] = utc_now,
    inspected_later: Callable[[ArtefactRecord], bool] = lambda _: False,
) -> Proof:
    """Return the result of verifying a set, without storing it. See `verify_set`.

    Artefacts that are `inspected_later` are read and compared with the manifest, and their structure is left.
    """
    started = now()
    known = store.read(set_id)
    if known.state is SetState.INCOMPLETE:
        raise RefusedError(
            "The set was never sealed, so there is no manifest to verify it against.",
            where=f"{known.plan}/{set_id}",
            remedy=f"Complete it with backup-pipeline backup {known.plan} --resume, or verify another set.",
        )
    data = _bytes(store, set_id, MANIFEST_NAME) or b""
    digest = hashlib.sha256(data).hexdigest()
    present = dict(store.files(set_id))
    findings = _manifest_findings(store, known, digest, present)
    not_ordinary = "is a link or no ordinary file: what it shows may change at any time"
    findings += _same(store.unexpected_entries(set_id), not_ordinary, _DAMAGED)
    covered: list[str] = []
    read = 0
    if known.manifest is not None:
        manifest = known.manifest
        unknown = "is not in the manifest: nobody knows where it comes from"
        findings += _same(extra_files(manifest, present), unknown, "Inspect it and remove it.")
        broken, read = _file_problems(store, set_id, manifest, present, progress)
        findings += [Finding(subject=path, problem=problem, remedy=_DAMAGED) for path, problem in broken.items()]
        whole = [r for r in manifest.artefacts if not any(file.path in broken for file in r.files)]
        inspected = [record for record in whole if not inspected_later(record)]
        findings += _structure_problems(store, set_id, inspected, progress)
        covered = [record.name for record in manifest.artefacts]
    finished = now()
    return Proof(
        kind=ProofKind.VERIFICATION,
        set_id=set_id,
        plan=known.plan,
        manifest_sha256=digest,
        started_at=started,
        finished_at=finished,
        passed=not findings,
        covered=tuple(covered),
        findings=tuple(findings),
        numbers={
            "bytes": read,
            "files": sum(len(r.files) for r in known.manifest.artefacts) if known.manifest else 0,
            "seconds": round((finished - started).total_seconds(), 3),
        },
        run_id=run_id,
    )


def _same(paths: Iterable[str], problem: str, remedy: str) -> list[Finding]:
    return [Finding(subject=path, problem=problem, remedy=remedy) for path in paths]


def _bytes(store: Store, set_id: SetId, path: str) -> bytes | None:
    try:
        with store.open(set_id, path) as file:
            return file.read()
    except BackupSystemError:
        return None


def _saw_the_sealed_manifest(proof: Proof) -> bool:
    """Whether a result vouches for the manifest that it saw; one that found it changed speaks of that moment only."""
    return proof.passed or not any(finding.subject.endswith(MANIFEST_NAME) for finding in proof.findings)


def _manifest_findings(store: Store, known: BackupSet, digest: str, present: dict[str, int]) -> list[Finding]:
    """Return what is wrong with the manifest and the records beside it."""
    found = []
    if known.manifest is None:
        found.append(Finding(subject=MANIFEST_NAME, problem=known.problem or "cannot be read", remedy=_DAMAGED))
    if any(proof.manifest_sha256 != digest for proof in known.proofs if _saw_the_sealed_manifest(proof)):
        found.append(
            Finding(
                subject=MANIFEST_NAME, problem="has changed since an earlier verification or drill", remedy=_DAMAGED
            )
        )
    found += [
        Finding(
            subject=f"{PROOFS_FOLDER}/{name}",
            problem="is not what a verification or drill wrote there, so it proves nothing",
            remedy="Remove this file, then verify and drill the set again.",
        )
        for name in known.damaged_proofs
    ]
    sums = _bytes(store, known.set_id, CHECKSUM_NAME)
    promised = {}
    for line in (sums or b"").decode("utf-8", "replace").splitlines():
        expected, _, path = line.partition("  ")
        promised[path] = expected
    for path, expected in promised.items():
        data = _bytes(store, known.set_id, path)
        if data is None:
            found.append(Finding(subject=path, problem=f"is missing, but {CHECKSUM_NAME} names it", remedy=_DAMAGED))
        elif hashlib.sha256(data).hexdigest() != expected:
            found.append(
                Finding(
                    subject=path,
                    problem=f"is not what {CHECKSUM_NAME} says (one of the two has changed)",
                    remedy=_DAMAGED,
                )
            )
    if promised:
        found += [
            Finding(subject=path, problem=f"was added after sealing: {CHECKSUM_NAME} does not name it")
            for path in present
            if path.startswith(f"{RECORDS_FOLDER}/") and path != CHECKSUM_NAME and path not in promised
        ]
        if MANIFEST_NAME not in promised:
            found.append(Finding(subject=CHECKSUM_NAME, problem=f"does not name {MANIFEST_NAME}", remedy=_DAMAGED))
    else:
        problem = "is missing" if sums is None else "is empty"
        found.append(Finding(subject=CHECKSUM_NAME, problem=problem, remedy=_DAMAGED))
    if known.manifest is not None:
        found += _record_findings(store, known.set_id, known.manifest, present)
    return found


def _record_findings(store: Store, set_id: SetId, manifest: Manifest, present: dict[str, int]) -> list[Finding]:
    """Compare the records with the manifest: every artefact is described twice."""
    findings, records = [], []
    for path in present:
        name = path.removeprefix(f"{RECORDS_FOLDER}/")
        if (
            name == path
            or not name.endswith(".json")
            or name == "set.json"
            or name.endswith((".failed.json", ".done.json"))
        ):
            continue
        try:
            records.append(ArtefactRecord.model_validate_json(_bytes(store, set_id, path) or b""))
        except PydanticError:
            findings.append(Finding(subject=path, problem="is not a record any more", remedy=_DAMAGED))
    return findings or record_disagreements(manifest, records)


def _file_problems(
    store: Store, set_id: SetId, manifest: Manifest, present: dict[str, int], progress: ProgressSink
) -> tuple[dict[str, str], int]:
    files = [file for record in manifest.artefacts for file in record.files]
    total = sum(present.get(file.path, 0) for file in files)
    read = 0
    broken: dict[str, str] = {}

    def inspect_file(file: FileRecord) -> tuple[str, int]:
        size = present.get(file.path)
        if problem := file_problem(file, size, None):
            return problem, 0
        try:
            with store.open(set_id, file.path) as stream:
                size, digest = sha256_of(stream)
        except BackupSystemError as error:
            return f"cannot be read: {error.what}", 0
        return file_problem(file, size, digest), size

    # The largest first, so that no thread is left with it at the end.
    files.sort(key=lambda file: -file.size)
    with ContextThreadPool(_READERS, "verify") as pool:
        for file, (problem, size) in zip(files, pool.map(inspect_file, files), strict=True):
            read += size
            progress(Progress("checksums", read, total, finished=read == total))
            if problem:
                broken[file.path] = problem
    return broken, read


def _structure_problems(
    store: Store, set_id: SetId, records: list[ArtefactRecord], progress: ProgressSink
) -> list[Finding]:
    records = sorted(records, key=lambda record: -record.size)
    findings: list[Finding] = []
    with ContextThreadPool(_READERS, "inspect") as pool:
        inspected = pool.map(lambda record: inspect(lambda path: store.open(set_id, path), record), records)
        for done, found in enumerate(inspected, 1):
            findings += found
            progress(Progress("structure", done, len(records), "artefacts", finished=done == len(records)))
    return findings
