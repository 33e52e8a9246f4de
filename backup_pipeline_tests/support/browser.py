"""A real Chromium, headless, for tests of pages; without one they are skipped, saying so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

_FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """Start the machine's Chromium with further flags."""
    named = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if named is None:
        pytest.skip("no Chromium on this machine: set CHROMIUM, or install Debian's package chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=named, args=[*_FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()
