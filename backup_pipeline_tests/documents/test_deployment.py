"""The files of a deployment: compose against its specification, the image against a linter, units against systemd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
UNITS = ROOT / "deploy" / "systemd"
OURS = ("code", "webserver", "daemon")


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    return yaml.safe_load((DOCKER / name).read_text("utf-8"))


def merged() -> dict[str, dict[str, Any]]:
    """The services of compose.yaml with the site's overlay; lists are added, mappings merged, as compose does."""
    services = compose()["services"]
    for name, extra in compose("compose.site.yaml")["services"].items():
        known = services.setdefault(name, {})
        for field, value in extra.items():
            if isinstance(value, dict):
                known[field] = {**known.get(field, {}), **value}
            elif isinstance(value, list) and field in known:
                known[field] = [*known[field], *(item for item in value if item not in known[field])]
            else:
                known[field] = value
    return services


@pytest.mark.parametrize("name", ["compose.yaml", "compose.site.yaml", "compose.runs.yaml"])
def test_compose_files_fulfil_the_compose_specification(name: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(DOCKER / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_passes_the_linter() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint has no package for this platform")
    done = subprocess.run([linter, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_runs_as_an_ordinary_user_with_all_clients_and_no_server() -> None:
    text = (DOCKER / "Dockerfile").read_text("utf-8")
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert 'PG_MAJORS="13 14 15 16 17 18"' in text
    assert "constraints.txt" in text
    assert "embedded" not in text
    assert re.search(r"^HEALTHCHECK ", text, re.MULTILINE)


def test_the_image_copies_what_its_context_lets_through_and_no_secret() -> None:
    allowed = (DOCKER / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert "*" in allowed
    assert "!.env" not in allowed
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", (DOCKER / "Dockerfile").read_text("utf-8"), re.MULTILINE):
        for name in line.split():
            assert f"!{name}" in allowed, name
            assert (ROOT / name).exists(), name


def test_every_image_is_pinned_to_an_exact_version() -> None:
    images = [service["image"] for service in merged().values()]
    images.append(re.search(r"PYTHON_IMAGE=(\S+)", (DOCKER / "Dockerfile").read_text("utf-8")).group(1))
    for image in images:
        assert re.search(r":\d+\.\d+", image), image


def test_digests_are_written_into_every_file_and_written_anew(tmp_path: Path) -> None:
    names = ("Dockerfile", "compose.yaml", "compose.site.yaml", "pin-digests")
    for name in names:
        shutil.copy(DOCKER / name, tmp_path)
    engine = tmp_path / "bin" / "docker"
    engine.parent.mkdir()
    for digit in "ab":
        digest = f"sha256:{digit * 64}"
        engine.write_text(f'#!/bin/sh\ntest "$1 $2 $3" = "buildx imagetools inspect" && echo {digest}\n')
        engine.chmod(0o755)
        environment = {**os.environ, "PATH": f"{engine.parent}:{os.environ['PATH']}"}
        done = subprocess.run([tmp_path / "pin-digests"], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = "".join((tmp_path / name).read_text("utf-8") for name in names[:3])
        images = re.findall(r"^ *image: (?!backup-pipeline)(\S+)$|^ARG PYTHON_IMAGE=(\S+)$", found, re.MULTILINE)
        assert len(images) == 4
        assert all(f"@{digest}" in first + second and (first + second).count("@") == 1 for first, second in images)
    for name in names[:3]:
        assert (tmp_path / name).read_text("utf-8").replace(f"@{digest}", "") == (DOCKER / name).read_text("utf-8")

    engine.write_text("#!/bin/sh\nexit 1\n")
    done = subprocess.run([tmp_path / "pin-digests"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0


def test_every_service_is_confined() -> None:
    for name, service in merged().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert "privileged" not in service, name


def test_the_logs_of_every_service_are_bounded() -> None:
    for name, service in merged().items():
        assert service["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "5"}}, name


def test_what_is_large_is_unpacked_on_a_disk_that_the_user_of_the_image_owns() -> None:
    code = merged()["code"]
    scratch = code["environment"]["TMPDIR"]
    assert f"scratch:{scratch}" in code["volumes"]
    assert scratch not in code["tmpfs"]
    text = (DOCKER / "Dockerfile").read_text("utf-8")
    for volume in code["volumes"]:
        name, place = volume.split(":")[:2]
        if name in compose()["volumes"]:
            assert re.search(rf"install -d -o backup-pipeline -g backup-pipeline -m 0700 {place}\b", text), place
    # What the anchor gives to the other services has not been lost.
    assert set(compose()["services"]["daemon"]["environment"]) < set(code["environment"])
    assert set(compose()["services"]["daemon"]["volumes"]) < set(code["volumes"])


def test_the_image_is_tagged_with_the_version_of_the_program() -> None:
    from backup_pipeline import __version__

    assert {compose()["services"][name]["image"] for name in OURS} == {f"backup-pipeline:{__version__}"}


def test_every_service_but_the_proxy_has_a_health_check_and_waits_for_what_it_needs() -> None:
    services = merged()
    for name, service in services.items():
        assert name == "login" or service["healthcheck"]["test"], name
        for needed, condition in service.get("depends_on", {}).items():
            assert needed in services
            assert condition == {"condition": "service_healthy"}


def test_the_ui_and_dagsters_database_are_not_reachable_from_other_machines() -> None:
    services = merged()
    assert services["webserver"]["ports"] == ["127.0.0.1:${UI_PORT:-3000}:3000"]
    assert {name for name, service in services.items() if "ports" in service} == {"webserver", "login"}
    assert services["login"]["profiles"] == ["login"]
    assert compose()["networks"]["inner"]["internal"] is True
    for name in ("postgres", "drill", "daemon"):
        assert services[name]["networks"] == ["inner"]


def test_secrets_come_as_files_and_stand_in_no_committed_file() -> None:
    for name in ("compose.yaml", "compose.site.yaml"):
        document = compose(name)
        for service in document["services"].values():
            for variable, value in (service.get("environment") or {}).items():
                secret = re.search(r"PASSWORD|URL|SECRET|TOKEN", variable)
                assert not secret or (variable.endswith("_FILE") and str(value).startswith("/run/secrets/")), variable
        assert all(secret["file"].startswith("./secrets/") for secret in document["secrets"].values())
    declared = {*compose()["secrets"], *compose("compose.site.yaml")["secrets"]}
    assert {name for service in merged().values() for name in service.get("secrets", [])} <= declared
    assert "/secrets/" in (DOCKER / ".gitignore").read_text().split()


def test_every_volume_and_network_that_is_used_is_declared() -> None:
    volumes = {*compose()["volumes"], *compose("compose.site.yaml")["volumes"]}
    for service in merged().values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in volumes or source.startswith((".", "$")), source
        assert set(service["networks"]) <= set(compose()["networks"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    names = []
    for unit in UNITS.iterdir():
        name = unit.name.replace("@.", "@nightly.")
        # Neither the program nor its user is on this machine.
        text = unit.read_text("utf-8").replace("/opt/backup-pipeline/bin/backup-pipeline", "/bin/true")
        text = re.sub(r"^(User|Group)=.*\n", "", text, flags=re.MULTILINE)
        (tmp_path / name).write_text(text)
        names.append(name)
    done = subprocess.run(
        ["systemd-analyze", "verify", *(f"./{name}" for name in names)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert complaints == []


def test_units_and_crontab_call_commands_that_exist() -> None:
    from typer.main import get_command

    from backup_pipeline.cli.main import build_app

    known = get_command(build_app()).commands  # type: ignore[attr-defined]
    texts = [path.read_text("utf-8") for path in (*UNITS.iterdir(), ROOT / "deploy" / "crontab")]
    called = {name for text in texts for name in re.findall(r"bin/backup-pipeline (\w+)", text)}
    assert called == {"up", "backup", "alerts"}
    assert called <= set(known)
