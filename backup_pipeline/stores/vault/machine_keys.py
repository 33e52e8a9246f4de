"""What a machine that writes to vaults keeps: keys that decrypt nothing, notes, when kits were printed."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backup_pipeline.errors import RefusedError, SettingsError, StoreError
from backup_pipeline.stores.vault.signing import Signer, new_private_key
from backup_pipeline.system.files import make_folders, read_ordinary, translate_os_error, write_atomically

_SIGNING = "signing.key"
_ID_KEY = ".id-key"
_GIVEN = re.compile(r"(?:[\w.-]+:[0-9a-f]{64})(?: [\w.-]+:[0-9a-f]{64})*")
_PRIVATE_MODE = 0o700


@dataclass(frozen=True)
class KitNote:
    """That a kit was printed: when, and the public keys of the identities on it."""

    printed_at: datetime
    recipients: tuple[str, ...]


class MachineKeys:
    """A private folder (0700, files 0600) of the site's state.

    Args:
        folder: it.
        given: keys as `as_text` writes them, for a machine that has no folder which lasts.

    Raises:
        SettingsError: that is not what `given` is.
    """

    def __init__(self, folder: Path, given: str = "") -> None:
        self.folder = folder
        if given and not _GIVEN.fullmatch(given.strip()):
            raise SettingsError(
                "Not the keys of a machine that writes to a vault.",
                where="keys_env",
                remedy="Give the variable what `backup-pipeline vault keys NAME FILE` wrote.",
            )
        self._given = {name: key for name, _, key in (each.partition(":") for each in given.split())}

    def as_text(self, vault: str) -> str:
        """Return the signing key and a vault's id key for another machine of the site; secret.

        Raises:
            RefusedError: this machine has not joined the vault.
        """
        names = (_SIGNING, f"{vault}{_ID_KEY}")
        keys = [self._read(name) for name in names]
        if None in keys:
            raise RefusedError(
                "This machine has no keys of the vault.",
                where=str(self.folder),
                remedy="Run this where `backup-pipeline vault init` was run.",
            )
        return " ".join(f"{name}:{key.hex()}" for name, key in zip(names, keys, strict=True) if key)

    def signer(self, *, make: bool = False) -> Signer | None:
        """Return the site's signer; None where there is none and none is to be made."""
        key = self._read(_SIGNING)
        if key is None and make:
            key = new_private_key()
            self._write(_SIGNING, key)
        return Signer(key) if key is not None else None

    def id_key(self, vault: str) -> bytes | None:
        """Return the id key of a vault; None where this machine has not joined it."""
        return self._read(f"{vault}{_ID_KEY}")

    def keep_id_key(self, vault: str, key: bytes) -> None:
        """Keep a vault's id key."""
        self._write(f"{vault}{_ID_KEY}", key)

    def note_kit(self, vault: str, note: KitNote) -> None:
        """Remember that a kit of a vault was printed, so that nobody has to be reminded of it."""
        make_folders(self.folder, _PRIVATE_MODE)
        document = {"printed_at": note.printed_at.isoformat(), "recipients": note.recipients}
        write_atomically(self.folder / f"{vault}.kit.json", json.dumps(document).encode() + b"\n")

    def kit(self, vault: str) -> KitNote | None:
        """Return when a kit of a vault was printed here last; None where none was, or the note is damaged."""
        try:
            document = json.loads(read_ordinary(self.folder / f"{vault}.kit.json", at_most=1 << 20))
            return KitNote(datetime.fromisoformat(document["printed_at"]), tuple(map(str, document["recipients"])))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def note_bad_chunks(self, vault: str, names: Collection[str], *, whole: bool) -> None:
        """Remember which stored chunks a check found bad, so that no copy relies on them.

        Args:
            vault: the vault's id.
            names: of the chunks.
            whole: whether all of the vault was checked: what was noted before counts no more.
        """
        known = set() if whole else set(self.bad_chunks(vault))
        if known | set(names) or self.bad_chunks(vault):
            make_folders(self.folder, _PRIVATE_MODE)
            write_atomically(self.folder / f"{vault}.bad-chunks", json.dumps(sorted(known | set(names))).encode())

    def bad_chunks(self, vault: str) -> frozenset[str]:
        """Return the names of chunks that a check found bad."""
        try:
            return frozenset(map(str, json.loads(read_ordinary(self.folder / f"{vault}.bad-chunks", at_most=1 << 28))))
        except (OSError, ValueError, TypeError):
            return frozenset()

    def _read(self, name: str) -> bytes | None:
        place = self.folder / name
        try:
            key = bytes.fromhex(read_ordinary(place, at_most=1024).decode("ascii"))
        except FileNotFoundError:
            return bytes.fromhex(self._given[name]) if name in self._given else None
        except OSError as error:
            raise translate_os_error(error, place) from error
        except ValueError as error:
            raise StoreError("The key is damaged.", where=str(place), remedy="Put it back from a backup.") from error
        if len(key) != 32:
            raise StoreError("The key is damaged.", where=str(place), remedy="Put it back from a backup.")
        return key

    def _write(self, name: str, key: bytes) -> None:
        make_folders(self.folder, _PRIVATE_MODE)
        write_atomically(self.folder / name, key.hex().encode() + b"\n")

    def uploads_file(self, vault: str) -> Path:
        """Return the file with notes of what this machine has uploaded to a vault and no copy names yet."""
        return self.folder / f"{vault}.uploads"
