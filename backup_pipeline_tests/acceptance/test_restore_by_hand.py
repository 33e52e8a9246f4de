"""A set restored from its vault by a stranger: age, sha256sum, gunzip, psql and Python's standard library, no more."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backup_pipeline.postgres.server.clients import embedded_folders
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.stores.vault.encryption import new_identity
from backup_pipeline_tests.support.postgres_restore import ask
from backup_pipeline_tests.support.sites import SHOP, TestSite, dsn

# Written from RECOVERY.md's section "By hand" alone.
BY_HAND = r"""
import json, subprocess, sys
from pathlib import Path

vault, identity, target = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])

def age(data):
    return subprocess.run(["age", "-d", "-i", identity], input=data, stdout=subprocess.PIPE, check=True).stdout

[copy] = (vault / "copies").iterdir()
first, line, signature, content = copy.read_bytes().split(b"\n", 3)
header = json.loads(line)
account = json.loads(subprocess.run(["gunzip"], input=age(content), stdout=subprocess.PIPE, check=True).stdout)
stream = b""
for name, size, sha256 in header["chunks"]:
    path = vault / "chunks" / name[:2] / name
    digest = subprocess.run(["sha256sum", path], stdout=subprocess.PIPE, check=True).stdout.split()[0].decode()
    assert digest == sha256, path
    stream += age(path.read_bytes())
sums = []
for entry in account["files"]:
    path = target / entry["path"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream[: entry["size"]])
    stream = stream[entry["size"] :]
    sums.append(f"{entry['sha256']}  {entry['path']}\n")
assert not stream
(target / "manifest.json").write_text(account["manifest"])
(target / "SUMS").write_text("".join(sums))
subprocess.run(["sha256sum", "--quiet", "-c", "SUMS"], cwd=target, check=True)
subprocess.run(["sha256sum", "--quiet", "-c", "records/sealed.sha256"], cwd=target, check=True)
print(account["plan"], account["set_id"])
"""
SETTINGS = """
sources: {{shop: {{kind: postgres, dsn_env: SHOP_URL}}, files: {{kind: folder, path: files}}}}
plans: {{nightly: {{sources: [shop, files]{store}}}}}
vaults: {{offsite: {{url: "file://{vault}", recipients: [{recipient}]}}}}
"""


@pytest.mark.skipif(shutil.which("age") is None, reason="the program age is not installed (apt install age)")
@pytest.mark.parametrize("store", ["", ", store: 'vault:offsite'"], ids=["a copy", "a plan with no other store"])
def test_a_stranger_restores_a_set_without_anything_of_this_project(
    store: str, tmp_path: Path, database: Callable[..., PostgresTarget], template: Callable[[str, str], str]
) -> None:
    target = database(template("shop", SHOP))
    site = TestSite(tmp_path / "site")
    (site.folder / "files").mkdir(parents=True)
    (site.folder / "files" / "large.bin").write_bytes(os.urandom(3_000_000))
    (tmp_path / "vault").mkdir()
    secret, recipient = new_identity()
    (tmp_path / "identity.txt").write_text(secret + "\n")
    site.variables["SHOP_URL"] = dsn(target)
    site.write(SETTINGS.format(vault=tmp_path / "vault", recipient=recipient, store=store))
    for command in (["vault", "init", "offsite"], ["backup", "nightly"]):
        assert (done := site.run(*command)).code == 0, done.text
    if not store:
        assert (done := site.run("vault", "copy", "offsite", "nightly/latest")).code == 0, done.text
    (set_id,) = site.store("nightly").ids()
    shutil.rmtree(site.folder)

    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("age", "sha256sum", "gunzip", "gzip", "sh", "tar"):
        (programs / name).symlink_to(shutil.which(name) or "")
    (programs / "psql").symlink_to(embedded_folders()[0] / "psql")
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    environment = kept | {
        "PATH": str(programs),
        "PGHOST": target.host,
        "PGPORT": str(target.port),
        "PGUSER": target.user,
        "PGPASSWORD": target.password,
    }
    folder = tmp_path / "by-hand"
    folder.mkdir()
    python = [os.path.realpath(sys.executable), "-I", "-S", "-c", BY_HAND]
    arguments = [str(tmp_path / "vault"), str(tmp_path / "identity.txt"), str(folder)]
    done = subprocess.run([*python, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["nightly", set_id]), done.stderr
    assert json.loads((folder / "manifest.json").read_text())["set_id"] == set_id

    empty = database()
    load = f"gunzip -c shop_db.sql.gz | psql -X -q -v ON_ERROR_STOP=1 -d '{empty.database}'"
    done = subprocess.run(
        ["/bin/sh", "-c", load], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for table in ("customers", "orders"):
        query = f"select count(*), md5(string_agg(t::text, ',' order by t::text)) from public.{table} t"
        assert ask(replace(target, database=empty.database), query) == ask(target, query)
