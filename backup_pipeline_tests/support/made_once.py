"""What Dagster and Typer make anew for each run and each command, made once in a process of the tests.

To make the tables of a history's three files, and of the one of each run, is nearly half of a small run's processor
time, and to put the command line together is all that a quick command takes. Processes that a test starts are as in
production.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
from pathlib import Path

import typer.main
from alembic.script import ScriptDirectory
from dagster._core.storage.event_log import SqliteEventLogStorage
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from backup_pipeline.cli import main
from backup_pipeline.orchestration.sqlite_storage import SqliteStorage

_make_storage, _make_file = SqliteStorage.__init__, SqliteEventLogStorage._initdb


@functools.cache
def _templates() -> tuple[tempfile.TemporaryDirectory[str], Path, Path]:
    """Return a folder that ends with this process, and in it an empty history's folder and the file of a run."""
    folder = tempfile.TemporaryDirectory(prefix="bp-histories-", ignore_cleanup_errors=True)
    history = Path(folder.name) / "storage"
    storage = SqliteStorage.__new__(SqliteStorage)
    _make_storage(storage, str(history))
    storage.dispose()
    run = Path(folder.name) / "run.db"
    _make_file(storage._event_log_storage, create_engine(f"sqlite:///{run}", poolclass=NullPool))
    return folder, history, run


def make_once() -> None:
    """Begin with it; before a test's module imports what is replaced."""
    _copy_histories()
    # Dagster reads its sixty migrations anew for each file of a history that it opens or makes.
    ScriptDirectory.from_config = functools.cache(ScriptDirectory.from_config)  # type: ignore[method-assign]
    main.build_app = functools.cache(main.build_app)
    typer.main.get_command = functools.cache(typer.main.get_command)


def _copy_histories() -> None:
    def begin(self: SqliteStorage, base_dir: str, inst_data: object = None) -> None:
        if not any(Path(base_dir).glob("*/*.db")):
            shutil.copytree(_templates()[1], base_dir, dirs_exist_ok=True)
        _make_storage(self, base_dir, inst_data)  # type: ignore[arg-type]

    def make_file(self: SqliteEventLogStorage, engine: Engine, for_index_shard: bool = False) -> None:
        file = Path(engine.url.database or "")
        if file.exists() or for_index_shard:
            _make_file(self, engine, for_index_shard)
        else:
            # Never half a file under the name that others read.
            made = file.with_suffix(f".{os.getpid()}")
            shutil.copy(_templates()[2], made)
            with contextlib.suppress(FileExistsError):
                os.link(made, file)
            made.unlink()

    SqliteStorage.__init__ = begin  # type: ignore[method-assign]
    SqliteEventLogStorage._initdb = make_file  # type: ignore[method-assign]
