r"""A dump without what is meant for another place: `--create` makes its database, `--clean` empties it. Nothing is run.

A restore loads into a new database, which it makes itself. So what stands up to the last `\connect` line before the
first object is skipped, what drops objects there, and rights on the database wherever they stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from backup_pipeline.errors import ValidationError
from backup_pipeline.postgres.export.foreign_dump import DROP, HEADER, VERSION_LINES
from backup_pipeline.postgres.load.input import ReadablePieces
from backup_pipeline.postgres.load.stream import CopyBlock, DumpParts, MetaCommand, Statement

# What pg_dump writes before the first object: settings, and with --create the database and what is set of it.
_BEFORE_OBJECTS = re.compile(
    rb"SET |SELECT pg_catalog\.set_config\(|(?:CREATE|ALTER|DROP) DATABASE |UPDATE pg_catalog\.pg_database "
    rb"|(?:COMMENT|SECURITY LABEL) [^;']*ON DATABASE |DROP |ALTER [^;']* DROP "
)
_DATABASES_RIGHTS = re.compile(rb"(?:GRANT|REVOKE) [^;]* ON DATABASE ")
_CONNECT = b"\\connect "
_PREAMBLE = 16 << 20


def as_restored(pieces: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Yield the dump of a database as a restore reads it.

    Args:
        pieces: its text, of which a whole one is left as it is.
        name: for messages.

    Raises:
        ValidationError: the beginning has another form than pg_dump's. RefusedError: it holds meta-commands.
    """
    head, said, connected = b"", b"", False
    begun = False
    for part in DumpParts(ReadablePieces(pieces), rows_in_parts=True).with_everything():
        if isinstance(part, MetaCommand) and part.body.startswith(_CONNECT):
            if begun:
                raise _not_as_written(name)
            said += b"".join(line[0] for line in VERSION_LINES.finditer(head + part.text))
            head, connected = b"", True
        elif begun or isinstance(part, CopyBlock) or not _is_preamble(part):
            if not begun:
                begun = True
                first = b"--\n" + HEADER + b"\n--\n\n" + said if connected else b""
                yield first + DROP.sub(b"", head)
            yield from _text(part)
        else:
            head += part.text
            if len(head) > _PREAMBLE:
                raise _not_as_written(name)


def _is_preamble(part: Statement | MetaCommand) -> bool:
    return isinstance(part, MetaCommand) or _BEFORE_OBJECTS.match(part.body) is not None


def _text(part: Statement | CopyBlock | MetaCommand) -> Iterator[bytes]:
    if isinstance(part, CopyBlock):
        yield part.before + part.header + b"\n"
        yield from part.chunks()
        yield b"\\.\n"
    elif part.body and _DATABASES_RIGHTS.match(part.body):
        yield part.text[: -len(part.body)]
    else:
        yield part.text


def _not_as_written(name: str) -> ValidationError:
    return ValidationError(
        "The dump does not stand as pg_dump writes it.", where=name, remedy="Dump each database by itself."
    )
