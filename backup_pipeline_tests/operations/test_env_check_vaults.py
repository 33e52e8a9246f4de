"""`env check` says of each vault what would keep copies from being made, read or protected."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup_pipeline.stores.objects.opening import open_place
from backup_pipeline_tests.support.copies_site import CopiesSite
from backup_pipeline_tests.support.object_servers import READER_KEY, S3Server, weed_server


def faults(site: CopiesSite) -> dict[str, list[str]]:
    """Return severity → what is wrong with vaults."""
    found: dict[str, list[str]] = {"ERROR": [], "WARN": []}
    for fault in json.loads(site.run("env", "check", "--json").out)["faults"]:
        if fault["where"].startswith(("vaults.", "VAULT_", "OFFSITE_")):
            found[fault["severity"]].append(f"{fault['where']}: {fault['what']}")
    return found


def test_a_good_vault_asks_only_for_its_kit_and_names_that_a_folder_locks_nothing(tmp_path: Path) -> None:
    site = CopiesSite(tmp_path).begin()
    found = faults(site)
    assert found["ERROR"] == []
    assert [one.split(":")[1].strip() for one in found["WARN"]] == [
        "whoever has its credentials can delete every copy",
        "no kit was printed",
    ]
    assert site.run("vault", "kit", "offsite", "--identity", str(site.identity)).code == 0
    assert len(faults(site)["WARN"]) == 1


def test_what_keeps_copies_from_being_made_is_an_error(tmp_path: Path) -> None:
    site = CopiesSite(tmp_path, entry=', drill: "0 6 1 * *"').begin()
    assert faults(site)["ERROR"] == [
        "VAULT_IDENTITY_FILE: not set, and drills of offsite:nightly are asked for, which need it"
    ]
    keys = site.folder / ".backup-pipeline" / "vault-keys"
    for file in keys.glob("*.id-key"):
        file.rename(tmp_path / file.name)
    assert any("this machine has not joined the vault" in one for one in faults(site)["ERROR"])
    good, site.recipient = site.recipient, "age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq"
    site.settle()
    assert any(f"The vault is encrypted to {good}" in one for one in faults(site)["ERROR"])
    site.recipient = ""
    site.settle()
    assert any("it has no recipients" in one for one in faults(site)["ERROR"])
    site.recipient = good
    site.settle()
    site.vault.rename(tmp_path / "unplugged")
    assert any(str(site.vault) in one or "folder" in one for one in faults(site)["ERROR"])


def test_an_identity_on_the_machine_that_writes_is_a_warning(tmp_path: Path) -> None:
    site = CopiesSite(tmp_path)
    site.variables["VAULT_IDENTITY_FILE"] = str(site.identity)
    site.begin()
    assert any("on the machine that writes" in one for one in faults(site)["WARN"])
    site.identity.unlink()
    assert any("VAULT_IDENTITY_FILE" in one for one in faults(site)["ERROR"])


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with weed_server(tmp_path_factory.mktemp("weed")) as running:
        yield running


def in_bucket(folder: Path, weed: S3Server, bucket: str, *, lock: bool, lock_days: int) -> CopiesSite:
    """Return a site whose vault is in a new bucket of SeaweedFS."""
    weed.client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=lock)
    names = ", ".join(f"{part}: {name}" for part, name in weed.options().credentials_env.items())
    site = CopiesSite(
        folder,
        url=f"s3://{bucket}/site",
        vault=f", region: us-east-1, endpoint_env: TEST_S3_ENDPOINT, credentials_env: {{{names}}}, "
        f"lock_days: {lock_days}",
    )
    site.variables.update(weed.options().environment)
    return site.begin()


def test_lock_days_without_a_lock_is_an_error_and_wrong_credentials_are_named(tmp_path: Path, weed: S3Server) -> None:
    site = in_bucket(tmp_path, weed, "open-bucket", lock=False, lock_days=30)
    assert any("lock_days is 30, and its storage locks nothing" in one for one in faults(site)["ERROR"])
    good = dict(site.variables)
    site.variables["TEST_S3_SECRET"] = "not-the-secret-of-this-bucket"
    site.write_env()
    shown = site.run("env", "check", "--json")
    assert "not-the-secret-of-this-bucket" not in shown.text
    assert any("credentials" in one or "signature" in one.lower() for one in faults(site)["ERROR"]), faults(site)
    site.variables = {**good, "TEST_S3_SECRET": ""}
    site.write_env()
    assert any(
        "TEST_S3_SECRET" in fault["where"] for fault in json.loads(site.run("env", "check", "--json").out)["faults"]
    )


def test_credentials_that_may_only_read_are_an_error_and_the_check_writes_nothing(
    tmp_path: Path, weed: S3Server
) -> None:
    site = in_bucket(tmp_path, weed, "read-bucket", lock=True, lock_days=1)
    before = weed.client.list_object_versions(Bucket="read-bucket")["Versions"]
    assert faults(site)["ERROR"] == []
    assert weed.client.list_object_versions(Bucket="read-bucket")["Versions"] == before
    site.variables["TEST_S3_KEY"] = READER_KEY
    site.write_env()
    assert any("nothing can be written there" in one for one in faults(site)["ERROR"]), faults(site)


def test_copies_under_object_lock_are_known_as_locked_and_stay(tmp_path: Path, weed: S3Server) -> None:
    site = in_bucket(tmp_path, weed, "locked-bucket", lock=True, lock_days=20)
    site.entry = ", retention: {keep_last: 1}"
    site.settle()
    assert faults(site)["ERROR"] == []
    for text in ("first", "second"):
        site.change_files(text)
        done = site.run("backup", "nightly")
        assert done.code == 0, done.text
    [status] = json.loads(site.run("status", "nightly", "--json").out)["plans"]
    [copies] = status["copies"]
    assert len(copies["locked_copies"]) == 2
    answers = {one["rule"]: one for one in status["three_two_one_one_zero"]}
    assert answers["1 immutable"]["holds"]
    # The server is on this machine: no other building, whatever its scheme.
    assert not answers["1 off-site"]["holds"]

    cleaned = json.loads(site.run("vault", "clean", "offsite", "--json").out)
    first = site.store("nightly").sealed_ids()[0]
    [going] = [one for one in cleaned["plans"][0]["copies"] if not one["keep"]]
    assert going["set"] == first
    assert going["forbidden_until"]
    assert cleaned["plans"][0]["marked"] == []
    assert "the storage forbids to delete it until" in site.run("vault", "clean", "offsite", "--dry-run").out
    assert open_place(site.url, weed.options(region="us-east-1")).lock_state(f"copies/{going['copy']}").until


def test_status_asks_no_vault(tmp_path: Path, weed: S3Server) -> None:
    site = in_bucket(tmp_path, weed, "status-bucket", lock=False, lock_days=0)
    assert site.run("backup", "nightly").code == 0
    site.variables["TEST_S3_ENDPOINT"] = "http://127.0.0.1:9"
    site.write_env()
    shown = site.run("status", "nightly")
    assert shown.code == 0, shown.text
    assert "offsite: 1, newest" in shown.out
    assert "(asked 0 min ago)" in shown.out or "(asked 1 min ago)" in shown.out
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", 9), timeout=5).close()
