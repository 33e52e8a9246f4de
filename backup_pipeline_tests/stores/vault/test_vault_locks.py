"""Object Lock under a vault, by a real server: what is locked survives whoever has the machine's credentials."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from backup_pipeline.cli.common import run_app
from backup_pipeline.cli.main import build_app
from backup_pipeline.errors import RefusedError
from backup_pipeline.model.set_id import SetId
from backup_pipeline.stores.objects.opening import open_place
from backup_pipeline.stores.vault.check import VaultCheckResult, check_content, check_stored
from backup_pipeline.stores.vault.check_locks import check_locks
from backup_pipeline.stores.vault.clean import clean
from backup_pipeline.stores.vault.encryption import new_identity
from backup_pipeline.stores.vault.locks import lock_end
from backup_pipeline.stores.vault.names import COPIES, DESCRIPTION
from backup_pipeline.stores.vault.vault import VaultReader
from backup_pipeline_tests.stores.vault.test_vault_copies import contents
from backup_pipeline_tests.stores.vault.test_vault_plan_store import capture, draft, seal
from backup_pipeline_tests.stores.vault.test_vault_store import drilled
from backup_pipeline_tests.support.object_servers import S3Server, weed_server
from backup_pipeline_tests.support.sites import TestSite
from backup_pipeline_tests.support.vault_sites import FILES, VaultSite

pytestmark = pytest.mark.takes(seconds=3, together="locks of vaults")
_BUCKET = "locking"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS with a bucket that has Object Lock; moto answers 500 when asked for a lock that is not there."""
    with weed_server(tmp_path_factory.mktemp("weed")) as made:
        made.client.create_bucket(Bucket=_BUCKET, ObjectLockEnabledForBucket=True)
        made.client.create_bucket(Bucket="plain")
        yield made


@pytest.fixture
def prefix() -> str:
    return secrets.token_hex(4)


@pytest.fixture
def site(server: S3Server, prefix: str, tmp_path: Path) -> VaultSite:
    return VaultSite(tmp_path, place=open_place(f"s3://{_BUCKET}/{prefix}", server.options())).init()


def _in_days(days: int) -> datetime:
    return lock_end(datetime.now(UTC), days)


def _destroy(server: S3Server, prefix: str) -> tuple[int, int]:
    """Do what an intruder with the machine's credentials can; returns how many versions went and how many stayed."""
    client = server.client
    gone = kept = 0
    keys = [one["Key"] for one in client.list_objects_v2(Bucket=_BUCKET, Prefix=prefix)["Contents"]]
    for number, key in enumerate(keys):
        if number % 2:
            client.delete_object(Bucket=_BUCKET, Key=key)
        else:
            size = client.head_object(Bucket=_BUCKET, Key=key)["ContentLength"]
            client.put_object(Bucket=_BUCKET, Key=key, Body=b"\0" * size, ContentMD5=_md5(b"\0" * size))
    for page in client.get_paginator("list_object_versions").paginate(Bucket=_BUCKET, Prefix=prefix):
        for version in page["Versions"]:
            one = {"Bucket": _BUCKET, "Key": version["Key"], "VersionId": version["VersionId"]}
            if version["IsLatest"] and version["Key"] in keys[::2]:
                continue  # What he put there himself.
            with pytest.raises(ClientError):
                client.put_object_retention(
                    **one, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(minutes=1)}
                )
            try:
                client.delete_object(**one, BypassGovernanceRetention=True)
                gone += 1
            except ClientError:
                kept += 1
    return gone, kept


def _md5(data: bytes) -> str:
    import base64
    import hashlib

    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def test_who_has_the_credentials_cannot_destroy_what_is_locked(
    server: S3Server, site: VaultSite, prefix: str, tmp_path: Path
) -> None:
    set_id = site.seal()
    copy = site.copy(set_id, lock_until=_in_days(2)).copy
    gone, kept = _destroy(server, prefix)
    assert gone == 0
    assert kept > 6
    trusted = site.access.trusted()
    reader = VaultReader(site.place, site.identity, trusted)
    [stored] = reader.catalog.copies()[0]
    assert contents(reader.reader(stored).fetch(tmp_path / "to")) == contents(site.store.path_of(set_id))
    result = check_stored(reader.catalog)
    check_content(reader.catalog, [stored], reader.opener, reader.id_key, result)
    assert not result.findings
    check_locks(reader.catalog, 2, result)
    assert {DESCRIPTION, COPIES + copy} <= set(result.hidden)
    assert len([name for name in result.hidden if name.startswith("chunks/")]) == result.chunks
    # The next copy of another set goes in as ever, and brings what it needs.
    second = site.copy(site.seal(1, FILES | {"more.bin": b"more"}), lock_until=_in_days(2))
    assert second.sent
    site.fetch(second.copy, tmp_path / "second")


def test_a_chunk_that_a_later_copy_shares_is_locked_as_long_as_that(site: VaultSite) -> None:
    first = site.copy(site.seal(), lock_until=_in_days(2))
    until = _in_days(12)
    second = site.copy(site.seal(1, FILES | {"zz.txt": b"one more"}), lock_until=until)
    assert second.sent < first.sent
    for chunk in site.access.catalog().copy(second.copy).header.needed:
        state = site.place.lock_state(f"chunks/{chunk.name[:2]}/{chunk.name}")
        assert state.until >= until
    for name in (DESCRIPTION, "recover.py", "RECOVERY.md", COPIES + second.copy):
        assert site.place.lock_state(name).until >= until
    result = VaultCheckResult()
    check_locks(site.access.catalog(), 12, result)
    assert not result.findings
    assert result.locks > 6


def test_copies_of_one_step_ask_for_no_lock_twice(site: VaultSite) -> None:
    until = _in_days(12)
    site.copy(site.seal(), lock_until=until)
    asked = []
    extend = site.place.extend_lock
    site.place.extend_lock = lambda name, end: (asked.append(name), extend(name, end))[1]
    site.copy(site.seal(1, FILES | {"zz.txt": b"one more"}), lock_until=until)
    assert not [name for name in asked if name.startswith("chunks/")]


def test_a_lock_that_somebody_shortened_is_found(server: S3Server, prefix: str, tmp_path: Path) -> None:
    options = server.options(lock_mode="GOVERNANCE")
    site = VaultSite(tmp_path, place=open_place(f"s3://{_BUCKET}/{prefix}", options)).init()
    copy = site.copy(site.seal(), lock_until=_in_days(12)).copy
    server.client.put_object_retention(
        Bucket=_BUCKET,
        Key=f"{prefix}/copies/{copy}",
        BypassGovernanceRetention=True,
        Retention={"Mode": "GOVERNANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(days=1)},
    )
    result = VaultCheckResult()
    check_locks(site.access.catalog(), 12, result)
    [found] = result.findings
    assert copy in found.subject
    assert "should be until" in found.problem


def test_lock_days_where_nothing_is_locked_are_found(server: S3Server, prefix: str, tmp_path: Path) -> None:
    site = VaultSite(tmp_path, place=open_place(f"s3://plain/{prefix}", server.options())).init()
    copy = site.copy(site.seal(), lock_until=_in_days(12)).copy
    assert site.access.catalog().copy(copy).header.locked_until is None
    result = VaultCheckResult()
    check_locks(site.access.catalog(), 12, result)
    [found] = result.findings
    assert "nothing here is locked" in found.problem


def test_cleaning_respects_locks_and_says_what_they_forbid(site: VaultSite) -> None:
    copy = site.copy(site.seal(), lock_until=_in_days(2)).copy
    catalog = site.access.catalog()
    site.place.create("marks/" + copy, b"{}")
    # Four days on by the cleaner's clock; the storage's own lock does not care.
    later = datetime.now(UTC) + timedelta(days=4)
    site.place.server_time = lambda: later
    result = clean(catalog, lambda: later)
    assert not result.removed_copies
    assert result.locked[0].name == COPIES + copy
    assert str(_in_days(2).year) in result.locked[0].why
    assert result.removed_chunks == 0
    assert site.access.catalog().copy_names() == [copy]
    with pytest.raises(RefusedError, match="marked for removal"):
        site.copy(site.store.ids()[0])


@pytest.mark.parametrize("days", [1, 2, 7, 30, 365])
def test_the_end_of_a_lock_is_never_early_and_at_most_a_quarter_late(days: int) -> None:
    now = datetime(2026, 11, 21, 3, 4, 5, tzinfo=UTC)
    for hours in range(0, 24 * 40, 7):
        moment = now + timedelta(hours=hours)
        end = lock_end(moment, days)
        assert timedelta(days=days) <= end - moment <= timedelta(days=days + max(1, days / 4))


def test_a_plan_without_another_store_is_locked_and_proven_where_it_lies(site: VaultSite) -> None:
    store = site.plan_store(lock_until=_in_days(2))
    writer = store.begin(draft())
    capture(writer, {"large.bin": FILES["werkstatt_db.sql"], "small.txt": b"1"})
    set_id = seal(writer)
    for name in (info.name for info in site.place.list("")):
        if name.startswith(("chunks/", COPIES)):
            until = site.place.lock_state(name).until
            assert until is not None
            assert until >= _in_days(2) - timedelta(seconds=1), name
    copies = site.copied()
    with copies.open(set_id, "large.bin") as file:
        assert file.read() == FILES["werkstatt_db.sql"]
    copies.add_proof(set_id, drilled(set_id))
    assert copies.read(set_id).proven
    store.remove(set_id)
    assert not clean(site.access.catalog()).removed_copies, "marked a moment ago"


_SETTINGS = """
store: backups
sources: {{files: {{kind: folder, path: files}}}}
plans: {{nightly: {{sources: [files]}}}}
vaults:
  offsite:
    url: s3://locking/{prefix}
    endpoint_env: OFFSITE_ENDPOINT
    credentials_env: {{access_key: OFFSITE_KEY, secret_key: OFFSITE_SECRET}}
    lock_days: 2
    recipients: [{recipient}]
"""


def test_a_bare_machine_recovers_what_an_intruder_deleted_and_overwrote(
    server: S3Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = server.options().environment
    site = TestSite(tmp_path / "site")
    (site.folder / "files").mkdir(parents=True)
    (site.folder / "files" / "rows.csv").write_bytes(secrets.token_bytes(3_000_000))
    site.variables = {
        "OFFSITE_ENDPOINT": own["TEST_S3_ENDPOINT"],
        "OFFSITE_KEY": own["TEST_S3_KEY"],
        "OFFSITE_SECRET": own["TEST_S3_SECRET"],
    }
    secret, recipient = new_identity()
    (tmp_path / "identity.txt").write_text(secret + "\n")
    site.write(_SETTINGS.format(prefix=prefix, recipient=recipient))
    assert site.run("vault", "init", "offsite").code == 0
    assert site.run("backup", "nightly").code == 0
    assert site.run("vault", "copy", "offsite", "nightly/latest").code == 0
    whole = site.run("vault", "check", "offsite", "--json")
    assert whole.code == 0, whole.text
    assert json.loads(whole.out)["locks"] > 5
    kit = site.run("vault", "kit", "offsite", "--identity", str(tmp_path / "identity.txt"))
    assert kit.code == 0, kit.text
    assert "AWS_ACCESS_KEY_ID" in kit.out
    assert own["TEST_S3_SECRET"] not in kit.out
    assert _destroy(server, prefix)[0] == 0
    checked = site.run("vault", "check", "offsite", "--json")
    assert checked.code == 6
    assert "vault.json" in json.loads(checked.out)["hidden"]
    [command] = [row.strip() for row in kit.out.splitlines() if "vault recover" in row]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", own["TEST_S3_KEY"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", own["TEST_S3_SECRET"])
    assert run_app(build_app(), shlex.split(command)[1:]) == 0
    [found] = (tmp_path / "recovered" / "backups" / "nightly").iterdir()
    there = {path: data for path, data in contents(found).items() if data}
    kept = contents(site.store("nightly").path_of(SetId(found.name)))
    assert there == {path: data for path, data in kept.items() if data and not path.startswith("proofs/")}
