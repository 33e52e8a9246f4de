"""What a file carries beside content, mode, owner and time: extended attributes, ACLs, capabilities.

They go into a tarball as PAX records of the names that GNU tar gives them: `SCHILY.xattr.<name>` with the raw value,
and `SCHILY.acl.access` and `SCHILY.acl.default` as text with numbers for users and groups (`user:1000:rw-`). Only Linux
is known here; elsewhere files have none. Nothing here decides what becomes of one that could not be kept.
"""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

Attributes = tuple[tuple[str, bytes], ...]
"""Keyword of the PAX record and value, sorted by keyword."""

XATTR = "SCHILY.xattr."
ACL_ACCESS = "SCHILY.acl.access"
ACL_DEFAULT = "SCHILY.acl.default"
PREFIXES = (XATTR, ACL_ACCESS, ACL_DEFAULT)
MAXIMUM_BYTES = 512 << 10
"""Attributes of one file that are larger together are not kept."""
_ACLS = {"system.posix_acl_access": ACL_ACCESS, "system.posix_acl_default": ACL_DEFAULT}
_ACL_NAMES = {keyword: name for name, keyword in _ACLS.items()}
_NOT_THE_FILES_OWN = ("security.", "trusted.overlay.", "system.data", "btrfs.")
"""What the machine's own policy or file system puts there, and what would be wrong on another."""
_CAPABILITY = "security.capability"
_NONE = (errno.ENOTSUP, errno.ENODATA, errno.ENOSYS, errno.EINVAL)
_TAGS = {0x01: "user", 0x02: "user", 0x04: "group", 0x08: "group", 0x10: "mask", 0x20: "other"}
_NAMED = (0x02, 0x08)
_NOBODY = 0xFFFFFFFF


def read_attributes(place: int | str | Path) -> tuple[Attributes, tuple[str, ...]]:
    """Return what a file or folder carries, and the names of attributes that cannot be kept.

    Args:
        place: an open file, or a path that is not followed.
    """
    if not hasattr(os, "listxattr"):
        return (), ()
    follow = {} if isinstance(place, int) else {"follow_symlinks": False}
    try:
        names = os.listxattr(place, **follow)
    except OSError as error:
        return (), () if error.errno in _NONE else ("(all)",)
    found, lost, size = [], [], 0
    for name in sorted(names):
        if name.startswith(_NOT_THE_FILES_OWN) and name != _CAPABILITY:
            continue
        try:
            value = os.getxattr(place, name, **follow)
            if name in _ACLS:
                keyword, value = _ACLS[name], acl_text(value)
            elif name.startswith("user.") or name == _CAPABILITY:
                keyword = XATTR + name
            else:
                lost.append(name)
                continue
        except (OSError, ValueError):
            lost.append(name)
            continue
        size += len(keyword) + len(value)
        if size > MAXIMUM_BYTES or "=" in keyword:
            lost.append(name)
        else:
            found.append((keyword, value))
    return tuple(sorted(found)), tuple(lost)


def attribute_name(keyword: str) -> str:
    """Return the system's name of an attribute that stands under this keyword in a tarball."""
    return _ACL_NAMES.get(keyword, keyword.removeprefix(XATTR))


def write_attributes(place: int | str | Path, attributes: Attributes) -> tuple[str, ...]:
    """Give a file or folder its attributes; return the names of those that this user or file system cannot set.

    Raises:
        OSError: the disk is full or fails.
    """
    lost = []
    for keyword, value in attributes:
        name = attribute_name(keyword)
        try:
            if not hasattr(os, "setxattr"):
                raise OSError(errno.ENOTSUP, "")
            os.setxattr(place, name, acl_binary(value) if keyword in _ACL_NAMES else value)
        except ValueError:
            lost.append(name)
        except OSError as error:
            if error.errno in (errno.EIO, errno.EDQUOT) or (error.errno == errno.ENOSPC and _is_full(place)):
                raise
            lost.append(name)
    return tuple(lost)


def _is_full(place: int | str | Path) -> bool:
    """Whether the disk is full; ext4 says so too where one file's attributes are larger than it can keep."""
    return os.statvfs(place).f_bavail == 0


def clear_acls(folder: Path) -> None:
    """Take from a new folder the ACLs that it inherited, so that what is made in it inherits none."""
    for name in _ACLS:
        if hasattr(os, "removexattr"):
            try:
                os.removexattr(folder, name)
            except OSError as error:
                if error.errno not in (*_NONE, errno.EPERM):
                    raise


def acl_text(value: bytes) -> bytes:
    """Return the kernel's form of an ACL as text of one entry a line; ValueError when it is another version."""
    if len(value) < 4 or struct.unpack_from("<I", value)[0] != 2 or (len(value) - 4) % 8:
        raise ValueError("an unknown form of ACL")
    lines = []
    for tag, permission, number in struct.iter_unpack("<HHI", value[4:]):
        who = str(number) if tag in _NAMED else ""
        rights = "".join(letter if permission & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))
        lines.append(f"{_TAGS[tag]}:{who}:{rights}\n" if tag in _TAGS else _unknown(tag))
    return "".join(lines).encode()


def _unknown(tag: int) -> str:
    raise ValueError(f"an unknown kind of entry, {tag}")


def acl_binary(text: bytes) -> bytes:
    """Return the kernel's form of an ACL; ValueError when the text is none, or names users instead of numbers."""
    entries = []
    for line in text.decode("ascii").replace(",", "\n").split("\n"):
        if not (line := line.split("#")[0].strip()):
            continue
        kind, who, rights = [*line.split(":"), "", ""][:3]
        tags = [tag for tag, name in _TAGS.items() if name == kind]
        if not tags or len(rights) != 3 or (who and len(tags) == 1):
            raise ValueError(f"not an entry of an ACL: {line}")
        tag = tags[1] if who else tags[0]
        permission = sum(bit for letter, bit in zip(rights, (4, 2, 1), strict=True) if letter != "-")
        entries.append((tag, permission, int(who) if who else _NOBODY))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in sorted(entries, key=_order))


def _order(entry: tuple[int, int, int]) -> tuple[int, int]:
    return entry[0], entry[2]
