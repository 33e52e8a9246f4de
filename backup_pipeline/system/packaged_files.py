"""The project's own files that go into a site: inside an installed package, or at the root of a checkout."""

from __future__ import annotations

from pathlib import Path

# Names in a site's folder, and in the package, where a leading dot would be missing from some archives.
_IN_THE_PACKAGE = {".env.template": "env.template"}


def packaged_file(name: str) -> Path:
    """Return the project's own copy of a file or folder (`dagster.yaml`, `.env.template`, `docs/vaults.md`, …)."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "packaged" / _IN_THE_PACKAGE.get(name, name)
    return inside if inside.exists() else package.parent / name
