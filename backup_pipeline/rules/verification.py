"""Decisions of verifications and comparisons as pure functions: what was found against what was recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from backup_pipeline.model.manifest import MANIFEST_NAME, Manifest
from backup_pipeline.model.proof import PROOFS_FOLDER, Finding
from backup_pipeline.model.record import ArtefactRecord, FileRecord, Fingerprint

RECORDS_FOLDER = "records"


def file_problem(recorded: FileRecord, size: int | None, sha256: str | None) -> str:
    """Return what is wrong with a file against its record, "" when nothing is.

    Args:
        recorded: what the manifest says.
        size: bytes of the file; None when it is missing.
        sha256: its digest; None when it was not read.
    """
    if size is None:
        return "is missing"
    if size == 0 and recorded.size > 0:
        return "is empty"
    if size < recorded.size:
        return f"is cut short: {size} of {recorded.size} bytes"
    if size > recorded.size:
        return f"has grown: {size} bytes, {recorded.size} recorded"
    if sha256 is not None and sha256 != recorded.sha256:
        return "has changed: its SHA-256 is not the recorded one"
    return ""


def extra_files(manifest: Manifest, present: Iterable[str]) -> list[str]:
    """Return files of a set that nothing accounts for; the manifest, records and proofs are accounted for."""
    known = {file.path for record in manifest.artefacts for file in record.files} | {MANIFEST_NAME}
    allowed = (f"{PROOFS_FOLDER}/", f"{RECORDS_FOLDER}/")
    return sorted(path for path in present if path not in known and not path.startswith(allowed))


def record_disagreements(manifest: Manifest, records: Iterable[ArtefactRecord]) -> list[Finding]:
    """Return where the manifest and the records that were written one by one do not agree.

    Every artefact is described twice, so a change in one of the two is noticed even where both can still be read.
    """
    by_key = {record.key: record for record in records}
    found = []
    for record in manifest.artefacts:
        if record.key not in by_key:
            found.append(Finding(subject=MANIFEST_NAME, problem=f"names {record.name}, which has no record of its own"))
        elif by_key.pop(record.key) != record:
            found.append(
                Finding(
                    subject=MANIFEST_NAME,
                    problem=f"says something else of {record.name} than the record written with it",
                    remedy="One of the two was changed after sealing; do not trust this set.",
                )
            )
    found += [Finding(subject=MANIFEST_NAME, problem=f"does not name {'.'.join(key)}") for key in by_key]
    return found


def fingerprint_findings(
    expected: Mapping[tuple[str, str], Fingerprint], found: Mapping[tuple[str, str], Fingerprint | str]
) -> list[Finding]:
    """Return the tables whose rows are not those of the backup; counts only, never values."""
    result = []
    for (schema, table), wanted in expected.items():
        subject = f"table {schema}.{table}"
        have = found.get((schema, table), "was not read")
        if isinstance(have, str):
            result.append(Finding(subject=subject, problem=have))
        elif have.rows != wanted.rows:
            result.append(Finding(subject=subject, problem=f"{have.rows} rows, {wanted.rows} in the backup"))
        elif have.value != wanted.value:
            remedy = (
                f"The backup is of PostgreSQL {wanted.server_major}, this server is {have.server_major}: compare on a "
                f"server of version {wanted.server_major} to be sure (DRILL_DATABASE_URL)."
                if have.server_major != wanted.server_major
                else ""
            )
            result.append(
                Finding(
                    subject=subject, problem=f"{have.rows} rows with other content than in the backup", remedy=remedy
                )
            )
    return result
