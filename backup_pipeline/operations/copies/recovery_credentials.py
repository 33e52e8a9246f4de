"""Variables that hold a storage's credentials on a machine without settings: those of its provider's own programs."""

from __future__ import annotations

_VARIABLES = {
    "s3": {
        "access_key": "AWS_ACCESS_KEY_ID",
        "secret_key": "AWS_SECRET_ACCESS_KEY",
        "session_token": "AWS_SESSION_TOKEN",
    },
    "az": {"account": "AZURE_STORAGE_ACCOUNT", "key": "AZURE_STORAGE_KEY", "sas": "AZURE_STORAGE_SAS_TOKEN"},
    "gs": {"service_account": "GOOGLE_APPLICATION_CREDENTIALS"},
    "sftp": {"password": "SFTP_PASSWORD", "passphrase": "SFTP_PASSPHRASE"},
}
_OPTIONAL = {"session_token", "sas", "password", "passphrase"}


def recovery_credentials(url: str) -> dict[str, str]:
    """Return which well-known variable holds which part of a place's credentials, where there are no settings."""
    return _VARIABLES.get(url.partition("://")[0], {})


def recovery_variables(url: str) -> tuple[str, ...]:
    """Return the variables that `vault recover` cannot do without at this URL."""
    return tuple(name for part, name in recovery_credentials(url).items() if part not in _OPTIONAL)
