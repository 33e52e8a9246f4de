"""What a vault holds, for `list VAULT:`: with an identity its plans and sets, without one what stands in plain."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from backup_pipeline.errors import SetNotFoundError
from backup_pipeline.operations.sites.copy_proofs import is_proven, note_copy_proofs
from backup_pipeline.operations.sites.stores import open_sets, split_place
from backup_pipeline.operations.sites.vaults import open_access, open_reader, plans_in, read_identity
from backup_pipeline.operations.status.listing import ListedSet
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.vault.names import plan_tag, tag_of


@dataclass(frozen=True)
class PlainCopy:
    """What is known of a copy without an identity.

    Attributes:
        copy: its name in the vault.
        plan: its plan, where this machine holds the vault's id key; "" elsewhere.
        set_id: the set's name, which is its time.
        stored_size: bytes of its chunks in the vault, some of them shared with other copies.
        copied_at: when it was copied.
        proven: whether its newest drill passed.
        problem: why the copy does not count; "" where it does.
    """

    copy: str
    plan: str
    set_id: str
    stored_size: int
    copied_at: datetime | None
    proven: bool
    problem: str = ""


def has_identity(site: Site, vault: str) -> bool:
    """Return whether copies of a vault can be read here; StoreError when the named identity cannot be."""
    return open_access(site, vault).encryption == "none" or bool(read_identity(None, site)[0])


@dataclass(frozen=True)
class ListedCopies:
    """The copies of a plan in a vault that the identity opens, oldest first, and how many more it has."""

    place: str
    sets: list[ListedSet]
    others: int


def list_vault(site: Site, place: str) -> list[ListedCopies]:
    """Return the copies of each plan of a vault (`VAULT:`), or of one (`VAULT:PLAN`)."""
    vault, plan = split_place(place)
    found = []
    for name in (plan,) if plan else plans_in(open_reader(site, vault, None), site.settings.plans):
        store = open_sets(site, f"{vault}:{name}")
        sets = [ListedSet(known, vault=vault) for known in store.sets()]
        found.append(ListedCopies(f"{vault}:{name}", sets, max(0, len(store.ids()) - len(sets))))
    return found


def list_plain(site: Site, place: str) -> list[PlainCopy]:
    """Return the copies as they stand in plain, oldest first; nothing is decrypted."""
    vault, plan = split_place(place)
    access = open_access(site, vault)
    catalog = access.catalog()
    key = access.keys.id_key(catalog.description.vault)
    tags = {plan_tag(key, name): name for name in {*site.settings.plans, *([plan] if plan else [])}} if key else {}
    proofs = note_copy_proofs(site, access)
    copies, damaged = catalog.copies()
    found = [
        PlainCopy(
            copy.name,
            tags.get(tag_of(copy.name), ""),
            copy.name.rpartition("-")[0],
            copy.header.stored_size,
            copy.header.created_at,
            is_proven(copy.name, proofs),
        )
        for copy in copies
    ]
    found += [
        PlainCopy(bad.name, tags.get(tag_of(bad.name), ""), bad.name.rpartition("-")[0], 0, None, False, str(bad.error))
        for bad in damaged
    ]
    return sorted((one for one in found if not plan or one.plan == plan), key=lambda one: one.copy)


def find_plain(site: Site, name: str) -> PlainCopy:
    """Return the copy that `VAULT:PLAN/SET` or `VAULT:PLAN/latest` means, as it stands in plain.

    Raises:
        SetNotFoundError: the vault has no such copy, or this machine does not know which plan a copy is of.
    """
    place, _, wanted = name.rpartition("/") if "/" in name else (name, "", "")
    vault, plan = split_place(place)
    copies = list_plain(site, f"{vault}:")
    found = [one for one in copies if wanted in (one.set_id, "latest") and plan in (one.plan, "") and not one.problem]
    if not found:
        raise SetNotFoundError(
            "Without an identity no copy of this name is found."
            + ("" if any(one.plan for one in copies) else " Which plan a copy is of is not known on this machine."),
            where=name,
            remedy=f"`backup-pipeline list {vault}:` shows times and sizes; with --identity FILE, or "
            "VAULT_IDENTITY_FILE, names too.",
        )
    return found[-1]
