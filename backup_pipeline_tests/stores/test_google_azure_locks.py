"""What Google's and Azure's storage say of retention, immutability and holds, answered as their documentation shows."""

from __future__ import annotations

import base64
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.stores.objects.contract import BucketLock, LockState, ObjectPlace
from backup_pipeline.stores.objects.errors import ObjectLockedError
from backup_pipeline.stores.objects.opening import open_place
from backup_pipeline.stores.objects.options import PlaceOptions
from backup_pipeline.stores.vault.check import VaultCheckResult, check_stored
from backup_pipeline.stores.vault.check_locks import check_locks
from backup_pipeline.stores.vault.clean import clean
from backup_pipeline_tests.support.google_storage import GoogleStorage
from backup_pipeline_tests.support.memory_place import MemoryPlace
from backup_pipeline_tests.support.object_servers import LIMITS
from backup_pipeline_tests.support.vault_sites import VaultSite

_DAY = 86_400


def bucket_of(google: GoogleStorage, **said: object) -> tuple[str, ObjectPlace]:
    """Make a bucket whose resource says this, and open a place in it."""
    name = f"b{secrets.token_hex(4)}"
    google.buckets[name] = {"name": name, **said}
    return name, open_place(f"gs://{name}/site", google.options())


def policy(days: int, *, locked: bool) -> dict[str, object]:
    """A retentionPolicy as "Buckets: get" answers it; isLocked only where it is."""
    found = {"retentionPeriod": str(days * _DAY), "effectiveTime": "2026-01-01T08:00:00.000Z"}
    return found | ({"isLocked": True} if locked else {})


class TestGoogle:
    """By a server that keeps what it says."""

    @pytest.mark.parametrize(("locked", "mode"), [(True, "COMPLIANCE"), (False, "GOVERNANCE")])
    def test_a_retention_policy_keeps_every_object_and_is_read(
        self, google: GoogleStorage, locked: bool, mode: str
    ) -> None:
        _, place = bucket_of(google, retentionPolicy=policy(30, locked=locked))
        lock = place.bucket_lock()
        assert (lock.enabled, lock.default_days, lock.mode, lock.extendable) == (True, 30, mode, False)
        assert place.create("one", b"x")
        state = place.lock_state("one")
        assert state.until is not None
        assert abs(state.until - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=1)
        for call in (lambda: place.delete("one"), lambda: place.put("one", b"y")):
            with pytest.raises(ObjectLockedError):
                call()
        assert not place.create("one", b"y")
        assert place.get("one") == b"x"

    @pytest.mark.parametrize(("mode", "ours"), [("Locked", "COMPLIANCE"), ("Unlocked", "GOVERNANCE")])
    def test_an_objects_own_retention_counts_beside_the_buckets(
        self, google: GoogleStorage, mode: str, ours: str
    ) -> None:
        name, place = bucket_of(google, objectRetention={"mode": "Enabled"}, retentionPolicy=policy(2, locked=False))
        assert place.create("one", b"x")
        google.objects[name, "site/one"].said["retention"] = {"mode": mode, "retainUntilTime": "2036-05-06T07:08:09Z"}
        state = place.lock_state("one")
        assert (state.until, state.mode) == (datetime(2036, 5, 6, 7, 8, 9, tzinfo=UTC), ours)
        with pytest.raises(ObjectLockedError):
            place.delete("one")
        google.objects[name, "site/one"].said["retention"]["retainUntilTime"] = "2026-01-01T00:00:00Z"
        state = place.lock_state("one")
        assert state.until is not None
        assert state.until > datetime.now(UTC)

    def test_a_bucket_for_object_retention_locks_nothing_by_itself_and_says_so(self, google: GoogleStorage) -> None:
        _, place = bucket_of(google, objectRetention={"mode": "Enabled"})
        lock = place.bucket_lock()
        assert not lock.enabled
        assert "retention of their own, which is not set here" in lock.detail
        place.create("one", b"x")
        assert place.lock_state("one").until is None

    @pytest.mark.parametrize("hold", ["temporaryHold", "eventBasedHold"])
    def test_a_held_object_is_locked_until_it_is_released(self, google: GoogleStorage, hold: str) -> None:
        name, place = bucket_of(google, retentionPolicy=policy(1, locked=False))
        place.create("one", b"x")
        google.objects[name, "site/one"].said[hold] = True
        state = place.lock_state("one")
        assert state.mode == "GOVERNANCE"
        assert state.until is not None
        assert state.until.year == 9999
        with pytest.raises(ObjectLockedError):
            place.delete("one")

    def test_a_bucket_that_holds_each_new_object_is_named(self, google: GoogleStorage) -> None:
        _, place = bucket_of(google, defaultEventBasedHold=True)
        assert "held until somebody releases it" in place.bucket_lock().detail
        place.create("one", b"x")
        with pytest.raises(ObjectLockedError):
            place.delete("one")

    def test_the_right_that_is_missing_to_read_the_policy_is_named(self, google: GoogleStorage) -> None:
        google.may_read_buckets = False
        try:
            lock = bucket_of(google, retentionPolicy=policy(30, locked=True))[1].bucket_lock()
        finally:
            google.may_read_buckets = True
        assert not lock.enabled
        assert "storage.buckets.get" in lock.detail

    def test_a_token_of_another_key_is_refused_without_its_text(self, google: GoogleStorage) -> None:
        with pytest.raises(BackupSystemError, match="credentials") as caught:
            open_place("gs://copies/x", GoogleStorage(google.address).options()).create("one", b"x")
        assert "PRIVATE KEY" not in str(caught.value)

    def test_a_vault_lives_in_a_bucket_with_a_retention_policy(self, google: GoogleStorage, tmp_path: Path) -> None:
        _, place = bucket_of(google, retentionPolicy=policy(30, locked=True))
        site = VaultSite(tmp_path, place=place).init()
        set_id = site.seal()
        until = datetime.now(UTC) + timedelta(days=30)
        assert site.copy(set_id, lock_until=until).sent > 1
        like = site.copy(site.seal(1), lock_until=until)
        assert like.sent < like.chunks / 2
        result: VaultCheckResult = check_stored(site.access.catalog())
        check_locks(site.access.catalog(), 30, result)
        assert result.findings == []
        assert result.locks > 4
        for _ in range(2):
            # The lease, which is kept as well, does not stop the next cleaning.
            assert clean(site.access.catalog()).removed_chunks == 0
        fetched = site.fetch(site.access.catalog().copy_names()[0], tmp_path / "back")
        assert (fetched / "manifest.json").exists()


@dataclass
class AzureAnswers:
    """A service that answers HEAD of container and blobs with the headers of the test."""

    address: str = ""
    container: dict[str, str] = field(default_factory=dict)
    blob: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def open(self) -> ObjectPlace:
        key = base64.b64encode(b"key").decode()
        environment = {"ACCOUNT": "acct", "KEY": key, "ENDPOINT": f"{self.address}/acct"}
        return open_place(
            "az://copies/site",
            PlaceOptions(
                credentials_env={"account": "ACCOUNT", "key": "KEY"},
                endpoint_env="ENDPOINT",
                limits=LIMITS,
                environment=environment,
            ),
        )


@pytest.fixture
def azure() -> Iterator[AzureAnswers]:
    answers = AzureAnswers()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            answers.asked.append(self.path)
            assert self.headers["Authorization"].startswith("SharedKey acct:")
            self.send_response(200)
            for name, value in (answers.container if "restype=container" in self.path else answers.blob).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    answers.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield answers
    server.shutdown()
    server.server_close()


class TestAzure:
    """Azurite has no immutability, so the headers of "Get Container Properties" and "Get Blob Properties" are given."""

    def test_a_containers_policy_is_named_and_its_days_are_not_known(self, azure: AzureAnswers) -> None:
        azure.container = {"x-ms-has-immutability-policy": "true", "x-ms-has-legal-hold": "false"}
        lock = azure.open().bucket_lock()
        assert (lock.enabled, lock.default_days, lock.extendable) == (True, None, False)
        assert "immutability policy" in lock.detail
        assert not azure.open().lock_state("chunks/ab/one").supported
        assert azure.asked[1].startswith("/acct/copies/site/chunks/ab/one")

    def test_a_container_without_a_policy_locks_nothing(self, azure: AzureAnswers) -> None:
        azure.container = {"x-ms-has-immutability-policy": "false", "x-ms-has-legal-hold": "true"}
        lock = azure.open().bucket_lock()
        assert not lock.enabled
        assert lock.detail.endswith("It has a legal hold.")

    @pytest.mark.parametrize(("mode", "ours"), [("unlocked", "GOVERNANCE"), ("locked", "COMPLIANCE")])
    def test_a_versions_policy_is_read_with_its_end(self, azure: AzureAnswers, mode: str, ours: str) -> None:
        azure.container = {"x-ms-immutable-storage-with-versioning-enabled": "true"}
        azure.blob = {
            "x-ms-version-id": "2036-06-28T05:50:49.2319180Z",
            "x-ms-is-current-version": "true",
            "x-ms-immutability-policy-until-date": "Sat, 28 Jun 2036 05:55:48 GMT",
            "x-ms-immutability-policy-mode": mode,
        }
        place = azure.open()
        assert place.bucket_lock().enabled
        state = place.lock_state("one")
        assert (state.supported, state.until, state.mode) == (True, datetime(2036, 6, 28, 5, 55, 48, tzinfo=UTC), ours)

    def test_a_version_without_a_policy_is_said_to_be_unlocked(self, azure: AzureAnswers) -> None:
        azure.container = {"x-ms-immutable-storage-with-versioning-enabled": "true"}
        state = azure.open().lock_state("one")
        assert (state.supported, state.until) == (True, None)

    def test_a_legal_hold_locks_without_an_end(self, azure: AzureAnswers) -> None:
        azure.blob = {"x-ms-legal-hold": "true"}
        state = azure.open().lock_state("one")
        assert state.until is not None
        assert (state.until.year, state.mode) == (9999, "GOVERNANCE")

    @pytest.mark.parametrize(("days", "found"), [(None, "not at all"), (3, "only"), (40, "")])
    def test_a_lock_that_the_newest_copy_lacks_is_a_finding(self, tmp_path: Path, days: int | None, found: str) -> None:
        class Versioned(MemoryPlace):
            def bucket_lock(self) -> BucketLock:
                return BucketLock(True, True, None, None, "The container can lock each version.")

            def lock_state(self, name: str) -> LockState:
                until = self.objects[name][1] + timedelta(days=days) if days else None
                return LockState(True, until, "GOVERNANCE" if days else None)

        site = VaultSite(tmp_path, place=Versioned()).init()
        site.clock = lambda: site.place.now
        site.copy(site.seal())
        result = VaultCheckResult()
        check_locks(site.access.catalog(), 30, result, lambda: site.place.now)
        problems = [one.problem for one in result.findings]
        assert len(problems) == bool(found)
        assert all(found in problem for problem in problems)
