"""Lines of a dump that a role without superuser rights is refused, and what of the comparison follows from them. Pure.

A platform's dump (Supabase's) names owners, extensions and event triggers of roles that nobody else may act as. A
restore tries each line; what the server refuses is skipped, counted and reported. Only lines that hold no data and no
structure may be skipped; anything else that is refused ends the restore. A superuser is refused one kind of line: an
event trigger, foreign data wrapper or publication that is to belong to a role that is no superuser (made without rights
for a drill, or no longer one where the dump was made).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from backup_pipeline.model.catalog import Catalog, unquoted


class LineKind(StrEnum):
    """What a line that may be skipped is about; its subject is a role for the first four, else an object's name."""

    OWNER = "owner"
    RIGHTS = "rights"
    DEFAULT_PRIVILEGES = "default privileges"
    SESSION = "session authorization"
    EXTENSION = "extension"
    EXTENSION_COMMENT = "comment on extension"
    EVENT_TRIGGER = "event trigger"
    PUBLICATION = "publication"
    SUBSCRIPTION = "subscription"
    ON_PLATFORM = "on a platform's table"
    SUPERUSERS_OWNER = "owner that must be a superuser"
    TABLESPACE = "tablespace"
    NOT_VALID = "constraint that the rows do not satisfy"
    BROKEN_KEY = "key that the rows violate"
    NULLABLE = "NOT NULL that the rows violate"


@dataclass(frozen=True, slots=True)
class Line:
    """One line that may be skipped. `role_missing`: rights of a role that the server has not got."""

    kind: LineKind
    subject: str
    role_missing: bool = False


_NAME = r'((?:"(?:[^"]|"")+")|[^\s";,()]+)'
_PATTERNS: tuple[tuple[LineKind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.DOTALL))
    for kind, pattern in (
        (LineKind.EVENT_TRIGGER, rf"(?:CREATE|ALTER|COMMENT ON) EVENT TRIGGER {_NAME}"),
        (LineKind.PUBLICATION, rf"(?:CREATE|ALTER|COMMENT ON) PUBLICATION {_NAME}"),
        (LineKind.SUBSCRIPTION, rf"(?:CREATE|ALTER|COMMENT ON) SUBSCRIPTION {_NAME}"),
        (LineKind.EXTENSION, rf"CREATE EXTENSION (?:IF NOT EXISTS )?{_NAME}"),
        (LineKind.EXTENSION_COMMENT, rf"COMMENT ON EXTENSION {_NAME}"),
        (LineKind.DEFAULT_PRIVILEGES, rf"ALTER DEFAULT PRIVILEGES FOR ROLE {_NAME} "),
        (LineKind.OWNER, rf"ALTER .* OWNER TO {_NAME};\Z"),
        (LineKind.RIGHTS, rf"GRANT .* TO {_NAME}(?: WITH GRANT OPTION)?;\Z"),
        (LineKind.RIGHTS, rf"REVOKE .* FROM {_NAME};\Z"),
        (LineKind.SESSION, r"SET SESSION AUTHORIZATION ('(?:[^']|'')+'|[^\s;]+);\Z"),
    )
)
# The server wants a superuser as their owner (publications: of all tables or of schemas): all that one may be refused.
OWNED_BY_SUPERUSERS = ("EVENT TRIGGER", "FOREIGN DATA WRAPPER", "PUBLICATION")
_SUPERUSERS_OWNER = re.compile(rf"ALTER (?:{'|'.join(OWNED_BY_SUPERUSERS)}) {_NAME} OWNER TO {_NAME};\Z", re.DOTALL)
_TABLESPACE = re.compile(rf"SET default_tablespace = {_NAME};\Z")
# "invalid value for parameter": there is no such tablespace.
_INVALID_VALUE = "22023"
_REFUSED, _UNDEFINED_OBJECT = "42501", "42704"
# What rights are about may belong to an extension that was skipped.
_ALSO_MISSING = frozenset({"42883", "42P01", "3F000"})


def line_of(statement: bytes) -> Line | None:
    """Return what a statement is about, when it is one that may be skipped."""
    text = statement.decode("utf-8", "replace")
    for kind, pattern in _PATTERNS:
        if found := pattern.match(text):
            return Line(kind, unquoted(found[1]))
    return None


@dataclass
class SkippedStatements:
    """Collects the lines that the server refused; see `take`.

    Attributes:
        roles: the server's roles.
        lines: what was skipped.
        superuser: the restoring role is one: everything but the owner of what only superusers may own ends the restore.
    """

    roles: frozenset[str]
    lines: list[Line] = field(default_factory=list)
    superuser: bool = False

    def take(self, statement: bytes, sqlstate: str) -> bool:
        """Return whether a refused statement is skipped; False means that the restore must end."""
        if sqlstate == _INVALID_VALUE and (found := _TABLESPACE.match(statement.decode("utf-8", "replace"))):
            # The session stays with the database's own.
            self.lines.append(Line(LineKind.TABLESPACE, unquoted(found[1])))
            return True
        if self.superuser:
            return self._take_as_superuser(statement, sqlstate)
        line = line_of(statement)
        if line is None:
            return False
        missing = sqlstate == _UNDEFINED_OBJECT and line.kind is not LineKind.EXTENSION
        rights = sqlstate in _ALSO_MISSING and line.kind is LineKind.RIGHTS
        if not (sqlstate == _REFUSED or missing or rights):
            return False
        absent = line.kind is LineKind.RIGHTS and line.subject not in {*self.roles, "PUBLIC"}
        self.lines.append(replace(line, role_missing=absent))
        return True

    def _take_as_superuser(self, statement: bytes, sqlstate: str) -> bool:
        found = _SUPERUSERS_OWNER.match(statement.decode("utf-8", "replace"))
        if found is None or sqlstate != _REFUSED:
            return False
        self.lines.append(Line(LineKind.SUPERUSERS_OWNER, f"{unquoted(found[1])} to {unquoted(found[2])}"))
        return True


_DESCRIPTIONS = {
    LineKind.RIGHTS: "rights skipped: the role is missing, or the object is not this role's",
    LineKind.DEFAULT_PRIVILEGES: "default privileges skipped, which only that role may set",
    LineKind.SESSION: "rights given as this role instead of as another that passed them on",
    LineKind.EXTENSION: "extensions skipped, which this role may not create",
    LineKind.EXTENSION_COMMENT: "comments on extensions skipped",
    LineKind.EVENT_TRIGGER: "event triggers skipped, which only a superuser may create",
    LineKind.PUBLICATION: "publications skipped, which this role may not create or change",
    LineKind.SUBSCRIPTION: "subscriptions skipped, which this role may not create",
    LineKind.ON_PLATFORM: "triggers and policies on the platform's tables skipped, which this role may not create",
    LineKind.TABLESPACE: "tables and indexes are in the database's own tablespace, because the server has not got",
    LineKind.NOT_VALID: "constraints left NOT VALID, because rows of the backup do not satisfy them",
    LineKind.BROKEN_KEY: "keys and unique indexes not made, because rows of the backup violate them",
    LineKind.NULLABLE: "columns that may be null here, because rows of the backup are null there",
    LineKind.SUPERUSERS_OWNER: "owner left as the restoring role, because the recorded one is no superuser here",
}


def reported(lines: Iterable[Line], user: str) -> list[str]:
    """Return one sentence for each kind of line that was skipped, with counts and names."""
    known = list(lines)
    result = []
    for kind in LineKind:
        subjects = Counter(line.subject for line in known if line.kind is kind)
        if not subjects:
            continue
        names = ", ".join(sorted(subjects))
        if kind is LineKind.OWNER:
            names = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in sorted(subjects.items()))
            count = sum(subjects.values())
            result.append(f"owner of {count} objects left with {user}: it may not give them to {names}")
        else:
            result.append(f"{_DESCRIPTIONS[kind]}: {names}")
    return result


def expected_refusals(catalog: Catalog, may_become: Collection[str]) -> list[Line]:
    """Return the lines that a role without superuser rights will be refused, as far as the backup's catalog shows.

    Args:
        catalog: the backup's.
        may_become: roles that the restoring role may act as, itself among them.
    """
    # Whoever owns the database stands for this role of the server's own.
    possible = {*may_become, "pg_database_owner"}
    owned = [
        *catalog.objects.get("owner", {}).values(),
        *(
            role
            for name, role in catalog.objects.get("other owner", {}).items()
            if not name.startswith("event trigger ")
        ),
    ]
    owners = [Line(LineKind.OWNER, role) for role in owned if role not in possible]
    privileges = [
        Line(LineKind.DEFAULT_PRIVILEGES, role)
        for name in catalog.objects.get("default privilege", {})
        if (role := _role_of_privilege(name)) not in may_become
    ]
    triggers = [Line(LineKind.EVENT_TRIGGER, unquoted(name)) for name in catalog.objects.get("event trigger", {})]
    return [*owners, *privileges, *triggers]


def _role_of_privilege(name: str) -> str:
    found = re.match(rf"for role {_NAME} ", name)
    return unquoted(found[1]) if found else ""


_DATABASE_WIDE = {
    "event trigger": LineKind.EVENT_TRIGGER,
    "publication": LineKind.PUBLICATION,
    "subscription": LineKind.SUBSCRIPTION,
}


def without_skipped(expected: Catalog, found: Catalog, lines: Sequence[Line], user: str) -> tuple[Catalog, Catalog]:
    """Return both catalogs without the differences that follow from lines that were skipped, and no others.

    Args:
        expected: the backup's.
        found: the restored database's.
        lines: what was skipped.
        user: the role that restored, which has what it could not give away.
    """
    subjects = {kind: {line.subject for line in lines if line.kind is kind} for kind in LineKind}
    wanted = {kind: dict(texts) for kind, texts in expected.objects.items()}
    have = {kind: dict(texts) for kind, texts in found.objects.items()}
    missing = {line.subject for line in lines if line.role_missing}
    moved: dict[str, str] = {}
    for kind in ("owner", "other owner"):
        for name, role in wanted.get(kind, {}).items():
            left = role in subjects[LineKind.OWNER] or f"{_bare(name)} to {role}" in subjects[LineKind.SUPERUSERS_OWNER]
            if left and have.get(kind, {}).get(name) == user != role:
                moved[name] = role
                wanted[kind][name] = user
    for kind in ("grant", "other grant"):
        for grants in (wanted.get(kind, {}), have.get(kind, {})):
            for name, text in grants.items():
                owner = moved.get(_owner_key(name, moved), "")
                grants[name] = _rights(text, owner, user, subjects[LineKind.SESSION], missing)
    if subjects[LineKind.OWNER] or subjects[LineKind.RIGHTS]:
        # Their owners and rights are one digest.
        for side in (wanted, have):
            side.get("other grant", {}).pop("large objects", None)
    for name in list(wanted.get("default privilege", {})):
        if _role_of_privilege(name) in subjects[LineKind.DEFAULT_PRIVILEGES]:
            del wanted["default privilege"][name]
            have.get("default privilege", {}).pop(name, None)
    by_name = {**_DATABASE_WIDE, "published": LineKind.PUBLICATION, "extension": LineKind.EXTENSION}
    for kind, line in by_name.items():
        for side in (wanted, have):
            side[kind] = {n: t for n, t in side.get(kind, {}).items() if unquoted(n) not in subjects[line]}
    for side in (wanted, have):
        for name in subjects[LineKind.NOT_VALID] | subjects[LineKind.BROKEN_KEY]:
            for kind in ("constraint", "index"):
                side.get(kind, {}).pop(name, None)
            for kind in ("comment", "other comment"):
                for about in (f"index {name}", f"constraint {name}"):
                    side.get(kind, {}).pop(about, None)
        for name in subjects[LineKind.NULLABLE]:
            columns = side.get("column", {})
            if name in columns:
                columns[name] = columns[name].replace(", not null", "")
    if subjects[LineKind.TABLESPACE]:
        for side in (wanted, have):
            side["table"] = {n: t.replace(", in a tablespace", "") for n, t in side.get("table", {}).items()}
    gone = {f"{kind} {subject}" for kind in _DATABASE_WIDE.values() for subject in subjects[kind]}
    for kind in ("other owner", "other comment"):
        for side in (wanted, have):
            side[kind] = {n: t for n, t in side.get(kind, {}).items() if n.replace('"', "") not in gone}
    return expected.model_copy(update={"objects": wanted}), found.model_copy(update={"objects": have})


def _bare(name: str) -> str:
    """Return the name without its kind before it and without quotes: `event trigger "a b"` is `a b`."""
    return unquoted(re.sub(r"\A(?:event trigger|foreign-data wrapper|publication|subscription|table) ", "", name))


def _owner_key(name: str, moved: Mapping[str, str]) -> str:
    """Return under which identity the owner of a granted object stands: a column's is its table's."""
    if not name.startswith("column "):
        return name
    table = name.removeprefix("column ").rpartition(".")[0]
    return next((key for key in moved if key.partition(" ")[2] == table or key.endswith(f" {table}")), name)


def _rights(text: str, owner: str, user: str, sessions: Collection[str], missing: Collection[str]) -> str:
    """Return access rights as they can be: without the missing roles', given by `user` where it stands for another.

    Of an object that stayed with `user` its own and its former owner's rights say nothing: an owner has them anyway.
    """
    kept: dict[tuple[str, str], set[str]] = {}
    for line in text.splitlines():
        grantee, _, rest = line.partition("=")
        privileges, _, grantor = rest.rpartition("/")
        if grantee in missing or (owner and grantee in (owner, user)):
            continue
        if grantor in sessions or (owner and grantor == owner):
            grantor = user
        kept.setdefault((grantee, grantor), set()).update(privileges.split(","))
    return "\n".join(f"{who}={','.join(sorted(rights))}/{by}" for (who, by), rights in sorted(kept.items()))
