"""The container image, built and run without an engine where that is possible."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from backup_pipeline_tests.support.documents.blocks import ROOT

BUILD = ROOT / "docker" / "build-without-engine"


def built_image() -> None:
    """Build the image as docker/Dockerfile says; skip the test where that cannot be done."""
    missing = [name for name in ("buildah", "mmdebstrap", "crun") if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"the image cannot be built here: needs root and {', '.join(missing) or 'nothing else'}")
    done = subprocess.run([BUILD], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
