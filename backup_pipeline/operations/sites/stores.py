"""The stores of a site's plans: opening, locking, and resolving the names of sets."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from backup_pipeline.errors import LockError, SetNotFoundError, StoreError
from backup_pipeline.model.backup_set import SetState
from backup_pipeline.model.indexed_set import KnownSet
from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.set_id import SetId, is_set_id, set_time
from backup_pipeline.operations.sites.identity import claim_store
from backup_pipeline.rules.clock_ahead import CLOCKS_DIFFER
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.claims import Claims
from backup_pipeline.stores.contract import LOCK_NAME, PlanStore, Store
from backup_pipeline.stores.opening import folder_store
from backup_pipeline.system.locks import Holder

_NAMED = 5
_POLL_SECONDS = 0.2
LATEST = "latest"
LATEST_PROVEN = "latest-proven"


def open_store(site: Site, plan_name: str) -> PlanStore:
    """Return the store of a plan, with the modes of the settings; SettingsError for an unknown plan."""
    if vault := site.vault_of(plan_name):
        from backup_pipeline.operations.sites.vaults import open_plan_store

        return open_plan_store(site, vault, plan_name)
    return folder_store(
        site.store_folder(plan_name),
        plan_name,
        file_mode=int(site.settings.file_mode, 8),
        folder_mode=int(site.settings.folder_mode, 8),
    )


def split_place(place: str) -> tuple[str, str]:
    """Return vault and plan of `VAULT:PLAN`; ("", plan) for a plan's own store."""
    vault, colon, plan = place.partition(":")
    return (vault, plan) if colon else ("", place)


def open_sets(site: Site, place: str) -> Store:
    """Return where sets are read from: `PLAN` for the plan's own store, `VAULT:PLAN` for its copies in a vault.

    Raises:
        SettingsError: no such plan or vault, or no identity for the vault is named.
    """
    vault, plan = split_place(place)
    if not vault:
        return open_store(site, plan)
    from backup_pipeline.operations.sites.vaults import open_vault_store

    return open_vault_store(site, vault, plan)


@contextlib.contextmanager
def plan_lock(
    site: Site,
    plan: str | PlanStore,
    purpose: str,
    wait_seconds: float | None = None,
    *,
    owner: str = "",
    beside: bool = False,
    on_wait: Callable[[Holder], None] | None = None,
) -> Iterator[Holder]:
    """Be the only one that adds to or removes from a plan's store while the block runs.

    Args:
        site: the site.
        plan: the plan's name, or its store, whose changes then depend on the lock.
        purpose: shown to others who wait, as in "backup of nightly, run 1f3a".
        wait_seconds: how long to wait; the plan's `wait_seconds` by default.
        owner: the run, whose other processes are waited for as long as they live: their heartbeats are what counts.
        beside: let the run's other processes go on with the sources that they have claimed.
        on_wait: called once with the holder when waiting begins.

    Raises:
        LockError: somebody else still holds it; names the holder.
        RefusedError: the store is another site's.
        StoreError: the store's folder cannot be made or written.
    """
    store = open_store(site, plan) if isinstance(plan, str) else plan
    store.prepare()
    wait = site.plan(store.plan).wait_seconds if wait_seconds is None else wait_seconds
    claims = Claims(store, owner)
    deadline = time.monotonic() + wait
    while True:
        with store.coordination.hold(
            LOCK_NAME, purpose=purpose, owner=owner, wait_seconds=wait, on_wait=on_wait, leased=bool(owner)
        ) as holder:
            if not (busy := claims.busy(own=not beside)):
                if not site.settings.state_env:
                    claim_store(site, store)
                yield holder
                return
        _wait_for(busy, owner, deadline, store, on_wait)
        on_wait = None


def _wait_for(
    busy: list[Holder | None],
    owner: str,
    deadline: float,
    store: PlanStore,
    on_wait: Callable[[Holder], None] | None,
) -> None:
    """Wait a moment for those that capture sources of a set of the plan; LockError for another run's at the end."""
    first = busy[0]
    if on_wait and first:
        on_wait(first)
    others = any(one is None or not owner or one.owner != owner for one in busy)
    if others and time.monotonic() >= deadline:
        raise LockError(
            f"A source of this plan is captured by {first.describe() if first else 'an unknown process'}.",
            where=store.label,
            remedy="Wait until it has finished.",
        )
    time.sleep(_POLL_SECONDS)


def site_at(site: Site, folder: Path) -> Site:
    """Return the site with a folder that `backup --store` wrote to: of the plans that have a set there.

    For reading only. Where no set says its plan, every plan reads there.

    Raises:
        StoreError: there is no such folder.
    """
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise StoreError(
            "No such folder.", where=f"--store {folder}", remedy="Name the folder that `backup --store` wrote to."
        )
    plans = site.settings.plans
    said = [(known.manifest or known.draft) for known in folder_store(folder, next(iter(plans))).sets()]
    there = {each.plan for each in said if each} & set(plans) or set(plans)
    moved = {name: plan.model_copy(update={"store": folder}) for name, plan in plans.items() if name in there}
    return replace(site, settings=site.settings.model_copy(update={"plans": moved}))


def is_whole_backup(known: KnownSet) -> bool:
    """Return whether a set is a backup of its plan: sealed, all sources, not an emergency set."""
    return known.state is SetState.COMPLETE and not known.partial and known.purpose is Purpose.BACKUP


def resolve_set(site: Site, name: str) -> tuple[str, SetId]:
    """Return plan and set that a name means.

    Args:
        site: the site.
        name: `PLAN/SET`, `PLAN/latest`, `PLAN/latest-proven`; `PLAN` alone means its latest; without the plan where
            the site has one plan, or where only one plan has that set. With `VAULT:` before it the copy in a vault is
            meant, and the plan is returned as `VAULT:PLAN` (see `open_sets`). `latest` is the newest sealed backup of
            all of the plan's sources: incomplete, partial and emergency sets, and sets whose time has not come yet,
            are only reached by their own name.

    Raises:
        SettingsError: no such plan.
        SetNotFoundError: no such set, or several are meant; the message names the choices.
    """
    plan, slash, wanted = name.partition("/")
    if ":" in plan:
        return _in_vault(site, name)
    if slash:
        site.plan(plan)
        return plan, _find(site, plan, wanted)
    wanted = name
    plans = list(site.settings.plans)
    if _is_plan(site, wanted):
        return wanted, _find(site, wanted, LATEST)
    if len(plans) == 1:
        return plans[0], _find(site, plans[0], wanted)
    if wanted in (LATEST, LATEST_PROVEN):
        raise SetNotFoundError(
            f"{wanted!r} could mean a set of any of {len(plans)} plans.",
            where=str(site.file),
            remedy=f"Name the plan: {', '.join(f'{plan}/{wanted}' for plan in plans)}.",
        )
    having = [plan for plan in plans if is_set_id(wanted) and SetId(wanted) in open_store(site, plan).ids()]
    if len(having) == 1:
        return having[0], SetId(wanted)
    if having:
        raise SetNotFoundError(
            f"Several plans have a set {wanted}.",
            where=str(site.file),
            remedy=f"Name the plan: {', '.join(f'{plan}/{wanted}' for plan in having)}.",
        )
    examples = ", ".join(f"{plan}/{LATEST}" for plan in plans[:_NAMED]) + (", …" if len(plans) > _NAMED else "")
    raise SetNotFoundError(
        f"No plan has a set {wanted!r}.",
        where=str(site.file),
        remedy=f"Sets are named PLAN/SET, or PLAN for its latest ({examples}); backup-pipeline list shows them.",
    )


def _is_plan(site: Site, name: str) -> bool:
    """Return whether a name without a set is that of a plan: a plan that is called `latest` needs its set named."""
    return name in site.settings.plans and name not in (LATEST, LATEST_PROVEN)


def _in_vault(site: Site, name: str) -> tuple[str, SetId]:
    vault, rest = split_place(name)
    plan, slash, wanted = rest.partition("/")
    if not slash and _is_plan(site, rest):
        wanted = LATEST
    elif not slash:
        plans = list(site.settings.plans)
        if len(plans) != 1:
            raise SetNotFoundError(
                "The plan is not named.",
                where=name,
                remedy=f"Sets in a vault are named VAULT:PLAN/SET, as in {vault}:{plans[0]}/{LATEST}.",
            )
        plan, wanted = plans[0], rest
    place = f"{vault}:{plan}"
    return place, _find(site, place, wanted)


def _makes_one(place: str) -> str:
    vault, plan = split_place(place)
    return f"backup-pipeline vault copy {vault} {plan}/latest" if vault else f"backup-pipeline backup {plan}"


def _require_copies(site: Site, place: str) -> None:
    """Refuse a plan of which a vault has no copies, naming those of which it has."""
    from backup_pipeline.operations.sites.vaults import open_reader, plans_in

    vault, plan = split_place(place)
    there = plans_in(open_reader(site, vault, None), site.settings.plans)
    if plan not in there and plan not in site.settings.plans:
        raise SetNotFoundError(
            f"The vault has no copies of a plan {plan!r}.",
            where=place,
            remedy=f"It has copies of: {', '.join(there) or 'none'}.",
        )


def _under_another_name(site: Site, plan: str) -> str:
    """Return where sets are of plans that the settings have no more, for a plan in a vault that may be one of them."""
    vault = "" if ":" in plan else site.vault_of(plan)
    if not vault:
        return ""
    beside = site.store_folder(plan).parent
    try:
        names = sorted(
            place.name for place in beside.iterdir() if place.is_dir() and place.name not in site.settings.plans
        )
    except OSError:
        return ""
    earlier = [name for name in names if any(is_set_id(place.name) for place in (beside / name).iterdir())]
    if not earlier:
        return ""
    shown = ", ".join(f"`backup-pipeline list {vault}:{name} --identity FILE`" for name in earlier[:3])
    return f" Was the plan renamed? Sets that were made under another name stay under it in the vault: {shown}."


def _find(site: Site, plan: str, wanted: str) -> SetId:
    store = open_sets(site, plan)
    ids = store.ids()
    if not ids and split_place(plan)[0]:
        _require_copies(site, plan)
    if is_set_id(wanted) and SetId(wanted) in ids:
        return SetId(wanted)
    if wanted in (LATEST, LATEST_PROVEN):
        # A set that was made while the clock was wrong would be the latest until its time comes. Where there is no
        # other it is this machine's clock that is wrong.
        now = datetime.now(UTC) + CLOCKS_DIFFER
        for set_id in sorted(ids, key=lambda one: (set_time(one) <= now, one), reverse=True):
            known = store.read(set_id)
            if is_whole_backup(known) and (wanted == LATEST or known.proven):
                return set_id
        kind = "proven" if wanted == LATEST_PROVEN else "complete"
        raise SetNotFoundError(
            f"There is no {kind} set of this plan.",
            where=f"{plan} in {store.label}",
            remedy=f"backup-pipeline drill {plan}/latest proves a set."
            if wanted == LATEST_PROVEN and ids
            else f"{_makes_one(plan)} makes one.{'' if ids else _under_another_name(site, plan)}",
        )
    near = [known for known in ids if wanted and known.startswith(wanted)]
    shown = near or list(ids[-5:])
    raise SetNotFoundError(
        "No such backup set.",
        where=f"{plan}/{wanted}",
        remedy=f"{'Did you mean' if near else 'The newest are'} {', '.join(shown)}?"
        if shown
        else f"There are no sets yet: {_makes_one(plan)} makes one.{_under_another_name(site, plan)}",
    )
