"""Servers of objects for the tests of stores, one of each for a file of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backup_pipeline.stores.objects.options import PlaceOptions
from backup_pipeline_tests.support.google_storage import GoogleStorage, google_storage
from backup_pipeline_tests.support.object_servers import (
    S3Server,
    SftpServer,
    azurite_server,
    moto_server,
    ssh_server,
    weed_server,
)


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS with a bucket without and one with Object Lock."""
    with weed_server(tmp_path_factory.mktemp("weed")) as server:
        server.client.create_bucket(Bucket="plain")
        server.client.create_bucket(Bucket="locking", ObjectLockEnabledForBucket=True)
        yield server


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """moto with a bucket."""
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        server.client.create_bucket(Bucket="plain")
        yield server


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    """OpenSSH's server."""
    with ssh_server(tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlaceOptions]:
    """Azurite with a container."""
    with azurite_server(tmp_path_factory.mktemp("azurite")) as options:
        yield options


@pytest.fixture(scope="module")
def google() -> Iterator[GoogleStorage]:
    """Google's storage, by the tests' own server, with a bucket."""
    with google_storage() as storage:
        storage.buckets["copies"] = {"name": "copies"}
        yield storage
