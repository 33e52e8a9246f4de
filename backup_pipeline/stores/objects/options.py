"""Options of a place of objects: which variables hold its credentials, how it is reached, how long it may take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backup_pipeline.errors import SettingsError


@dataclass(frozen=True)
class TimeLimits:
    """How long a place may take; in seconds.

    Args:
        connect: to open a connection.
        read: for one request, from the first byte sent to the answer's head, and between two pieces of the answer.
        total: for one call with all its repetitions.
        first_answer: the same while the place has not answered at all since it was opened.
        first_pause: the longest pause before the first repetition; the longest doubles each time.
        longest_pause: the longest pause of all.
    """

    connect: float = 10.0
    read: float = 120.0
    total: float = 300.0
    first_answer: float = 30.0
    first_pause: float = 0.5
    longest_pause: float = 20.0


@dataclass(frozen=True)
class PlaceOptions:
    """What a place's settings say beside its URL. Variables are named; their values are read from `environment`.

    Args:
        credentials_env: part of the credentials → name of the variable that holds it. S3: access_key, secret_key,
            session_token; Azure: account, key or sas; Google: service_account (path of the key file, or its JSON);
            SFTP: password, passphrase (of the key file).
        endpoint_env: variable that holds the address of an S3-compatible service or of an emulator.
        region: region of an S3 bucket.
        path_style: S3 addresses with the bucket in the path (what compatibles want) and not in the host's name.
        checksums: send a SHA-256 with each object to S3; buckets with Object Lock ask for one, a few old services
            refuse it.
        conditional_create: False where the service cannot create an object only if it is absent; then only one machine
            may write.
        lock_mode: `COMPLIANCE` or `GOVERNANCE`, for objects locked one by one.
        key_file: private key for SFTP.
        known_hosts: file of host keys for SFTP; ~/.ssh/known_hosts otherwise.
        connections: requests in flight at most, where the place holds its connections itself (SFTP).
        limits: limits of time.
        environment: where variables are read.
    """

    credentials_env: Mapping[str, str] = field(default_factory=dict)
    endpoint_env: str = ""
    region: str = ""
    path_style: bool = True
    checksums: bool = True
    conditional_create: bool = True
    lock_mode: str = "COMPLIANCE"
    key_file: Path | None = None
    known_hosts: Path | None = None
    connections: int = 8
    limits: TimeLimits = TimeLimits()
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    def credential(self, part: str) -> str:
        """Return one part of the credentials; "" when the settings name no variable for it.

        Raises:
            SettingsError: the variable that the settings name is not set.
        """
        name = self.credentials_env.get(part, "")
        return self._value(name, f"credentials_env.{part}") if name else ""

    def required_credential(self, part: str) -> str:
        """Return one part of the credentials.

        Raises:
            SettingsError: the settings name no variable for it, or it is not set.
        """
        if not self.credentials_env.get(part):
            raise SettingsError(
                "The settings name no variable for this part of the credentials.",
                where=f"credentials_env.{part}",
                remedy=f"Write credentials_env: {{{part}: NAME_OF_A_VARIABLE}} and set that variable in .env.",
            )
        return self.credential(part)

    def endpoint(self) -> str:
        """Return the address of the service; "" for the provider's own.

        Raises:
            SettingsError: the variable is not set, or holds no http address.
        """
        if not self.endpoint_env:
            return ""
        address = self._value(self.endpoint_env, "endpoint_env").rstrip("/")
        if not address.startswith(("http://", "https://")):
            raise SettingsError(
                "The variable does not hold an address that begins with https:// (or http://).",
                where=self.endpoint_env,
                remedy="Write the service's whole address there, for example https://s3.example.org",
            )
        return address

    def _value(self, name: str, setting: str) -> str:
        if value := self.environment.get(name, "").strip():
            return value
        raise SettingsError(
            f"The variable that {setting} names is not set.",
            where=name,
            remedy=f"Set {name} in .env or the environment.",
        )
