"""A backup into a vault alone whose dump and tarball are larger than the local disk, whole and killed on the way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.stores.vault.encryption import new_identity
from backup_pipeline_tests.support.forked_sites import ForkedCommand
from backup_pipeline_tests.support.sites import TestSite, dsn

TABLE = """
create table big (id bigint primary key, noise text not null);
insert into big select i, (select string_agg(encode(sha512((i * 8 + k)::text::bytea), 'hex'), '')
                           from generate_series(1, 4) k) from generate_series(1, 120000) i;
"""
SETTINGS = """
store: {store}
sources:
  shop: {{kind: postgres, dsn_env: SHOP_URL, tables: {{exclude: ["*.*"]}}}}
  files: {{kind: folder, path: files, after: [shop]}}
plans: {{nightly: {{sources: [shop, files], store: "vault:offsite", retention: {{keep_last: 1}}}}}}
vaults: {{offsite: {{url: "file://{vault}", recipients: [{recipient}], megabytes_per_second: {speed}}}}}
"""
ROOM = 20 << 20
FILE = 30_000_000


@dataclass
class Streaming:
    """A site whose plan keeps its sets in a vault alone, and whose store lies on a disk of 20 MB where root may mount.

    Elsewhere the processes started by the test may not write a file of more than 20 MB.
    """

    site: TestSite
    vault: Path
    store: Path
    identity: str
    mounted: bool

    def stored(self) -> int:
        return sum(path.stat().st_size for path in (self.vault / "chunks").rglob("*") if path.is_file())

    def start(self, *arguments: str) -> ForkedCommand:
        process = ForkedCommand(self.site, *arguments)
        if not self.mounted:
            subprocess.run(["prlimit", f"--fsize={ROOM}", "--pid", str(process.pid)], check=True)
        return process


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, bool]]:
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    yield place, mounted
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def streaming(
    small_disk: tuple[Path, bool],
    tmp_path: Path,
    template: Callable[[str, str], str],
    database: Callable[[str], PostgresTarget],
    request: pytest.FixtureRequest,
) -> Streaming:
    site = TestSite(tmp_path / "site")
    (site.folder / "files").mkdir(parents=True)
    (site.folder / "files" / "large.bin").write_bytes(os.urandom(FILE))
    vault = tmp_path / "vault"
    vault.mkdir()
    secret, recipient = new_identity()
    (tmp_path / "identity.txt").write_text(secret + "\n")
    site.variables["SHOP_URL"] = dsn(database(template("streamed", TABLE)))
    store, mounted = small_disk
    site.write(SETTINGS.format(store=store, vault=vault, recipient=recipient, speed=getattr(request, "param", 0)))
    assert site.run("vault", "init", "offsite").code == 0
    return Streaming(site, vault, store, str(tmp_path / "identity.txt"), mounted)


@pytest.mark.takes(seconds=20, together="forked")
def test_a_dump_and_a_tarball_larger_than_the_disk_are_proven_from_the_vault(streaming: Streaming) -> None:
    process = streaming.start("backup", "nightly")
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    store = streaming.site.store("nightly")
    manifest = store.read(store.sealed_ids()[-1]).manifest
    assert manifest is not None
    sizes = {file.path: file.size for record in manifest.artefacts for file in record.files}
    assert sizes["shop_db.sql.gz"] > 1.3 * ROOM
    assert sizes["files_buckets.tar.gz"] > 1.3 * ROOM
    assert streaming.stored() > 2.5 * ROOM
    # The next one finds most of it there, and retention lets the first go.
    before = streaming.stored()
    again = streaming.start("backup", "nightly")
    assert again.wait() == 0, again.communicate()
    # The ends of the dump, which differ each time, take a chunk of 1 to 2 MiB each.
    assert streaming.stored() < before + 6_000_000
    for command in ("verify", "drill"):
        done = streaming.site.run(command, "nightly/latest", "--identity", streaming.identity)
        assert done.code == 0, done.text
    done = streaming.site.run("cleanup", "nightly")
    assert done.code == 0, done.text
    assert len(store.sealed_ids()) == 1


@pytest.mark.takes(seconds=15, together="forked")
def test_an_archive_of_pg_dump_larger_than_the_disk_is_proven_from_the_vault(streaming: Streaming) -> None:
    settings = (streaming.site.folder / "backup.yaml").read_text()
    custom = settings.replace("dsn_env: SHOP_URL,", "dsn_env: SHOP_URL, dump_format: custom, compression: none,")
    streaming.site.write(custom.replace("[shop, files]", "[shop]"))
    process = streaming.start("backup", "nightly")
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert streaming.stored() > 2.5 * ROOM
    for command in ("verify", "drill"):
        done = streaming.site.run(command, "nightly/latest", "--identity", streaming.identity)
        assert done.code == 0, done.text


@pytest.mark.takes(seconds=20, together="forked")
@pytest.mark.parametrize("streaming", [15], indirect=True)
@pytest.mark.parametrize("shares", [(0.6,), pytest.param((0.05, 0.3, 0.6, 0.85), marks=pytest.mark.story)])
def test_a_backup_killed_while_it_streams_begins_anew_with_what_was_sent(
    streaming: Streaming, shares: tuple[float, ...]
) -> None:
    for share in shares:
        process = streaming.start("backup", "nightly")
        until = time.monotonic() + 200
        while streaming.stored() < share * 64_000_000 and time.monotonic() < until:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not list((streaming.vault / "copies").glob("*"))
    process = streaming.start("backup", "nightly")
    assert process.wait() == 0, process.communicate()
    sealed = streaming.site.store("nightly").sealed_ids()
    assert len(sealed) == 1
    # What was on the way at each instant is sent again, and the ends of the dump, which differ each time.
    assert streaming.stored() < 64_000_000 + len(shares) * 9_000_000
    for command in ("verify", "drill"):
        done = streaming.site.run(command, "nightly/latest", "--identity", streaming.identity)
        assert done.code == 0, done.text
    assert shutil.disk_usage(streaming.store).used < ROOM or not streaming.mounted
