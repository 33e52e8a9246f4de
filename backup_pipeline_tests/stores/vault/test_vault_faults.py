"""What networks, services, disks, clocks and other people do to a vault, over real servers: refused by name, or mended.

SIGKILL: test_vault_kills; writers beside cleaners at every call: test_vault_clean_model; locks: test_vault_locks.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.errors import BackupSystemError, RefusedError, SetNotFoundError, StoreError, ValidationError
from backup_pipeline.model.backup_set import SetState
from backup_pipeline.stores.objects.contract import DataView, ObjectPlace
from backup_pipeline.stores.objects.errors import PlaceFullError, PlaceRefusedError, PlaceUnreachableError
from backup_pipeline.stores.objects.opening import open_place
from backup_pipeline.stores.vault.check import check_content, check_stored
from backup_pipeline.stores.vault.clean import clean, mark
from backup_pipeline.stores.vault.names import COPIES, DESCRIPTION
from backup_pipeline.stores.vault.sending import WORKERS
from backup_pipeline.stores.vault.vault import VaultReader
from backup_pipeline_tests.stores.vault.test_vault_copies import contents
from backup_pipeline_tests.stores.vault.test_vault_plan_store import draft, seal
from backup_pipeline_tests.stores.vault.test_vault_streaming import DUMP, stream
from backup_pipeline_tests.support.memory_place import MemoryPlace
from backup_pipeline_tests.support.object_servers import (
    LIMITS,
    HttpTrouble,
    S3Server,
    SftpServer,
    http_trouble,
    ssh_server,
)
from backup_pipeline_tests.support.proxies import Proxy
from backup_pipeline_tests.support.vault_sites import FILES, VaultSite

pytestmark = pytest.mark.takes(seconds=2, together="faults of vaults")
# Each takes a whole copy, check and fetch through a proxy: one kind of trouble in `make test`, all in `make stories`.
OTHER_TROUBLES = (429, 500, "reset", "lose the answer")
SMALL = {name: data for name, data in FILES.items() if len(data) < 100_000} | {"dump.sql": secrets.token_bytes(900_000)}


@pytest.fixture(params=["folder", "s3", "moto", "sftp", "azure"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectPlace]:
    """Each kind of place, empty."""
    (tmp_path / "vault").mkdir()
    prefix = secrets.token_hex(4)
    if request.param == "folder":
        opened = open_place(f"file://{tmp_path}/vault")
    elif request.param == "sftp":
        ssh: SftpServer = request.getfixturevalue("ssh")
        opened = open_place(ssh.url(tmp_path / "vault"), ssh.options())
    elif request.param == "azure":
        opened = open_place(f"az://copies/{prefix}", request.getfixturevalue("azurite"))
    else:
        server: S3Server = request.getfixturevalue("weed" if request.param == "s3" else "moto")
        opened = open_place(f"s3://plain/{prefix}", server.options())
    yield opened
    opened.close()


@pytest.fixture
def site(place: ObjectPlace, tmp_path: Path) -> VaultSite:
    return VaultSite(tmp_path, place=place).init()


def _later(place: Any, hours: float) -> Callable[[], Any]:
    """Let the place's clock go on, as cleaning reads it; returns that clock."""
    moment = place.server_time() + timedelta(hours=hours)
    place.server_time = lambda: moment
    return lambda: moment


def test_a_vault_lives_in_every_kind_of_place(site: VaultSite, tmp_path: Path) -> None:
    first, second = site.seal(0, SMALL), site.seal(1, SMALL | {"zz.txt": b"one more"})
    gone, kept = site.copy(first).copy, site.copy(second).copy
    reader = site.reader()
    result = check_stored(reader.catalog)
    check_content(reader.catalog, reader.catalog.copies()[0], reader.opener, reader.id_key, result)
    assert not result.findings
    mark(reader.catalog, [gone])
    cleaned = clean(site.access.catalog(), _later(site.place, 80))
    assert cleaned.removed_copies == [gone]
    assert site.access.catalog().copy_names() == [kept]
    assert contents(site.fetch(kept, tmp_path / "to")) == contents(site.store.path_of(second))


def test_a_chunk_lost_changed_cut_or_swapped_is_named_in_every_place(site: VaultSite, tmp_path: Path) -> None:
    copy = site.copy(site.seal(0, FILES)).copy
    names = [info.name for info in site.place.list("chunks/")][:2]
    first, second = (site.place.get(name) for name in names)
    for damaged in (None, bytes([first[0] ^ 1]) + first[1:], first[:-1], second):
        site.place.delete(names[0])
        if damaged is not None:
            site.place.put(names[0], damaged)
        found = check_stored(site.access.catalog())
        assert found.bad_copies == {copy}
        assert names[0] in found.findings[0].subject
        with pytest.raises(ValidationError, match="chunk"):
            site.fetch(copy, tmp_path / "to")
    # The copy of another set relies on no chunk that is missing.
    site.place.delete(names[0])
    again = site.copy(site.seal(1, FILES)).copy
    site.fetch(again, tmp_path / "again")
    assert not check_stored(site.access.catalog(), names=[again]).findings


def test_a_replaced_description_or_a_replayed_copy_is_refused_everywhere(site: VaultSite, tmp_path: Path) -> None:
    first, second = site.copy(site.seal(0, SMALL)).copy, site.copy(site.seal(1, SMALL)).copy
    site.place.put(COPIES + second, site.place.get(COPIES + first))
    with pytest.raises(RefusedError, match="under another name"):
        site.fetch(second, tmp_path / "to")
    with pytest.raises(RefusedError, match="what they need is not known"):
        clean(site.access.catalog())
    other = VaultSite(tmp_path / "other").init()
    site.place.put(DESCRIPTION, other.place.get(DESCRIPTION))
    with pytest.raises(RefusedError, match="another key"):
        site.copy(site.store.ids()[0])
    site.place.delete(DESCRIPTION)
    with pytest.raises(SetNotFoundError):
        VaultReader(site.place, site.identity)


def test_two_writers_of_one_set_and_of_like_ones_make_whole_copies(site: VaultSite) -> None:
    like = [site.seal(number, SMALL | {"zz": bytes([number])}) for number in range(3)]
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(site.copy, [*like, *like]))
    assert len({result.copy for result in done}) == 3
    found = check_stored(site.access.catalog())
    assert found.copies == 3
    assert not found.findings


def test_a_cleaner_beside_writers_takes_nothing_that_a_copy_needs(site: VaultSite) -> None:
    old = site.copy(site.seal(0, SMALL)).copy
    mark(site.access.catalog(), [old])
    ended = threading.Event()

    def cleaning() -> int:
        rounds = 0
        while not ended.is_set():
            # The cleaner's clock is right; the lease is its own.
            clean(site.access.catalog(), owner="a")
            rounds += 1
            ended.wait(0.05)
        return rounds

    with ThreadPoolExecutor(3) as pool:
        cleaner = pool.submit(cleaning)
        try:
            done = list(pool.map(site.copy, [site.seal(number, SMALL) for number in range(1, 5)]))
        finally:
            ended.set()
        assert cleaner.result()
    assert len(done) == 4
    assert not check_stored(site.access.catalog()).findings


class TestOfS3:
    """A service that fails, throttles, stalls and forgets, in every phase."""

    @pytest.fixture
    def trouble(self, weed: S3Server) -> Iterator[HttpTrouble]:
        with http_trouble(weed.address) as proxy:
            yield proxy

    @pytest.fixture
    def there(self, weed: S3Server, trouble: HttpTrouble, tmp_path: Path) -> VaultSite:
        """A site whose vault is reached through the proxy."""
        place = open_place(f"s3://plain/{secrets.token_hex(4)}", weed.options(trouble.address))
        return VaultSite(tmp_path, place=place).init()

    @pytest.mark.parametrize("what", [503, *(pytest.param(one, marks=pytest.mark.story) for one in OTHER_TROUBLES)])
    def test_every_phase_survives_requests_that_fail(
        self, there: VaultSite, trouble: HttpTrouble, what: Any, tmp_path: Path
    ) -> None:
        set_id, other = there.seal(0, SMALL), there.seal(1, SMALL | {"zz": b"z"})

        def troubled() -> None:
            # Two of three requests fail, whatever they are for.
            trouble.coming = list(itertools.islice(itertools.cycle([what, what, "pass"]), 400))

        troubled()
        copy = there.copy(set_id).copy
        kept = there.copy(other).copy
        assert len(trouble.coming) < 390
        troubled()
        assert contents(there.fetch(copy, tmp_path / "to")) == contents(there.store.path_of(set_id))
        troubled()
        assert not check_stored(there.access.catalog()).findings
        mark(there.access.catalog(), [copy])
        later = _later(there.place, 80)
        troubled()
        assert clean(there.access.catalog(), later).removed_copies == [copy]
        trouble.coming = []
        assert there.access.catalog().copy_names() == [kept]
        assert not check_stored(there.access.catalog()).findings

    def test_a_stall_while_a_dump_is_streamed_ends_with_one_error_and_no_copy(
        self, weed: S3Server, trouble: HttpTrouble, tmp_path: Path
    ) -> None:
        # What comes after the trouble has to answer within it too, on a busy machine.
        limits = replace(LIMITS, read=6, total=6)
        place = open_place(f"s3://plain/{secrets.token_hex(4)}", weed.options(trouble.address, limits=limits))
        site = VaultSite(tmp_path, place=place).init()
        store, names, create = site.plan_store(), set(), place.create

        def stalling(name: str, data: DataView, **more: Any) -> bool:
            trouble.always = "stall"
            names.add(name)
            return create(name, data, **more)

        place.create = stalling  # type: ignore[method-assign]
        with pytest.raises(PlaceUnreachableError, match="no answer in time"):
            stream(store.begin(draft()), DUMP)
        # Each thread has tried one chunk; those that waited behind them are not tried for as long again.
        assert 0 < len(names) <= WORKERS
        trouble.always, place.create = None, create  # type: ignore[method-assign]
        assert not site.access.catalog().copy_names()
        assert [one.state for one in store.sets()] == [SetState.INCOMPLETE]
        writer = store.begin(draft(1))
        stream(writer, DUMP)
        set_id = seal(writer)
        assert [name[:18] for name in site.access.catalog().copy_names()] == [set_id]

    @pytest.mark.parametrize("what", [503, *(pytest.param(one, marks=pytest.mark.story) for one in ("reset", "stall"))])
    def test_trouble_without_end_leaves_no_copy_and_the_next_run_goes_on(
        self, weed: S3Server, trouble: HttpTrouble, what: Any, tmp_path: Path
    ) -> None:
        limits = replace(LIMITS, read=0.5, total=2)
        place = open_place(f"s3://plain/{secrets.token_hex(4)}", weed.options(trouble.address, limits=limits))
        site = VaultSite(tmp_path, place=place).init()
        set_id = site.seal(0, FILES)
        seen = []
        create = place.create

        def breaking(name: str, data: bytes, **more: Any) -> bool:
            if name.startswith("chunks/") and len(seen) == 1:
                trouble.always = what
            seen.append(name)
            return create(name, data, **more)

        place.create = breaking  # type: ignore[method-assign]
        with pytest.raises(PlaceUnreachableError) as caught:
            site.copy(set_id, workers=1)
        assert not caught.value.permanent
        trouble.always = None
        assert not site.access.catalog().copy_names()
        place.create = create  # type: ignore[method-assign]
        result = site.copy(set_id)
        assert result.sent < result.chunks
        trouble.always = what
        for phase in (lambda: site.fetch(result.copy, tmp_path / "to"), lambda: check_stored(site.access.catalog())):
            with pytest.raises(PlaceUnreachableError):
                phase()
        trouble.always = None
        assert not list((tmp_path / "to").glob("*"))
        assert contents(site.fetch(result.copy, tmp_path / "to")) == contents(site.store.path_of(set_id))

    @pytest.mark.parametrize("part", ["TEST_S3_KEY", "TEST_S3_SECRET"])
    def test_credentials_that_went_bad_are_named_in_every_phase(
        self, weed: S3Server, tmp_path: Path, part: str
    ) -> None:
        url = f"s3://plain/{secrets.token_hex(4)}"
        site = VaultSite(tmp_path, place=open_place(url, weed.options())).init()
        copy, second = site.copy(site.seal(0, SMALL)).copy, site.seal(1, SMALL)
        options = weed.options()
        site.place = open_place(url, replace(options, environment={**options.environment, part: "no-longer-valid"}))
        phases: list[Callable[[], object]] = [
            lambda: site.copy(second),
            lambda: site.fetch(copy, tmp_path / "to"),
            lambda: site.access.catalog(),
            lambda: VaultReader(site.place, site.identity),
        ]
        for phase in phases:
            with pytest.raises(PlaceRefusedError, match="key") as caught:
                phase()
            assert "no-longer-valid" not in str(caught.value)

    def test_a_bucket_that_went_away_is_named_in_every_phase(self, moto: S3Server, tmp_path: Path) -> None:
        bucket = f"gone-{secrets.token_hex(4)}"
        moto.client.create_bucket(Bucket=bucket)
        site = VaultSite(tmp_path, place=open_place(f"s3://{bucket}/x", moto.options())).init()
        copy, second = site.copy(site.seal(0, SMALL)).copy, site.seal(1, SMALL)
        catalog, reader = site.access.catalog(), site.reader()
        stored = reader.catalog.copy(copy)
        for info in list(site.place.list("")):
            site.place.delete(info.name)
        moto.client.delete_bucket(Bucket=bucket)
        phases: list[Callable[[], object]] = [
            lambda: site.copy(second),
            lambda: reader.reader(stored).fetch(tmp_path / "to"),
            lambda: check_stored(catalog),
            lambda: clean(catalog),
        ]
        for phase in phases:
            with pytest.raises(PlaceRefusedError, match="no such bucket"):
                phase()

    def test_a_service_that_is_full_says_so_and_nothing_looks_like_a_copy(
        self, there: VaultSite, trouble: HttpTrouble
    ) -> None:
        set_id = there.seal(0, FILES)
        before = there.access.catalog().chunks()
        trouble.coming = ["pass"] * 12 + [507] * 50  # type: ignore[list-item]
        with pytest.raises(PlaceFullError, match="full"):
            there.copy(set_id)
        trouble.coming = []
        assert not before
        assert not there.access.catalog().copy_names()
        assert there.copy(set_id).sent


class TestOfSftp:
    """What only happens there."""

    def test_a_connection_that_is_reset_in_the_middle_is_made_again(self, ssh: SftpServer, tmp_path: Path) -> None:
        import socket

        (tmp_path / "vault").mkdir()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            proxy = Proxy(listener, ("127.0.0.1", ssh.port))
            threading.Thread(target=proxy.serve, daemon=True).start()
            port = listener.getsockname()[1]
            ssh.know(port)
            place = open_place(ssh.url(tmp_path / "vault", port), ssh.options())
            site = VaultSite(tmp_path, place=place).init()
            calls = itertools.count()
            create = place.create

            def breaking(name: str, data: bytes, **more: Any) -> bool:
                if next(calls) % 3 == 0:
                    proxy.trouble_at("", "reset")
                    proxy.mend()
                return create(name, data, **more)

            place.create = breaking  # type: ignore[method-assign]
            set_id = site.seal(0, FILES)
            copy = site.copy(set_id).copy
            assert contents(site.fetch(copy, tmp_path / "to")) == contents(site.store.path_of(set_id))
            place.close()

    def test_a_read_only_server_is_named_and_can_be_read(
        self, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        (tmp_path / "vault").mkdir()
        site = VaultSite(tmp_path, place=open_place(f"file://{tmp_path}/vault")).init()
        copy, second = site.copy(site.seal(0, SMALL)).copy, site.seal(1, SMALL)
        with ssh_server(tmp_path_factory.mktemp("ssh-read-only"), read_only=True) as server:
            site.place = open_place(server.url(tmp_path / "vault"), server.options())
            for phase in (lambda: site.copy(second), lambda: clean(site.access.catalog())):
                with pytest.raises(PlaceRefusedError, match=r"read-only|permission"):
                    phase()
            assert not check_stored(site.access.catalog()).findings
            site.fetch(copy, tmp_path / "to")


class TestOfClocks:
    """Clocks that are wrong, and lists that are stale."""

    @pytest.mark.parametrize("years", [-1, 1])
    def test_a_machine_whose_clock_is_a_year_off_harms_nothing(self, tmp_path: Path, years: int) -> None:
        site = VaultSite(tmp_path).init()
        wrong = lambda: site.place.now + timedelta(days=365 * years)  # noqa: E731
        site.clock = wrong
        first = site.copy(site.seal(0, SMALL)).copy
        mark(site.access.catalog(), [first])
        assert clean(site.access.catalog(), wrong).removed_copies == []
        site.place.now += timedelta(hours=73)
        second = site.copy(site.seal(1, SMALL)).copy
        assert clean(site.access.catalog(), wrong).removed_copies == [first]
        assert not check_stored(site.access.catalog()).findings
        assert site.access.catalog().copy_names() == [second]

    def test_a_list_that_does_not_show_what_was_sent_makes_no_copy_visible(self, tmp_path: Path) -> None:
        class Stale(MemoryPlace):
            def list(self, prefix: str) -> Iterator[Any]:
                return iter(())

        site = VaultSite(tmp_path, place=Stale()).init()
        with pytest.raises(StoreError, match="are not there, time and again"):
            site.copy(site.seal(0, SMALL))
        assert not [name for name in site.place.objects if name.startswith(COPIES)]

    def test_a_list_that_still_shows_what_was_removed_takes_no_copy_its_chunks(self, tmp_path: Path) -> None:
        site = VaultSite(tmp_path).init()
        first = site.copy(site.seal(0, SMALL)).copy
        mark(site.access.catalog(), [first])
        site.place.now += timedelta(hours=73)
        shown = {name: list(site.place.list(name)) for name in ("chunks/", "copies/", "marks/")}
        clean(site.access.catalog(), lambda: site.place.now)
        assert not [name for name in site.place.objects if name.startswith("chunks/")]
        listed = site.place.list
        # For its first look the writer gets the lists of before the cleaning.
        site.place.list = lambda prefix: iter(shown.pop(prefix)) if prefix in shown else listed(prefix)
        second = site.copy(site.seal(1, SMALL)).copy
        site.place.list = listed
        assert site.access.catalog().copy_names() == [second]
        assert not check_stored(site.access.catalog()).findings


def test_nothing_that_a_vault_raises_holds_a_secret(place: ObjectPlace, tmp_path: Path) -> None:
    site = VaultSite(tmp_path, place=place).init()
    copy = site.copy(site.seal(0, SMALL)).copy
    place.put(COPIES + copy, b"not a copy\n" + site.identity.encode())
    with pytest.raises(BackupSystemError) as caught:
        site.fetch(copy, tmp_path / "to")
    assert site.identity not in str(caught.value)
