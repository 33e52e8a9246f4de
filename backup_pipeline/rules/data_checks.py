"""Classes of failed checks: those that keep a set from its seal, and those of broken source data. Pure.

The line: a check that asks whether the set holds what is there keeps it from its seal. A check that asks whether what
is there is right does not, for it is all there is; it fails loudly instead, and the set is not counted as a good one.
Checks that compare with the last set (fewer rows, a lost key) stand between: there is an older set, and the settings
say what a failure means. An emergency set is made because something is wrong, so only the first kind counts there.
"""

from __future__ import annotations

from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.record import CheckResult, Severity

OF_THE_DATA = frozenset({"pandera_schema", "foreign_key_check"})
_OF_THE_COPY = frozenset(
    {
        "dump_complete",
        "content_matches_snapshot",
        "json_lines_match_snapshot",
        "json_rows_match_snapshot",
        "csv_rows_match_snapshot",
        "tarball_complete",
        "folder_stable",
        "archive_complete",
        "bundle_verified",
        "all_refs_readable",
    }
)


def keeps_from_seal(check: CheckResult, purpose: Purpose) -> bool:
    """Return whether a check's outcome keeps a set of this purpose from being sealed."""
    if check.passed or check.severity is not Severity.ERROR or check.name in OF_THE_DATA:
        return False
    return purpose is Purpose.BACKUP or check.name in _OF_THE_COPY
