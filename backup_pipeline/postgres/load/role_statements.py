"""What the statements of pg_dumpall say of a server's roles: attributes, memberships, settings; no password. Pure."""

from __future__ import annotations

import re

from backup_pipeline.model.catalog import Membership, RoleEntry, setting_without_secret
from backup_pipeline.postgres.load.dump_statements import unquoted

_ROLE = r'("(?:[^"]|"")+"|[^\s";]+)'
_CREATE = re.compile(rf"CREATE ROLE {_ROLE};")
_ALTER = re.compile(
    rf"ALTER ROLE {_ROLE} WITH ([A-Z ]+?)(?: CONNECTION LIMIT (-?\d+))?(?: PASSWORD '[^']*')?"
    r"(?: VALID UNTIL '([^']*)')?;"
)
_SET = re.compile(rf"ALTER ROLE {_ROLE} (?:IN DATABASE {_ROLE} )?SET {_ROLE} TO (.+);", re.DOTALL)
_GRANT = re.compile(rf"GRANT {_ROLE} TO {_ROLE}((?: WITH | GRANTED BY )[^;]*)?;")
_ATTRIBUTES = {
    "SUPERUSER": "superuser",
    "LOGIN": "login",
    "CREATEDB": "create_database",
    "CREATEROLE": "create_role",
    "INHERIT": "inherit",
    "REPLICATION": "replication",
    "BYPASSRLS": "bypass_row_security",
}


class RoleStatements:
    """Gathers roles from statements; all others are passed over."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, object]] = {}
        self._members: dict[str, list[Membership]] = {}
        self._settings: dict[str, list[str]] = {}

    def take(self, statement: str) -> None:
        """Take the next statement."""
        if found := _CREATE.fullmatch(statement):
            self._values.setdefault(unquoted(found[1]), {})
        elif found := _ALTER.fullmatch(statement):
            values = self._values.setdefault(unquoted(found[1]), {})
            for word in found[2].split():
                name = word.removeprefix("NO")
                if name in _ATTRIBUTES:
                    values[_ATTRIBUTES[name]] = name == word
            values["connection_limit"] = int(found[3] or -1)
            values["valid_until"] = found[4]
        elif found := _SET.fullmatch(statement):
            value = setting_without_secret(f"{unquoted(found[3])}={found[4]}")
            value += f" (in database {unquoted(found[2])})" if found[2] else ""
            self._settings.setdefault(unquoted(found[1]), []).append(value)
        elif found := _GRANT.fullmatch(statement):
            options = found[3] or ""
            member = Membership(
                role=unquoted(found[1]),
                admin="ADMIN OPTION" in options or "ADMIN TRUE" in options,
                inherit="INHERIT FALSE" not in options,
                set_role="SET FALSE" not in options,
            )
            self._members.setdefault(unquoted(found[2]), []).append(member)

    def entries(self) -> tuple[RoleEntry, ...]:
        """Return the roles by name."""
        return tuple(
            RoleEntry.model_validate(
                {
                    "name": name,
                    **self._values[name],
                    "member_of": self._members.get(name, ()),
                    "settings": self._settings.get(name, ()),
                }
            )
            for name in sorted(self._values)
        )
