"""SIGKILL at many instants of copy, clean, fetch, recover and reencrypt: commands as processes, a vault in a folder.

Nothing that looks like a copy and is none, nothing that stops the next run, nothing that has to be cleaned up by hand.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backup_pipeline.errors import ExitCode
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.sites.vaults import open_access
from backup_pipeline.stores.vault.check import check_stored
from backup_pipeline.stores.vault.clean import mark
from backup_pipeline.stores.vault.encryption import new_identity
from backup_pipeline_tests.stores.vault.test_vault_copies import contents
from backup_pipeline_tests.support.forked_commands import Forker, forker
from backup_pipeline_tests.support.object_servers import ssh_server, weed_server
from backup_pipeline_tests.support.sites import TestSite
from backup_pipeline_tests.support.vault_sites import VaultSite

pytestmark = pytest.mark.takes(seconds=7, together="kills of vaults")
SETTINGS = """
store: backups
sources: {{files: {{kind: folder, path: files}}}}
plans: {{nightly: {{sources: [files]}}}}
vaults:
  offsite: {{{vault}, recipients: [{recipient}]}}
"""


class Site:
    """A site with a vault in a folder, whose commands run as processes."""

    def __init__(
        self, folder: Path, commands: Forker, vault: str = "", variables: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.vault = folder / "vault"
        self.vault.mkdir()
        self.identity = folder / "identity.txt"
        self.commands = commands
        self.killed = 0
        self.pace = 1.0
        self.settings = vault or f'url: "file://{self.vault}"'
        self.own = TestSite(folder / "site", variables or {})
        (self.own.folder / "files").mkdir(parents=True)
        secret, recipient = new_identity()
        self.identity.write_text(secret + "\n")
        self.take(recipient)
        self.sets = VaultSite(folder / "unused")
        self.sets.store = self.own.store("nightly")
        self.run("vault", "init", "offsite")

    def take(self, recipient: str) -> None:
        self.own.write(SETTINGS.format(vault=self.settings, recipient=recipient))

    def seal(self, number: int) -> SetId:
        numbers = random.Random(number)
        files = {"big.bin": numbers.randbytes(3_000_000)} | {f"many/{one}": numbers.randbytes(99) for one in range(40)}
        return self.sets.seal(number, files)

    def run(self, *arguments: str) -> float:
        code, seconds = self.commands.run(*arguments, "--config", str(self.own.folder))
        assert code == 0, arguments
        return seconds

    def kill(self, after: float, *arguments: str) -> None:
        code, _ = self.commands.run(*arguments, "--config", str(self.own.folder), kill_after=after * self.pace)
        assert code in (0, -9)
        self.killed += code == -9
        if code == 0:
            # The run that was timed may have had less of the machine.
            self.pace *= 0.9

    def require_whole(self) -> list[str]:
        catalog = open_access(self.own.site, "offsite").catalog()
        found = check_stored(catalog)
        assert not found.findings, found.findings
        return catalog.copy_names()

    def age(self) -> None:
        """Let four days pass for everything in the vault."""
        then = time.time() - 4 * 86400
        for path in self.vault.rglob("*"):
            os.utime(path, (then, then))


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    """One process that every test's commands are forked from: it has imported what they need."""
    with forker(TestSite(tmp_path_factory.mktemp("commands")).environment()) as found:
        yield found


@pytest.fixture
def site(tmp_path: Path, commands: Forker) -> Site:
    return Site(tmp_path, commands)


def _instants(count: int, seconds: float) -> list[float]:
    """Spread over what the whole command takes, the last ones behind its end."""
    return [seconds * 1.05 * (one + 0.5) / count for one in range(count)]


def killed_copies(site: Site, count: int) -> None:
    seconds = site.run("vault", "copy", "offsite", f"nightly/{site.seal(0)}")
    for number, instant in enumerate(_instants(count, seconds), 1):
        set_id = site.seal(number)
        before = site.require_whole()
        site.kill(instant, "vault", "copy", "offsite", f"nightly/{set_id}")
        assert set(before) <= set(site.require_whole())
        site.run("vault", "copy", "offsite", f"nightly/{set_id}")
        after = site.require_whole()
        assert [name for name in after if name.startswith(set_id)]
        shutil.rmtree(site.own.folder / "backups" / "nightly" / set_id)
    left = [path for path in site.vault.rglob("*") if path.is_file() and path.parent.name == ".incoming"]
    assert len(left) <= count * 3, "what a killed writer left aside goes a day later"


def killed_cleanings(site: Site, count: int) -> None:
    kept = site.seal(0)
    site.run("vault", "copy", "offsite", f"nightly/{kept}")

    def fill(number: int) -> None:
        gone = site.seal(number)
        site.run("vault", "copy", "offsite", f"nightly/{gone}")
        catalog = open_access(site.own.site, "offsite").catalog()
        mark(catalog, [name for name in catalog.copy_names() if name.startswith(gone)])
        site.age()

    fill(1)
    seconds = site.run("vault", "clean", "offsite")
    for number, instant in enumerate(_instants(count, seconds), 2):
        fill(number)
        site.kill(instant, "vault", "clean", "offsite")
        catalog = open_access(site.own.site, "offsite").catalog()
        marks, copies = catalog.marks(), catalog.copies()[0]
        chunks = catalog.chunks()
        for copy in copies:
            if copy.name not in marks:
                assert {chunk.name for chunk in copy.header.needed} <= set(chunks)
        site.run("vault", "clean", "offsite")
        assert [name[: len(kept)] for name in site.require_whole()] == [kept]
        assert not list((site.vault / "marks").glob("*"))


def killed_fetches(site: Site, count: int) -> None:
    set_id = site.seal(0)
    site.run("vault", "copy", "offsite", f"nightly/{set_id}")
    there, original = site.own.folder / "backups" / "nightly" / set_id, site.folder / "original"
    there.rename(original)
    fetch = ("vault", "fetch", "offsite", f"nightly/{set_id}", "--identity", str(site.identity))
    seconds = site.run(*fetch)
    for instant in _instants(count, seconds):
        shutil.rmtree(there, ignore_errors=True)
        site.kill(instant, *fetch)
        if not there.exists():
            site.run(*fetch)
        assert contents(there) == contents(original)
        assert not list(there.parent.glob(".*.part"))


def killed_recoveries(site: Site, count: int) -> None:
    set_id = site.seal(0)
    site.run("vault", "copy", "offsite", f"nightly/{set_id}")
    original = contents(site.own.folder / "backups" / "nightly" / set_id)
    target = site.folder / "bare"
    recover = (f"file://{site.vault}", "--identity", str(site.identity), "--to", str(target))
    code, seconds = site.commands.run("vault", "recover", *recover)
    assert code == 0
    for instant in _instants(count, seconds):
        shutil.rmtree(target, ignore_errors=True)
        killed = site.commands.run("vault", "recover", *recover, kill_after=instant * site.pace)[0] == -9
        site.killed += killed
        site.pace *= 1.0 if killed else 0.9
        assert site.commands.run("vault", "recover", *recover)[0] == 0
        assert contents(target / "backups" / "nightly" / set_id) == original
        assert (target / "backup.yaml").read_text() == (site.own.folder / "backup.yaml").read_text()


def killed_reencryptions(site: Site, count: int) -> None:
    seconds = 2.0
    site.run("vault", "copy", "offsite", f"nightly/{site.seal(0)}")
    for number, _ in enumerate(range(count + 1)):
        earlier = site.folder / f"identity-{number}.txt"
        shutil.copy(site.identity, earlier)
        secret, recipient = new_identity()
        site.take(recipient)
        site.run("vault", "recipients", "offsite", "--change")
        anew = ("vault", "reencrypt", "offsite", "--identity", str(earlier))
        if number == 0:
            seconds = site.run(*anew)
        else:
            site.kill(_instants(count, seconds)[number - 1], *anew)
            assert len(site.require_whole()) == 1
            site.run(*anew)
        site.identity.write_text(secret + "\n")
        site.run("vault", "check", "offsite", "--identity", str(site.identity))


PHASES: list[Callable[[Site, int], None]] = [
    killed_copies,
    killed_cleanings,
    killed_fetches,
    killed_recoveries,
    killed_reencryptions,
]


@pytest.mark.parametrize("phase", PHASES)
def test_nothing_is_lost_when_a_command_is_killed_at_some_instants(
    site: Site, phase: Callable[[Site, int], None]
) -> None:
    phase(site, 4)
    assert site.killed


def test_a_disk_that_is_full_is_named_and_leaves_nothing_half(site: Site) -> None:
    set_id = site.seal(0)
    there = site.own.folder / "backups" / "nightly" / set_id
    where = ("--config", str(site.own.folder))
    copy = ("vault", "copy", "offsite", f"nightly/{set_id}", *where)
    assert site.commands.run(*copy, largest_file=100_000)[0] == ExitCode.STORE
    assert site.require_whole() == []
    assert site.commands.run(*copy)[0] == 0
    original = contents(there)
    shutil.rmtree(there)
    fetch = ("vault", "fetch", "offsite", f"nightly/{set_id}", "--identity", str(site.identity), *where)
    assert site.commands.run(*fetch, largest_file=100_000)[0] == ExitCode.STORE
    assert not list((site.own.folder / "backups" / "nightly").glob("*T*"))
    assert not list((site.own.folder / "backups" / "nightly").glob(".*.part"))
    assert site.commands.run(*fetch)[0] == 0
    assert contents(there) == original


@pytest.fixture(params=["s3", "sftp"])
def distant(request: pytest.FixtureRequest, tmp_path: Path, commands: Forker) -> Iterator[Site]:
    """The same with a vault behind a network: SeaweedFS, OpenSSH."""
    with contextlib.ExitStack() as stack:
        (tmp_path / "server").mkdir()
        if request.param == "s3":
            server = stack.enter_context(weed_server(tmp_path / "server"))
            server.client.create_bucket(Bucket="vaults")
            own = server.options()
            vault = (
                "url: s3://vaults/x, endpoint_env: TEST_S3_ENDPOINT, "
                "credentials_env: {access_key: TEST_S3_KEY, secret_key: TEST_S3_SECRET}"
            )
            yield Site(tmp_path, commands, vault, dict(own.environment))
        else:
            ssh = stack.enter_context(ssh_server(tmp_path / "server"))
            (tmp_path / "there").mkdir()
            url = ssh.url(tmp_path / "there")
            yield Site(tmp_path, commands, f'url: "{url}", key_file: "{ssh.key}", known_hosts: "{ssh.known_hosts}"')


@pytest.mark.story
@pytest.mark.parametrize("phase", [killed_copies, killed_fetches])
def test_nothing_is_lost_when_a_command_is_killed_over_a_network(
    distant: Site, phase: Callable[[Site, int], None]
) -> None:
    phase(distant, 4)
    assert distant.killed


@pytest.mark.story
@pytest.mark.parametrize("phase", PHASES)
def test_nothing_is_lost_when_a_command_is_killed_at_fifty_instants(
    site: Site, phase: Callable[[Site, int], None]
) -> None:
    phase(site, 50)
    assert site.killed > 25
