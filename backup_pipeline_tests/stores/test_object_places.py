"""Every place of objects keeps one contract: folder, S3 (SeaweedFS with and without Object Lock, moto), SFTP, Azure
(Azurite), Google (a server of the tests' own)."""

from __future__ import annotations

import base64
import json
import secrets
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from backup_pipeline.errors import SettingsError, StoreError
from backup_pipeline.stores.objects.azure_google import google_lock
from backup_pipeline.stores.objects.contract import ObjectPlace
from backup_pipeline.stores.objects.errors import (
    ObjectLockedError,
    ObjectNotFoundError,
    PlaceFullError,
    PlaceRefusedError,
    PlaceUnreachableError,
)
from backup_pipeline.stores.objects.opening import open_place
from backup_pipeline.stores.objects.options import PlaceOptions
from backup_pipeline.stores.objects.s3 import S3Place
from backup_pipeline.stores.objects.signed_requests import google_token
from backup_pipeline_tests.support.object_servers import (
    LIMITS,
    HttpTrouble,
    S3Server,
    SftpServer,
    http_trouble,
)
from backup_pipeline_tests.support.proxies import Proxy

pytestmark = pytest.mark.takes(seconds=0.2, together="places of objects")

PLACES = ["folder", "s3", "s3 with locks", "moto", "sftp", "azure", "google"]


@dataclass(frozen=True)
class Served:
    """A place for a test, and how to open the same one again."""

    url: str
    options: PlaceOptions

    def open(self) -> ObjectPlace:
        """Open it."""
        return open_place(self.url, self.options)


@pytest.fixture
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Served:
    """Each kind of place by its name, with a prefix of its own."""
    prefix = f"test-{secrets.token_hex(4)}/copies of the site"
    kind = request.param
    if kind == "folder":
        return Served(f"file://{tmp_path}", PlaceOptions(limits=LIMITS))
    if kind == "sftp":
        ssh: SftpServer = request.getfixturevalue("ssh")
        return Served(ssh.url(tmp_path), ssh.options())
    if kind == "azure":
        return Served(f"az://copies/{prefix}", request.getfixturevalue("azurite"))
    if kind == "google":
        return Served(f"gs://copies/{prefix}", request.getfixturevalue("google").options())
    server: S3Server = request.getfixturevalue("moto" if kind == "moto" else "weed")
    bucket = "locking" if kind == "s3 with locks" else "plain"
    return Served(f"s3://{bucket}/{prefix}", server.options())


@pytest.fixture
def place(served: Served) -> Iterator[ObjectPlace]:
    """An opened place, empty."""
    opened = served.open()
    yield opened
    opened.close()


everywhere = pytest.mark.parametrize("served", PLACES, indirect=True)


@everywhere
def test_what_was_created_is_read_back_whole_and_in_parts(place: ObjectPlace) -> None:
    data = secrets.token_bytes(300_000)
    assert place.create("chunks/ab/abcd", data)
    assert place.get("chunks/ab/abcd") == data
    assert place.get_range("chunks/ab/abcd", 1000, 2000) == data[1000:3000]
    assert place.get_range("chunks/ab/abcd", 299_990, 2000) == data[299_990:]
    assert place.get_range("chunks/ab/abcd", 300_000, 5) == b""
    assert place.get_range("chunks/ab/abcd", 300_500, 5) == b""


@everywhere
def test_an_empty_object_is_an_object(place: ObjectPlace) -> None:
    assert place.create("empty", b"")
    assert place.get("empty") == b""
    assert place.get_range("empty", 0, 10) == b""
    info = place.info("empty")
    assert info is not None
    assert info.size == 0


@everywhere
def test_a_name_that_is_taken_is_not_created_again(place: ObjectPlace) -> None:
    assert place.create("vault.json", b"first")
    assert not place.create("vault.json", b"second")
    assert not place.create("vault.json", b"first")
    assert place.get("vault.json") == b"first"


@everywhere
def test_of_many_who_create_one_name_exactly_one_succeeds(place: ObjectPlace) -> None:
    assert place.conditional_create
    for number in range(2):
        together = threading.Barrier(8)

        def attempt(writer: int, name: str = f"lease-{number}", together: threading.Barrier = together) -> bool:
            together.wait()
            return place.create(name, str(writer).encode())

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(attempt, range(8)))
        assert won.count(True) == 1
        assert place.get(f"lease-{number}") == str(won.index(True)).encode()


@everywhere
def test_put_replaces_what_is_there(place: ObjectPlace) -> None:
    place.put("state", b"old and longer")
    place.put("state", b"new")
    assert place.get("state") == b"new"
    assert [info.size for info in place.list("")] == [3]


@everywhere
def test_what_is_not_there_is_named_as_missing(place: ObjectPlace) -> None:
    assert place.info("nothing/here") is None
    with pytest.raises(ObjectNotFoundError, match="nothing/here"):
        place.get("nothing/here")
    with pytest.raises(ObjectNotFoundError):
        place.get_range("nothing/here", 0, 1)
    with pytest.raises(ObjectNotFoundError):
        place.get_range("nothing/here", 0, 0)


@everywhere
def test_size_and_time_of_an_object_are_the_places(place: ObjectPlace) -> None:
    place.create("one", b"12345")
    info = place.info("one")
    assert info is not None
    assert (info.name, info.size) == ("one", 5)
    assert info.modified is not None
    assert abs(info.modified - datetime.now(UTC)) < timedelta(minutes=5)
    assert list(place.list("")) == [info]


@everywhere
def test_lists_are_sorted_and_cut_at_the_prefix(place: ObjectPlace) -> None:
    names = ["chunks/00/a", "chunks/00/b", "chunks/01/a", "copies/2026-1", "copies/2026-1.refs", "copies/2027", "top"]
    for name in reversed(names):
        place.create(name, b"x")
    assert [info.name for info in place.list("")] == names
    assert [info.name for info in place.list("chunks/")] == names[:3]
    assert [info.name for info in place.list("copies/2026")] == names[3:5]
    assert [info.name for info in place.list("chunks/00/b")] == ["chunks/00/b"]
    assert list(place.list("other/")) == []


@everywhere
def test_what_was_deleted_is_gone_and_may_be_deleted_again(place: ObjectPlace) -> None:
    place.create("a/b", b"x")
    place.delete("a/b")
    place.delete("a/b")
    assert place.info("a/b") is None
    assert list(place.list("")) == []
    assert place.create("a/b", b"again")
    assert place.get("a/b") == b"again"


@everywhere
@pytest.mark.parametrize(
    "name", ["", "/a", "a//b", "../a", "a/..", ".hidden", "a/.b", "a\\b", "a\nb", "a/", "x" * 1000]
)
def test_names_that_leave_the_place_or_fit_nowhere_are_refused(place: ObjectPlace, name: str) -> None:
    for call in (
        place.get,
        place.delete,
        place.info,
        lambda bad: place.create(bad, b""),
        lambda bad: place.put(bad, b""),
    ):
        with pytest.raises(StoreError, match="cannot be the name"):
            call(name)


@everywhere
def test_the_clock_of_the_place_is_read(place: ObjectPlace) -> None:
    clock = place.server_time()
    assert clock is not None
    assert abs(clock - datetime.now(UTC)) < timedelta(minutes=5)


@everywhere
def test_two_prefixes_of_one_place_do_not_mix(
    request: pytest.FixtureRequest, served: Served, place: ObjectPlace
) -> None:
    place.create("one/sub/x", b"inner")
    place.create("one-more/x", b"beside")
    inner = replace(served, url=f"{served.url}/one").open()
    request.addfinalizer(inner.close)
    assert [info.name for info in inner.list("")] == ["sub/x"]
    assert inner.get("sub/x") == b"inner"


@everywhere
def test_a_label_holds_place_and_no_secret(served: Served, place: ObjectPlace) -> None:
    assert place.label == served.url
    secret = served.options.environment.get("TEST_S3_SECRET", "a password of somebody")
    assert secret not in f"{place!r}{served.options!r}"


def test_more_objects_than_a_page_are_all_listed(weed: S3Server) -> None:
    place = open_place("s3://plain/many", weed.options())
    names = [f"chunks/{number % 7:02}/{number:05}" for number in range(2100)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda name: place.create(name, b"x"), names))
    assert [info.name for info in place.list("")] == sorted(names)
    assert [info.name for info in place.list("chunks/03/")] == sorted(name for name in names if "/03/" in name)


class TestLocks:
    """Object Lock, by SeaweedFS."""

    @pytest.fixture
    def locking(self, weed: S3Server) -> ObjectPlace:
        """A place in a bucket with Object Lock and no default."""
        return open_place(f"s3://locking/{secrets.token_hex(4)}", weed.options())

    @pytest.mark.parametrize("served", ["folder", "s3", "moto", "azure"], indirect=True)
    def test_a_place_without_locks_says_so(self, place: ObjectPlace) -> None:
        place.create("one", b"x", lock_until=datetime.now(UTC) + timedelta(days=1))
        assert not place.bucket_lock().enabled
        assert not place.lock_state("one").supported
        with pytest.raises(PlaceRefusedError, match="lock"):
            place.extend_lock("one", datetime.now(UTC) + timedelta(days=1))
        place.delete("one")
        assert place.info("one") is None

    @pytest.mark.parametrize("write", ["create", "put"])
    def test_what_is_locked_cannot_be_deleted(self, locking: ObjectPlace, write: str) -> None:
        until = datetime.now(UTC) + timedelta(days=2)
        getattr(locking, write)("one", b"kept", lock_until=until)
        state = locking.lock_state("one")
        assert (state.supported, state.mode) == (True, "COMPLIANCE")
        assert state.until is not None
        assert until <= state.until <= until + timedelta(seconds=2)
        with pytest.raises(ObjectLockedError, match=str(state.until.year)):
            locking.delete("one")
        assert locking.get("one") == b"kept"

    def test_a_locked_name_is_not_created_again(self, locking: ObjectPlace) -> None:
        until = datetime.now(UTC) + timedelta(days=2)
        assert locking.create("one", b"kept", lock_until=until)
        assert not locking.create("one", b"other", lock_until=until)
        assert locking.get("one") == b"kept"

    def test_a_lock_is_made_longer_and_never_shorter(self, locking: ObjectPlace) -> None:
        locking.create("one", b"kept")
        assert locking.lock_state("one").until is None
        long = datetime.now(UTC) + timedelta(days=9)
        locking.extend_lock("one", long)
        locking.extend_lock("one", datetime.now(UTC) + timedelta(days=1))
        until = locking.lock_state("one").until
        assert until is not None
        assert until >= long
        with pytest.raises(ObjectLockedError):
            locking.delete("one")

    def test_what_was_never_locked_leaves_no_version_behind(self, weed: S3Server, locking: ObjectPlace) -> None:
        locking.put("one", b"first")
        locking.put("one", b"second")
        locking.delete("one")
        prefix = locking.label.rpartition("/")[2]
        found = weed.client.list_object_versions(Bucket="locking", Prefix=prefix)
        assert not found.get("Versions")
        assert not found.get("DeleteMarkers")

    def test_versions_and_deletion_markers_are_listed_over_pages(self, weed: S3Server, locking: ObjectPlace) -> None:
        names = [f"chunks/{number % 7:02}/{number:04}" for number in range(600)]
        with ThreadPoolExecutor(8) as pool:
            for data in (b"first", b"second one"):
                list(pool.map(lambda name, data=data: locking.put(name, data), names))
        prefix = locking.label.rpartition("/")[2]
        weed.client.delete_object(Bucket="locking", Key=f"{prefix}/{names[3]}")
        found = list(locking.versions("chunks/"))
        assert [one.name for one in found if one.latest] == sorted(names)
        assert len(found) == 1201
        three = [one for one in found if one.name == names[3]]
        assert [(one.marker, one.latest) for one in three] == [(True, True), (False, False), (False, False)]
        assert [locking.get_version(one.name, one.version) for one in three[1:]] == [b"second one", b"first"]
        assert [one.name for one in locking.versions("chunks/03/")] == [one.name for one in found if "/03/" in one.name]

    def test_a_lock_of_an_object_that_is_missing_is_no_lock(self, locking: ObjectPlace) -> None:
        with pytest.raises(ObjectNotFoundError):
            locking.lock_state("none")
        with pytest.raises(ObjectNotFoundError):
            locking.extend_lock("none", datetime.now(UTC) + timedelta(days=1))

    def test_a_buckets_default_is_read_and_holds(self, weed: S3Server) -> None:
        weed.client.create_bucket(Bucket="by-itself", ObjectLockEnabledForBucket=True)
        rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 3}}
        weed.client.put_object_lock_configuration(
            Bucket="by-itself", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
        )
        place = open_place("s3://by-itself", weed.options())
        found = place.bucket_lock()
        assert (found.enabled, found.default_days, found.mode) == (True, 3, "GOVERNANCE")
        place.create("one", b"kept", lock_until=datetime.now(UTC) + timedelta(days=1))
        state = place.lock_state("one")
        assert state.mode == "GOVERNANCE"
        assert state.until is not None
        assert state.until > datetime.now(UTC) + timedelta(days=2)
        with pytest.raises(ObjectLockedError):
            place.delete("one")


@pytest.mark.parametrize(
    ("endpoint", "path_style", "address"),
    [
        ("", True, "https://s3.eu-central-1.amazonaws.com/bucket/x/one?"),
        ("", False, "https://bucket.s3.eu-central-1.amazonaws.com/x/one?"),
        ("https://s3.example.org", True, "https://s3.example.org/bucket/x/one?"),
        ("https://s3.example.org:8443", False, "https://bucket.s3.example.org:8443/x/one?"),
    ],
)
def test_a_bucket_is_addressed_as_the_settings_say(endpoint: str, path_style: bool, address: str) -> None:
    environment = {"KEY": "k", "SECRET": "s", "ENDPOINT": endpoint}
    options = PlaceOptions(
        credentials_env={"access_key": "KEY", "secret_key": "SECRET"},
        endpoint_env="ENDPOINT" if endpoint else "",
        region="eu-central-1",
        path_style=path_style,
        environment=environment,
    )
    place = S3Place("bucket", "x", label="s3://bucket/x", options=options)
    signed = [obstore.sign(place._store, "GET", "one", timedelta(minutes=1))]  # type: ignore[arg-type]
    signed += [place._client.generate_presigned_url("get_object", Params=place._key("one"))]
    assert all(url.startswith(address) for url in signed), signed


def test_the_immutability_of_a_container_is_asked_from_azure(azurite: PlaceOptions) -> None:
    place = open_place("az://copies/some where", azurite)
    place.create("a/b c", b"x")
    assert place.bucket_lock().detail == "The container has no immutability policy."
    assert not place.lock_state("a/b c").supported
    with pytest.raises(ObjectNotFoundError):
        place.lock_state("none")
    wrong = {**azurite.environment, "TEST_AZURE_KEY": base64.b64encode(b"another key").decode()}
    refused = open_place("az://copies/x", replace(azurite, environment=wrong)).bucket_lock()
    assert not refused.enabled
    assert "cannot be read: HTTP 403" in refused.detail


@pytest.mark.parametrize(
    ("policy", "found"),
    [
        ({}, (False, None, None)),
        ({"retentionPolicy": {"retentionPeriod": "3600", "isLocked": True}}, (False, None, None)),
        (
            {"retentionPolicy": {"retentionPeriod": "2592000", "effectiveTime": "2026-01-01T00:00:00Z"}},
            (True, 30, "GOVERNANCE"),
        ),
        ({"retentionPolicy": {"retentionPeriod": "2592000", "isLocked": True}}, (True, 30, "COMPLIANCE")),
    ],
)
def test_a_retention_policy_of_google_is_read_as_google_documents_it(policy: dict[str, Any], found: object) -> None:
    lock = google_lock(policy)
    assert (lock.enabled, lock.default_days, lock.mode) == found


def test_a_token_for_google_is_signed_by_the_service_account() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    account = {"client_email": "writer@site.iam.gserviceaccount.com", "private_key": pem, "private_key_id": "k1"}
    signed, _, signature = google_token(account, "https://storage.googleapis.com").rpartition(".")
    padded = signature + "=" * (-len(signature) % 4)
    key.public_key().verify(base64.urlsafe_b64decode(padded), signed.encode(), PKCS1v15(), SHA256())
    claims = json.loads(base64.urlsafe_b64decode(signed.split(".")[1] + "=="))
    assert claims["iss"] == claims["sub"] == account["client_email"]
    assert claims["aud"] == "https://storage.googleapis.com/"


class TestTroubleOfS3:
    """What a network and a service do to requests."""

    @pytest.fixture
    def trouble(self, weed: S3Server) -> Iterator[HttpTrouble]:
        """A proxy before SeaweedFS."""
        with http_trouble(weed.address) as proxy:
            yield proxy

    @pytest.fixture
    def open_there(self, weed: S3Server, trouble: HttpTrouble) -> Callable[..., ObjectPlace]:
        """Open a new prefix through the proxy."""

        def opened(bucket: str = "plain", limits: object = LIMITS) -> ObjectPlace:
            return open_place(f"s3://{bucket}/{secrets.token_hex(4)}", weed.options(trouble.address, limits=limits))

        return opened

    @pytest.mark.parametrize("what", [429, 500, 503, "reset"])
    def test_a_request_that_failed_is_made_again(
        self, trouble: HttpTrouble, open_there: Callable[..., ObjectPlace], what: int
    ) -> None:
        place = open_there()
        calls: list[Callable[[], object]] = [
            lambda: place.create("one", b"x"),
            lambda: place.get("one"),
            lambda: place.get_range("one", 0, 1),
            lambda: place.info("one"),
            lambda: list(place.list("")),
            lambda: place.put("one", b"x"),
            lambda: place.delete("one"),
        ]
        for call in calls:
            trouble.coming = [what, what]
            call()
            assert not trouble.coming
        assert place.info("one") is None

    def test_created_counts_although_the_answer_was_lost(
        self, trouble: HttpTrouble, open_there: Callable[..., ObjectPlace]
    ) -> None:
        place = open_there()
        trouble.coming = ["lose the answer"]
        assert place.create("one", b"mine")
        trouble.coming = ["lose the answer"]
        assert not place.create("one", b"of another")
        assert place.get("one") == b"mine"

    def test_locked_although_the_answer_was_lost(
        self, trouble: HttpTrouble, open_there: Callable[..., ObjectPlace]
    ) -> None:
        place = open_there("locking")
        until = datetime.now(UTC) + timedelta(days=1)
        assert place.bucket_lock().enabled
        assert place.create("zero", b"first", lock_until=until)
        trouble.coming = ["lose the answer"]
        assert place.create("one", b"mine", lock_until=until)
        assert place.lock_state("one").until is not None

    @pytest.mark.parametrize("what", [503, "reset", "stall"])
    def test_trouble_without_end_ends_at_the_limit_and_may_be_tried_again_later(
        self, trouble: HttpTrouble, open_there: Callable[..., ObjectPlace], what: int
    ) -> None:
        trouble.always = what  # type: ignore[assignment]
        place = open_there(limits=replace(LIMITS, read=0.3, total=1))
        for call in (lambda: place.create("one", b"x"), lambda: place.get("one"), lambda: list(place.list(""))):
            with pytest.raises(PlaceUnreachableError, match=r"Tried \d+ times") as caught:
                call()
            assert not caught.value.permanent
        assert trouble.requests >= 6

    def test_a_list_goes_on_where_it_was_broken_off(
        self, weed: S3Server, trouble: HttpTrouble, open_there: Callable[..., ObjectPlace]
    ) -> None:
        place = open_place("s3://plain/broken-list", weed.options(trouble.address))
        names = [f"chunks/{number:05}" for number in range(1100)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: place.create(name, b"x"), names))
        listed = place.list("chunks/")
        found = [next(listed).name]
        trouble.coming = [503, "reset"]
        found += [info.name for info in listed]
        assert found == names

    def test_a_full_storage_is_named_and_not_tried_again(
        self, trouble: HttpTrouble, open_there: Callable[..., ObjectPlace]
    ) -> None:
        place = open_there()
        trouble.coming = [507]
        with pytest.raises(PlaceFullError, match="full"):
            place.create("one", b"x")
        assert trouble.requests == 1


class TestRefusals:
    """Settings and permissions that are wrong, each with its own remedy."""

    @pytest.mark.parametrize(("part", "what"), [("TEST_S3_KEY", "access key"), ("TEST_S3_SECRET", "secret key")])
    def test_wrong_credentials_are_named_without_their_value(self, weed: S3Server, part: str, what: str) -> None:
        options = weed.options()
        wrong = replace(options, environment={**options.environment, part: "entirely-wrong-value"})
        place = open_place("s3://plain/x", wrong)
        for call in (lambda: place.create("one", b"x"), lambda: place.get("one"), lambda: list(place.list(""))):
            with pytest.raises(PlaceRefusedError, match=what) as caught:
                call()
            assert "entirely-wrong-value" not in str(caught.value)
        with pytest.raises(PlaceRefusedError):
            place.info("one")

    def test_a_bucket_that_is_missing_is_named(self, weed: S3Server) -> None:
        place = open_place("s3://nobody-made-it/x", weed.options())
        calls = [
            lambda: place.create("one", b"x"),
            lambda: place.get("one"),
            lambda: place.info("one"),
            lambda: list(place.list("")),
            place.bucket_lock,
        ]
        for call in calls:
            with pytest.raises(PlaceRefusedError, match="no such bucket"):
                call()

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://host/x",
            "/plain/path",
            "s3:///x",
            "s3://key:secret@bucket/x",
            "file://host/x",
            "file:///",
            "s3://b?x=1",
        ],
    )
    def test_a_url_that_names_no_place_is_refused(self, weed: S3Server, url: str) -> None:
        with pytest.raises(SettingsError) as caught:
            open_place(url, weed.options())
        assert "secret" not in str(caught.value)

    def test_a_variable_that_is_not_set_is_named(self, weed: S3Server) -> None:
        with pytest.raises(SettingsError, match="TEST_S3_SECRET"):
            open_place(
                "s3://plain/x",
                replace(weed.options(), environment={"TEST_S3_KEY": "x", "TEST_S3_ENDPOINT": "http://x"}),
            )
        with pytest.raises(SettingsError, match=r"credentials_env\.access_key"):
            open_place("s3://plain/x", replace(weed.options(), credentials_env={}))


class TestFolder:
    """What only a folder can be."""

    def test_a_folder_that_is_not_mounted_is_never_made(self, tmp_path: Path) -> None:
        with pytest.raises(PlaceRefusedError, match="no such folder"):
            open_place(f"file://{tmp_path}/mnt/nas")
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_went_away_is_not_a_missing_object(self, tmp_path: Path) -> None:
        (tmp_path / "nas").mkdir()
        place = open_place(f"file://{tmp_path}/nas")
        place.create("a/b", b"x")
        (tmp_path / "nas").rename(tmp_path / "unmounted")
        calls = [
            lambda: place.get("a/b"),
            lambda: place.info("a/b"),
            lambda: list(place.list("")),
            lambda: place.create("c", b"x"),
            lambda: place.put("c", b"x"),
        ]
        for call in calls:
            with pytest.raises(PlaceRefusedError, match="no such folder"):
                call()
        assert not (tmp_path / "nas").exists()

    def test_files_and_folders_are_the_users_alone(self, tmp_path: Path) -> None:
        place = open_place(f"file://{tmp_path}")
        place.create("chunks/ab/cd", b"x")
        place.put("state", b"x")
        modes = {
            path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")
        }
        assert modes == {".incoming": 0o700, "chunks": 0o700, "chunks/ab": 0o700, "chunks/ab/cd": 0o600, "state": 0o600}

    def test_links_and_hidden_files_are_not_objects(self, tmp_path: Path) -> None:
        place = open_place(f"file://{tmp_path}")
        place.create("a/real", b"x")
        (tmp_path / "a" / "link").symlink_to("/etc/passwd")
        (tmp_path / "folder-link").symlink_to("/etc")
        (tmp_path / ".DS_Store").write_bytes(b"x")
        assert [info.name for info in place.list("")] == ["a/real"]


class TestSftp:
    """What only an SFTP server can be."""

    def test_a_host_key_that_is_not_known_is_refused_with_a_remedy(self, ssh: SftpServer, tmp_path: Path) -> None:
        other = tmp_path / "known"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
        for content in ("", f"[127.0.0.1]:{ssh.port} {(tmp_path / 'key.pub').read_text()}"):
            other.write_text(content)
            with pytest.raises(PlaceRefusedError, match="ssh-keyscan"):
                open_place(ssh.url(tmp_path), ssh.options(known_hosts=other))
        with pytest.raises(PlaceRefusedError, match="ssh-keyscan"):
            open_place(ssh.url(tmp_path), ssh.options(known_hosts=tmp_path / "none"))

    def test_a_key_that_the_server_does_not_know_is_refused(self, ssh: SftpServer, tmp_path: Path) -> None:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
        with pytest.raises(PlaceRefusedError, match="authorized_keys"):
            open_place(ssh.url(tmp_path), ssh.options(key_file=tmp_path / "key"))
        with pytest.raises(PlaceRefusedError, match="cannot be read"):
            open_place(ssh.url(tmp_path), ssh.options(key_file=tmp_path / "none"))

    def test_a_folder_that_is_missing_there_is_never_made(self, ssh: SftpServer, tmp_path: Path) -> None:
        with pytest.raises(PlaceRefusedError, match="no such folder"):
            open_place(ssh.url(tmp_path / "nas"), ssh.options())
        assert list(tmp_path.iterdir()) == []

    def test_files_are_the_users_alone_and_nothing_is_left_aside(self, ssh: SftpServer, tmp_path: Path) -> None:
        place = open_place(ssh.url(tmp_path), ssh.options())
        place.create("a/b", b"x")
        place.put("a/c", b"x")
        assert not place.create("a/b", b"y")
        place.close()
        found = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode for path in tmp_path.rglob("*")}
        modes = {name: stat.S_IMODE(mode) for name, mode in found.items()}
        assert modes == {".incoming": 0o700, "a": 0o700, "a/b": 0o600, "a/c": 0o600}

    def test_a_connection_that_was_reset_is_made_again(self, ssh: SftpServer, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            proxy = Proxy(listener, ("127.0.0.1", ssh.port))
            threading.Thread(target=proxy.serve, daemon=True).start()
            port = listener.getsockname()[1]
            ssh.know(port)
            place = open_place(ssh.url(tmp_path, port), ssh.options(limits=replace(LIMITS, read=1, total=3)))
            place.create("one", b"x")
            proxy.trouble_at("", "reset")
            proxy.mend()
            assert place.get("one") == b"x"
            proxy.trouble_at("", "stall")
            with pytest.raises(PlaceUnreachableError, match=r"Tried \d+ times"):
                place.get("one")
            proxy.mend()
            assert place.get("one") == b"x"
            place.close()
