"""A backup into a vault alone that is killed: nothing looks like a copy, and the same set is completed from there."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from backup_pipeline.stores.vault.encryption import new_identity
from backup_pipeline_tests.support.forked_sites import ForkedCommand
from backup_pipeline_tests.support.sites import TestSite

SETTINGS = """
sources:
  one: {{kind: folder, path: one}}
  two: {{kind: folder, path: two, after: [one]}}
  three: {{kind: folder, path: three, after: [two]}}
plans: {{nightly: {{sources: [one, two, three], store: "vault:offsite"}}}}
vaults: {{offsite: {{url: "file://{vault}", recipients: [{recipient}], megabytes_per_second: 20}}}}
"""


@pytest.mark.takes(seconds=3, together="forked")
@pytest.mark.parametrize("chunks", [pytest.param(1, marks=pytest.mark.story), 14])
def test_a_killed_backup_into_a_vault_is_completed_without_its_sources_again(tmp_path: Path, chunks: int) -> None:
    site = TestSite(tmp_path / "site")
    for name in ("one", "two", "three"):
        (site.folder / name).mkdir(parents=True)
        (site.folder / name / "large.bin").write_bytes(os.urandom(8_000_000))
    vault = tmp_path / "vault"
    vault.mkdir()
    secret, recipient = new_identity()
    (tmp_path / "identity.txt").write_text(secret + "\n")
    site.write(SETTINGS.format(vault=vault, recipient=recipient))
    assert site.run("vault", "init", "offsite").code == 0

    def stored() -> list[Path]:
        return [path for path in (vault / "chunks").rglob("*") if path.is_file()]

    process = ForkedCommand(site, "backup", "nightly")
    until = time.monotonic() + 120
    while len(stored()) < chunks and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (begun,) = site.store("nightly").ids()
    assert not list((vault / "copies").glob("*"))

    done = site.run("backup", "nightly", "--resume")
    assert done.code == 0, done.text
    assert site.store("nightly").ids() == (begun,)
    size = sum(path.stat().st_size for path in stored())
    assert size < 31_000_000, "only those that were on the way are sent twice"
    left = sum(path.stat().st_size for path in site.site.store_folder("nightly").rglob("*") if path.is_file())
    assert left < 500_000
    done = site.run("drill", "nightly/latest", "--identity", str(tmp_path / "identity.txt"))
    assert done.code == 0, done.text
