"""What a site keeps beside its plans' sets, made alike on workers that share no disk: incidents, copies, fleets.

Sets, and what lies beside them, are the business of their store. A site with a disk that all share does nothing here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from backup_pipeline.errors import BackupSystemError
from backup_pipeline.operations.sites.fleet_record import LOCK_NAME, RECORD_NAME, folder_of, lock_name
from backup_pipeline.operations.sites.identity import state_folder
from backup_pipeline.operations.sites.state import state_database
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.settings.fleet_members import MEMBERS_NAME
from backup_pipeline.settings.server_databases import with_known_databases
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.state.shared_files import SharedFiles
from backup_pipeline.system.locks import Holder, living_holder

if TYPE_CHECKING:
    from backup_pipeline.stores.state.database import StateDatabase
    from backup_pipeline.stores.state.locks import DatabaseCoordination

LOG = logging.getLogger("backup")
# Never a key: those come from the environment.
_STATE = ("copies/*.json", "vault-proofs/*.json", "vault-keys/*.kit.json", "vault-keys/*.bad-chunks")
_INCIDENTS = (".alerts/incidents.json",)
_FLEET = (RECORD_NAME, MEMBERS_NAME)


def share_state(site: Site) -> None:
    """Make the site's incidents, and its records of copies and of fleets, alike on all workers that share no disk.

    Where the database does not answer that is logged, no more.
    """
    if not site.settings.state_env:
        return
    try:
        database = state_database(site)
        assert database is not None
        SharedFiles(database, "/alerts", site.settings.store, patterns=_INCIDENTS).share()
        SharedFiles(database, "/state", state_folder(site), patterns=_STATE).share()
    except BackupSystemError as error:
        LOG.warning("what is known of the site is not shared: %s", error)
        return
    for fleet in site.settings.fleets:
        share_fleet(site, fleet)


def share_fleet(site: Site, fleet: str, *, write: bool = False) -> None:
    """Make the members of a fleet, and what became of each, alike on all workers that share no disk.

    Where the database does not answer that is logged, no more.

    Args:
        site: the site.
        fleet: its name.
        write: for the worker whose run it is: what became of the members is read alone by all others.
    """
    try:
        if (database := state_database(site)) is not None:
            taken = () if write else (RECORD_NAME,)
            SharedFiles(database, f"/fleets/{fleet}", folder_of(site, fleet), patterns=_FLEET, taken=taken).share()
    except BackupSystemError as error:
        LOG.warning("what is known of fleet %s is not shared: %s", fleet, error)


def fleet_holder(site: Site, fleet: str) -> Holder | None:
    """Return the process that has a fleet's run, on whatever worker; None where none lives."""
    if (here := living_holder(folder_of(site, fleet) / LOCK_NAME)) is not None:
        return here
    database = state_database(site)
    name = lock_name(fleet)
    there = _coordination(database).living(name, name) if database is not None else []
    return next(iter(there), None)


@contextmanager
def state_lock(site: Site, name: str, *, purpose: str, wait_seconds: float) -> Iterator[None]:
    """Have a part of the site's state to oneself among all its workers, as others left it, and pass it on after.

    Raises:
        LockError: somebody else has it for longer than `wait_seconds`.
        SourceError: the database does not answer.
    """
    database = state_database(site)
    if database is None:
        yield
        return
    with _coordination(database).hold(name, purpose=purpose, wait_seconds=wait_seconds):
        share_state(site)
        yield
        share_state(site)


def with_shared_knowledge(site: Site) -> Site:
    """Return the site with what other workers know of its sources, as definitions are built from it."""
    if not site.settings.state_env:
        return site
    share_state(site)
    try:
        database = state_database(site)
        assert database is not None
        there = database.all_versions("", without="/")
    except BackupSystemError as error:
        # What is down must not keep definitions from being built.
        LOG.warning("what is known of the sources is not brought up to date: %s", error)
        return site
    for plan in site.single_plans:
        open_store(site, plan).share(there.get(plan, {}))
    return with_known_databases(site)


def _coordination(database: StateDatabase) -> DatabaseCoordination:
    from backup_pipeline.stores.state.locks import DatabaseCoordination

    return DatabaseCoordination(database, "/")
