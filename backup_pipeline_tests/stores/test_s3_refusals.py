"""What an S3 service may refuse or not answer of what is asked beside the data: tokens, versions, locks."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup_pipeline.stores.objects.errors import ObjectLockedError, PlaceRefusedError, PlaceUnreachableError
from backup_pipeline.stores.objects.opening import open_place
from backup_pipeline.stores.vault.check import VaultCheckResult
from backup_pipeline.stores.vault.check_locks import check_locks
from backup_pipeline_tests.support.object_servers import LIMITS, HttpTrouble, S3Server, http_trouble
from backup_pipeline_tests.support.vault_sites import VaultSite

pytestmark = pytest.mark.takes(seconds=2, together="places of objects")
Refusal = Callable[[str, str], tuple[int, str] | None]


@pytest.fixture
def trouble(weed: S3Server) -> Iterator[HttpTrouble]:
    """A proxy before SeaweedFS."""
    with http_trouble(weed.address) as proxy:
        yield proxy


def asks(word: str, status: int, code: str) -> Refusal:
    return lambda method, path: (status, code) if word in path.partition("?")[2] else None


def test_an_expired_session_token_is_named_with_its_remedy(weed: S3Server, trouble: HttpTrouble) -> None:
    trouble.refuse = lambda method, path: (400, "ExpiredToken")
    options = weed.options(trouble.address)
    environment = {**options.environment, "TOKEN": "a-token-of-yesterday"}
    named = {**options.credentials_env, "session_token": "TOKEN"}
    place = open_place("s3://locking/x", replace(options, environment=environment, credentials_env=named))
    for call in (lambda: place.create("one", b"x"), lambda: place.get("one"), place.bucket_lock):
        with pytest.raises(PlaceRefusedError, match=r"session token has expired.*keys that do not expire") as caught:
            call()
        assert "a-token-of-yesterday" not in str(caught.value)
    assert trouble.requests == 3, "none is tried again"


def test_versions_that_may_not_be_listed_are_a_finding_of_the_check(
    weed: S3Server, trouble: HttpTrouble, tmp_path: Path
) -> None:
    place = open_place(f"s3://locking/{secrets.token_hex(4)}", weed.options(trouble.address))
    site = VaultSite(tmp_path, place=place).init()
    site.copy(site.seal(), lock_until=datetime.now(UTC) + timedelta(days=2))
    trouble.refuse = asks("versions", 403, "AccessDenied")
    result = VaultCheckResult()
    check_locks(site.access.catalog(), 1, result)
    [finding] = result.findings
    assert "s3:ListBucketVersions" in finding.remedy
    assert result.locks > 4


def test_locks_that_the_service_never_answers_are_given_up_soon(
    weed: S3Server, trouble: HttpTrouble, tmp_path: Path
) -> None:
    limits = replace(LIMITS, total=300, first_answer=1)
    place = open_place(f"s3://locking/{secrets.token_hex(4)}", weed.options(trouble.address, limits=limits))
    site = VaultSite(tmp_path, place=place).init()
    site.copy(site.seal(), lock_until=datetime.now(UTC) + timedelta(days=2))
    trouble.refuse = asks("retention", 500, "InternalError")
    with pytest.raises(PlaceUnreachableError, match=r"Tried \d+ times in [0-3] seconds"):
        check_locks(site.access.catalog(), 1, VaultCheckResult())


def test_locks_hold_where_the_service_cannot_create_conditionally(weed: S3Server) -> None:
    options = weed.options(conditional_create=False)
    place = open_place(f"s3://locking/{secrets.token_hex(4)}", options)
    until = datetime.now(UTC) + timedelta(days=3)
    assert place.create("one", b"first", lock_until=until)
    assert not place.create("one", b"second", lock_until=until)
    assert place.get("one") == b"first"
    state = place.lock_state("one")
    assert state.until is not None
    assert state.until >= until
    with pytest.raises(ObjectLockedError):
        place.delete("one")


def test_a_bucket_without_locks_needs_neither_botocore_nor_requests(weed: S3Server) -> None:
    bucket = f"plain-{secrets.token_hex(4)}"
    weed.client.create_bucket(Bucket=bucket)
    options = weed.options()
    program = f"""
import sys
from backup_pipeline.stores.objects.opening import open_place
from backup_pipeline.stores.objects.options import PlaceOptions
place = open_place("s3://{bucket}/x", PlaceOptions({dict(options.credentials_env)!r}, {options.endpoint_env!r}))
assert place.create("one", b"x") and place.get("one") == b"x" and not list(place.versions("")) and place.server_time()
assert not place.bucket_lock().enabled
print({{"botocore", "requests", "urllib3"}} & set(sys.modules))
"""
    environment = {**os.environ, **options.environment}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n", "they take most of a second to be loaded"
