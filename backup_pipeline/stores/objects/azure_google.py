"""Azure Blob Storage and Google Cloud Storage as places of objects: their credentials and addresses for obstore."""

from __future__ import annotations

from typing import Any

from obstore.store import AzureStore, GCSStore

from backup_pipeline.errors import SettingsError
from backup_pipeline.stores.objects.cloud import CloudPlace, client_options
from backup_pipeline.stores.objects.options import PlaceOptions

_GOOGLE = "https://storage.googleapis.com"


def azure_place(container: str, prefix: str, *, label: str, options: PlaceOptions) -> CloudPlace:
    """Return the place of a container; credentials are an account and its key or a shared access signature.

    Raises:
        SettingsError: the settings name no account, or neither key nor sas.
    """
    account = options.required_credential("account")
    endpoint = options.endpoint() or f"https://{account}.blob.core.windows.net"
    config: Any = {"account_name": account, "endpoint": endpoint}
    if sas := options.credential("sas"):
        config["sas_key"] = sas
    elif key := options.credential("key"):
        config["account_key"] = key
    else:
        raise SettingsError(
            "The settings name neither a key nor a shared access signature.",
            where="credentials_env",
            remedy="Write credentials_env: {account: …, key: …} or {account: …, sas: …}.",
        )
    store = AzureStore(container, prefix=prefix or None, config=config, **client_options(options, endpoint))
    return CloudPlace(store, label=label, address=endpoint, options=options)


def google_place(bucket: str, prefix: str, *, label: str, options: PlaceOptions) -> CloudPlace:
    """Return the place of a bucket; the credential is a service account: its JSON, or the path of its file.

    Raises:
        SettingsError: the settings name no service account.
    """
    account = options.required_credential("service_account")
    endpoint = options.endpoint()
    config: Any = {"service_account_key" if account.startswith("{") else "service_account": account}
    if endpoint:
        config["base_url"] = endpoint
    store = GCSStore(bucket, prefix=prefix or None, config=config, **client_options(options, endpoint))
    return CloudPlace(store, label=label, address=endpoint or _GOOGLE, options=options)
