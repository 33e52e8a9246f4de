"""Which function inspects which kind of artefact: the one table, and nothing else.

An inspection reads a sealed artefact's files again and yields what is wrong with their structure or content; sizes and
digests are compared before, elsewhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.record import ArtefactKind, ArtefactRecord

OpenFile = Callable[[str], BinaryIO]
Inspection = Callable[[OpenFile, ArtefactRecord], Iterator[Finding]]

# Module and function; imported when the first artefact of the kind is met, so that a set of folders loads no pyarrow.
INSPECTIONS: dict[ArtefactKind, tuple[str, str]] = {
    ArtefactKind.POSTGRES_DUMP: ("sources.postgres.dump", "inspect_dump"),
    ArtefactKind.POSTGRES_ROLES: ("sources.postgres.roles", "inspect_roles"),
    ArtefactKind.TABLE_EXPORT: ("sources.postgres.table_export", "inspect_table_export"),
    ArtefactKind.SQLITE_COPY: ("artefacts.sqlite_copy", "inspect_sqlite"),
    ArtefactKind.FOLDER_TARBALL: ("sources.folder.capture", "inspect_folder"),
    ArtefactKind.REPOSITORY_ARCHIVE: ("sources.repository.capture", "inspect_repository"),
    ArtefactKind.REPOSITORY_BUNDLE: ("sources.repository.capture", "inspect_repository"),
    ArtefactKind.ORDER_PAIRS: ("sources.orders.account", "inspect_account"),
}


def inspect(open_file: OpenFile, record: ArtefactRecord) -> list[Finding]:
    """Return what is wrong with an artefact's files; an error while reading them is a finding too."""
    module, function = INSPECTIONS[record.kind]
    look = cast(Inspection, getattr(importlib.import_module(f"backup_pipeline.{module}"), function))
    found: list[Finding] = []
    subject = record.files[0].path if record.files else record.name
    try:
        found.extend(look(open_file, record))
    except BackupSystemError as error:
        found.append(Finding(subject=subject, problem=error.what, remedy=error.remedy))
    except Exception as error:  # noqa: BLE001 - a damaged file may make any library fail in any way
        found.append(Finding(subject=subject, problem=f"cannot be read ({type(error).__name__}); it is damaged"))
    return found
