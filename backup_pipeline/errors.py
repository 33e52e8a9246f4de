"""One family of errors: what is wrong, where, and what to do about it.

Every error that a user can meet is one of these. Foreign errors (psycopg, OSError, git) are translated where they
enter, in `tools`. Secrets never belong in any of the three texts; those that a server or program repeats are taken
out here. No logging and no formatting for a terminal here.
"""

from __future__ import annotations

from enum import IntEnum

from backup_pipeline.redaction import redacted


class ExitCode(IntEnum):
    """Exit codes of the command line; documented in docs/exit-codes.md and stable."""

    OK = 0
    FAILED = 1
    USAGE = 2
    SETTINGS = 3
    LOCKED = 4
    SOURCE = 5
    CHECKS = 6
    NOT_FOUND = 7
    REFUSED = 8
    STORE = 9
    NOT_DRILLABLE = 10
    BROKEN_DATA = 11
    NOT_COPIED = 12
    INTERRUPTED = 130
    TERMINATED = 143


# What is reported of work that ended by an interrupt, which is no fault of its own.
INTERRUPTED = "Its process was asked to end: by Ctrl-C, a shutdown, or the eviction of its pod"


class BackupSystemError(Exception):
    """What is wrong, where, and the remedy.

    Args:
        what: one sentence saying what is wrong.
        where: the file, field, variable, table or server it concerns; no secret.
        remedy: what the user can do about it.
    """

    exit_code: ExitCode = ExitCode.FAILED
    permanent: bool = True
    """False where the same call may succeed later without anybody changing anything."""

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = redacted(what)
        self.where = redacted(where)
        self.remedy = redacted(remedy)
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} Remedy: {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.remedy))

    def as_dict(self) -> dict[str, object]:
        """Return the error for `--json` output: kind, what, where, remedy, exit_code, permanent."""
        return {
            "kind": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "remedy": self.remedy,
            "exit_code": int(self.exit_code),
            "permanent": self.permanent,
        }


def _rebuild(kind: type[BackupSystemError], what: str, where: str, remedy: str) -> BackupSystemError:
    return kind(what, where=where, remedy=remedy)


class SettingsError(BackupSystemError):
    """A setting in backup.yaml or a variable of the environment is missing or wrong."""

    exit_code = ExitCode.SETTINGS


class LockError(BackupSystemError):
    """Another process works on the same target."""

    exit_code = ExitCode.LOCKED
    permanent = False


class SourceError(BackupSystemError):
    """A source (database, folder, repository) cannot be read as the settings promise."""

    exit_code = ExitCode.SOURCE


class UnreachableError(SourceError):
    """A server did not answer or went away; the same call may succeed later."""

    permanent = False


class CrowdedError(UnreachableError):
    """A server takes no further connection now, for it has its fill of them."""


class TimeLimitError(SourceError):
    """Work took longer than its settings allow, or made no progress for too long; everything it began was ended."""

    permanent = False

    def __init__(self, what: str = "A limit of time was reached.", *, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where=where, remedy=remedy)


class ToolError(BackupSystemError):
    """An outside program (pg_dump, git, …) is missing, too old, or failed."""

    exit_code = ExitCode.SOURCE


class ValidationError(BackupSystemError):
    """Content is not what its schema, checksum or manifest says."""

    exit_code = ExitCode.CHECKS


class SetNotFoundError(BackupSystemError):
    """No backup set of that name."""

    exit_code = ExitCode.NOT_FOUND


class IncidentNotFoundError(BackupSystemError):
    """No open incident of that key."""

    exit_code = ExitCode.NOT_FOUND


class RefusedError(BackupSystemError):
    """The operation would lose something, or was not confirmed, and was not begun."""

    exit_code = ExitCode.REFUSED


class ChangedPlanError(RefusedError):
    """A plan is not what would be done any more: the set, the options or the target have changed since it was read."""


class StoreError(BackupSystemError):
    """The store cannot be written or read (permission, full disk, damaged folder)."""

    exit_code = ExitCode.STORE


class MissingFileError(StoreError):
    """A file that a set should have is not there."""
