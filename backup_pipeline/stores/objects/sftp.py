"""SFTP as a place of objects, by asyncssh: one connection, whose requests go out side by side from many threads.

asyncssh and not paramiko, because it has OpenSSH's extensions that this needs: hard links (a name is created only if it
is not taken), rename over a name, fsync, free space.
"""

from __future__ import annotations

import asyncio
import posixpath
import secrets
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from backup_pipeline.errors import StoreError
from backup_pipeline.stores.objects.contract import DataView, ObjectInfo
from backup_pipeline.stores.objects.errors import (
    ObjectNotFoundError,
    PlaceFullError,
    PlaceRefusedError,
    PlaceUnreachableError,
)
from backup_pipeline.stores.objects.names import checked_name
from backup_pipeline.stores.objects.options import PlaceOptions
from backup_pipeline.stores.objects.repeating import Repeater
from backup_pipeline.stores.objects.unlocked import UnlockedPlace

T = TypeVar("T")
_INCOMING = ".incoming"
_MODES = {"file": 0o600, "folder": 0o700}
_DIRECTORY = 2
_REGULAR = 1
_Entries = tuple[tuple[str, asyncssh.SFTPAttrs], ...]


class SftpPlace(UnlockedPlace):
    """A folder of an SFTP server.

    Args:
        host: name or address.
        port: 22 usually.
        user: who logs in.
        root: absolute path of the folder; it must exist.
        options: key file, password, host keys, limits.
    """

    no_lock = (
        "SFTP cannot lock objects against deletion.",
        "Remove lock_days, or use a bucket with Object Lock.",
    )
    no_bucket_lock = "SFTP cannot lock objects: whoever may write may also delete."

    def __init__(self, host: str, port: int, user: str, root: str, *, options: PlaceOptions) -> None:
        self._address = (host, port, user)
        self._root = root.rstrip("/")
        self._options = options
        self._repeater = Repeater(options.limits)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sftp", daemon=True)
        self._thread.start()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._client: asyncssh.SFTPClient | None = None
        self._connecting = asyncio.Lock()
        self._slots = asyncio.Semaphore(options.connections)
        self._links = True
        try:
            self._call("", self._check_root)
        except BaseException:
            self.close()
            raise

    @property
    def label(self) -> str:
        """The URL of the settings."""
        host, port, user = self._address
        return f"sftp://{user}@{host}:{port}{self._root}"

    @property
    def conditional_create(self) -> bool:
        """Whether the server makes hard links; known once an object was created."""
        return self._links and self._options.conditional_create

    def create(self, name: str, data: DataView, *, lock_until: datetime | None = None) -> bool:
        """Write a file aside, sync it and link it to its name unless that is taken."""
        path = self._path(name)

        async def create(client: asyncssh.SFTPClient, attempt: int) -> bool:
            if await client.exists(path):
                return attempt > 1 and await _read(client, path, 0, -1) == data
            incoming = await self._write(client, data)
            try:
                await self._make_parents(client, path)
                return await self._link(client, incoming, path)
            finally:
                with suppress(asyncssh.SFTPError):
                    await client.unlink(incoming)

        return self._attempts(name, create)

    def put(self, name: str, data: DataView, *, lock_until: datetime | None = None) -> None:
        """Write a file aside, sync it and rename it over its name."""
        path = self._path(name)

        async def put(client: asyncssh.SFTPClient) -> None:
            incoming = await self._write(client, data)
            await self._make_parents(client, path)
            await client.posix_rename(incoming, path)

        self._call(name, put)

    def get(self, name: str) -> bytes:
        """Read a whole file."""
        path = self._path(name)
        return self._call(name, lambda client: _read(client, path, 0, -1))

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Read a part of a file."""
        path = self._path(name)
        return self._call(name, lambda client: _read(client, path, start, length))

    def info(self, name: str) -> ObjectInfo | None:
        """Ask for a file's attributes."""
        path = self._path(name)

        async def info(client: asyncssh.SFTPClient) -> ObjectInfo | None:
            attributes = await client.stat(path)
            return _info(name, attributes) if attributes.type == _REGULAR else None

        try:
            return self._call(name, info)
        except ObjectNotFoundError:
            self._call("", self._check_root)
            return None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Walk the folders that names with this prefix can stand in."""
        self._call("", self._check_root)
        top = prefix.rpartition("/")[0]
        yield from self._walk(f"{top}/" if top else "", prefix)

    def delete(self, name: str) -> None:
        """Remove a file."""
        path = self._path(name)
        with suppress(ObjectNotFoundError):
            self._call(name, lambda client: client.remove(path))

    def server_time(self) -> datetime | None:
        """Return the time that the server gives to a new file."""

        async def read(client: asyncssh.SFTPClient) -> datetime | None:
            incoming = await self._write(client, b"")
            try:
                return _time(await client.stat(incoming))
            finally:
                await client.unlink(incoming)

        return self._call("", read)

    def close(self) -> None:
        """End the connection and its thread."""
        self._repeater.close()
        if self._loop.is_closed():
            return

        async def end() -> None:
            if self._connection is not None:
                self._connection.abort()
                await asyncio.wait_for(self._connection.wait_closed(), self._options.limits.connect)

        with suppress(Exception):
            asyncio.run_coroutine_threadsafe(end(), self._loop).result(self._options.limits.connect)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(self._options.limits.connect)
        if not self._thread.is_alive():
            self._loop.close()

    def _path(self, name: str) -> str:
        return f"{self._root}/{checked_name(name)}"

    def _call(self, name: str, call: Callable[[asyncssh.SFTPClient], Awaitable[T]]) -> T:
        async def once(client: asyncssh.SFTPClient, _: int) -> T:
            return await call(client)

        return self._attempts(name, once)

    def _attempts(self, name: str, call: Callable[[asyncssh.SFTPClient, int], Coroutine[Any, Any, T]]) -> T:
        def attempt(number: int) -> T:
            return asyncio.run_coroutine_threadsafe(self._once(name, call, number), self._loop).result()

        return self._repeater.run(attempt)

    async def _once(
        self, name: str, call: Callable[[asyncssh.SFTPClient, int], Coroutine[Any, Any, T]], number: int
    ) -> T:
        limits = self._options.limits
        where = f"{self.label}/{name}" if name else self.label
        async with self._slots:
            client = await self._connected()
            try:
                return await asyncio.wait_for(call(client, number), limits.read)
            except (asyncssh.Error, TimeoutError, OSError) as error:
                lost = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection)
                if isinstance(error, asyncssh.SFTPError) and not isinstance(error, lost):
                    raise await self._error(client, error, where) from error
                self._drop(client)
                raise _unreachable("The connection broke off or there is no answer in time.", where) from error

    async def _connected(self) -> asyncssh.SFTPClient:
        async with self._connecting:
            if self._client is None:
                try:
                    await asyncio.wait_for(self._connect(), self._options.limits.connect)
                except asyncssh.HostKeyNotVerifiable as error:
                    raise self._unknown_host() from error
                except asyncssh.PermissionDenied as error:
                    raise PlaceRefusedError(
                        "The server accepts neither the key nor the password.",
                        where=self.label,
                        remedy="Put the public key into the server's authorized_keys, or correct the variable that "
                        "credentials_env.password names.",
                    ) from error
                except (asyncssh.Error, TimeoutError, OSError) as error:
                    raise _unreachable("There is no connection.", self.label) from error
            assert self._client is not None
            return self._client

    async def _connect(self) -> None:
        host, port, user = self._address
        options = self._options
        known_hosts = options.known_hosts or Path("~/.ssh/known_hosts").expanduser()
        if not known_hosts.is_file():
            raise self._unknown_host()
        key: dict[str, Any] = {"client_keys": None}
        if options.key_file is not None:
            try:
                passphrase = options.credential("passphrase") or None
                key["client_keys"] = [asyncssh.read_private_key(options.key_file, passphrase)]
            except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
                raise PlaceRefusedError(
                    "The private key cannot be read.",
                    where=str(options.key_file),
                    remedy="Correct key_file, or the variable that credentials_env.passphrase names.",
                ) from error
        self._connection = await asyncssh.connect(
            host,
            port,
            username=user,
            password=options.credential("password") or None,
            known_hosts=str(known_hosts),
            agent_path=None,
            config=None,
            keepalive_interval=15,
            **key,
        )
        self._client = await self._connection.start_sftp_client()

    def _unknown_host(self) -> PlaceRefusedError:
        host, port, _ = self._address
        return PlaceRefusedError(
            "The server's host key is not the known one, or none is known.",
            where=self.label,
            remedy=f"Compare the key that `ssh-keyscan -p {port} {host}` prints with the server's own "
            "(ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there) and add its line to the file of known_hosts.",
        )

    def _drop(self, client: asyncssh.SFTPClient) -> None:
        if self._client is client:
            self._client = None
            if self._connection is not None:
                self._connection.abort()

    async def _check_root(self, client: asyncssh.SFTPClient) -> None:
        if not await client.isdir(self._root or "/"):
            raise PlaceRefusedError(
                "There is no such folder on the server.", where=self.label, remedy="Make it there (mode 0700)."
            )

    async def _write(self, client: asyncssh.SFTPClient, data: DataView) -> str:
        """Write a synced file aside and return its path."""
        folder = f"{self._root}/{_INCOMING}"
        path = f"{folder}/{secrets.token_hex(12)}"
        await self._make_folder(client, folder)
        file = await client.open(path, "xb", asyncssh.SFTPAttrs(permissions=_MODES["file"]))
        try:
            try:
                await file.write(bytes(data))
                with suppress(asyncssh.SFTPOpUnsupported):
                    await file.fsync()
            finally:
                await file.close()
        except BaseException:
            with suppress(asyncssh.SFTPError):
                await client.unlink(path)
            raise
        return path

    async def _link(self, client: asyncssh.SFTPClient, incoming: str, path: str) -> bool:
        if self._links:
            try:
                await client.link(incoming, path)
            except asyncssh.SFTPOpUnsupported:
                self._links = False
            except asyncssh.SFTPError:
                if await client.exists(path):
                    return False
                raise
            else:
                return True
        try:
            # Version 3 of the protocol forbids to rename over a name; not every server obeys.
            await client.rename(incoming, path)
        except asyncssh.SFTPFailure:
            if await client.exists(path):
                return False
            raise
        return True

    async def _make_parents(self, client: asyncssh.SFTPClient, path: str) -> None:
        parent = posixpath.dirname(path)
        if parent != self._root and not await client.isdir(parent):
            await self._make_parents(client, parent)
            await self._make_folder(client, parent)

    async def _make_folder(self, client: asyncssh.SFTPClient, path: str) -> None:
        if not await client.isdir(path):
            try:
                await client.mkdir(path, asyncssh.SFTPAttrs(permissions=_MODES["folder"]))
            except asyncssh.SFTPError:
                if not await client.isdir(path):
                    raise

    def _walk(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        for name, attributes in self._entries(folder):
            if attributes.type == _DIRECTORY:
                if name.startswith(prefix) or prefix.startswith(name):
                    yield from self._walk(name, prefix)
            elif attributes.type == _REGULAR and name.startswith(prefix):
                yield _info(name, attributes)

    def _entries(self, folder: str) -> _Entries:
        """Return a folder's visible entries in the order of the names below them; folders end with "/"."""

        async def read(client: asyncssh.SFTPClient) -> _Entries:
            found = []
            for entry in await client.readdir(f"{self._root}/{folder}".rstrip("/") or "/"):
                name = str(entry.filename)
                if not name.startswith("."):
                    found.append((folder + name + "/" * (entry.attrs.type == _DIRECTORY), entry.attrs))
            return tuple(sorted(found, key=lambda pair: pair[0].encode(errors="surrogateescape")))

        try:
            return self._call(folder, read)
        except ObjectNotFoundError:
            return ()

    async def _error(self, client: asyncssh.SFTPClient, error: asyncssh.SFTPError, where: str) -> StoreError:
        if isinstance(error, (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)):
            with suppress(asyncssh.Error):
                await self._check_root(client)
            return ObjectNotFoundError("There is no object of this name.", where=where)
        if isinstance(error, (asyncssh.SFTPPermissionDenied, asyncssh.SFTPWriteProtect)):
            return PlaceRefusedError(
                "The server's permissions do not allow it.",
                where=where,
                remedy="Give this user the right to read and write there, or mount the disk for writing.",
            )
        if isinstance(error, (asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded)) or await self._full(
            client
        ):
            return PlaceFullError(
                "No space is left on the server.",
                where=where,
                remedy="Make room there, or let `vault clean` remove old copies.",
            )
        return StoreError(
            f"The server refused with {type(error).__name__}.", where=where, remedy="Read the server's log."
        )

    async def _full(self, client: asyncssh.SFTPClient) -> bool:
        """Return whether the disk is full: version 3 of the protocol has no code for it."""
        try:
            return (await client.statvfs(self._root or "/")).bavail == 0
        except asyncssh.Error:
            return False


async def _read(client: asyncssh.SFTPClient, path: str, start: int, length: int) -> bytes:
    async with client.open(path, "rb") as file:
        data = await file.read(length, start) if length else b""
    return data if isinstance(data, bytes) else data.encode()


def _unreachable(what: str, where: str) -> PlaceUnreachableError:
    return PlaceUnreachableError(
        what, where=where, remedy="Check whether the server is up and this machine may reach it; the next run goes on."
    )


def _time(attributes: asyncssh.SFTPAttrs) -> datetime | None:
    return None if attributes.mtime is None else datetime.fromtimestamp(attributes.mtime, UTC)


def _info(name: str, attributes: asyncssh.SFTPAttrs) -> ObjectInfo:
    return ObjectInfo(name, attributes.size or 0, _time(attributes))
