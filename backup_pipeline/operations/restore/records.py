"""What restores did, as JSON files in `<store>/restores/`, so that `undo` finds the way back."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import TypeVar

from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import RefusedError, StoreError
from backup_pipeline.model.base import Frozen
from backup_pipeline.model.restore import RestoreFailure, RestoreResult
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.settings.site import Site
from backup_pipeline.system.files import make_folder_in, read_ordinary, write_atomically

RESTORES_FOLDER = "restores"
_FAILED = ".failed.json"
_Document = TypeVar("_Document", RestoreResult, RestoreFailure)


def write_result(site: Site, result: RestoreResult) -> None:
    """Store a result, replacing an earlier state of the same one."""
    _write(site, result.plan, f"{result.restore_id}.json", result)


def _write(site: Site, plan: str, name: str, document: Frozen) -> None:
    store = open_store(site, plan)
    folder = make_folder_in(store.folder, RESTORES_FOLDER, int(site.settings.folder_mode, 8))
    data = document.model_dump_json(indent=1).encode() + b"\n"
    write_atomically(folder / name, data, mode=int(site.settings.file_mode, 8))
    store.share()


def keep_result(site: Site, result: RestoreResult) -> RestoreResult:
    """Store a result as `write_result` does; where the store is read-only, return it with a warning that says so.

    A copy of the store on a read-only medium is what is left after a disaster: restoring from it must be possible.
    """
    try:
        write_result(site, result)
    except StoreError as error:
        note = (
            f"what this restore did cannot be kept in the store ({error.what.rstrip('.')}, {error.where}): "
            "`undo` will not find it; what was there before is kept beside it under the name shown"
        )
        return result.model_copy(update={"warnings": tuple(dict.fromkeys((*result.warnings, note)))})
    return result


def write_failure(site: Site, failure: RestoreFailure) -> None:
    """Store that a restore or an undo failed in the shell."""
    _write(site, failure.plan, f"{failure.ended:%Y-%m-%dT%H%M%S_%fZ}-{failure.source}{_FAILED}", failure)


def failures(site: Site, plan_name: str) -> list[RestoreFailure]:
    """Return the restores and undos of a plan that failed in the shell, oldest first."""
    return list(_read(site, plan_name, RestoreFailure))


def forget_result(site: Site, result: RestoreResult) -> None:
    """Remove a result: of a swap that did not happen."""
    store = open_store(site, result.plan)
    try:
        (store.folder / RESTORES_FOLDER / f"{result.restore_id}.json").unlink()
        store.share()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EROFS):
            raise


def results(site: Site, plan_name: str, source: str = "") -> list[RestoreResult]:
    """Return the plan's restores (of one source), oldest first."""
    return [one for one in _read(site, plan_name, RestoreResult) if not source or one.source == source]


def _read(site: Site, plan_name: str, model: type[_Document]) -> Iterator[_Document]:
    """Yield the documents of a model; what cannot be read as one is passed over."""
    store = open_store(site, plan_name)
    store.share()
    failed = issubclass(model, RestoreFailure)
    for path in sorted((store.folder / RESTORES_FOLDER).glob("*.json")):
        if path.name.endswith(_FAILED) is failed:
            with contextlib.suppress(OSError, PydanticError):
                yield model.model_validate_json(read_ordinary(path))


def last_to_undo(
    site: Site, plan_name: str, source: str, settle: Callable[[RestoreResult], RestoreResult | None]
) -> RestoreResult:
    """Return the newest restore of a source that can be taken back; RefusedError with the way out when none can.

    Args:
        site: the site.
        plan_name: the plan.
        source: the source.
        settle: finds out what became of a swap or undo that was killed; None for one that never happened.
    """
    for known in reversed(results(site, plan_name, source)):
        result = settle(known) if known.undone_at is None and (known.swapping or known.undo.begun) else known
        if result is None or result.undone_at is not None:
            continue
        if result.undo.kind != "none":
            return result
        raise RefusedError(
            f"The last restore of {source} ({result.restore_id}) cannot be swapped back.",
            where=f"{plan_name}/{source}",
            remedy=result.undo.remedy or "Restore the set from before it.",
        )
    raise RefusedError(
        f"No restore of {source} is there to be undone.",
        where=f"{plan_name}/{source}",
        remedy="backup-pipeline list shows the sets, emergency sets among them.",
    )
