"""The page of a plan's copies in a vault, and what a page answers where no identity opens them."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import Response

from backup_pipeline.operations.sites.stores import open_sets, split_place
from backup_pipeline.operations.status.listing import ListedSet
from backup_pipeline.web.front.pages import PageError, PageRequest

COPIES = 20
"""How many copies a page lists: each is read from the vault."""


def require_identity(asked: PageRequest, vault: str) -> None:
    """Raise PageError where a vault is encrypted and this machine has no identity that opens it.

    Args:
        asked: the request.
        vault: the vault; "" asks nothing.

    Raises:
        PageError: what is missing, and the ways to go on.
        StoreError: the identity that the settings name cannot be read.
    """
    if not vault:
        return
    from backup_pipeline.operations.status.vault_listing import has_identity

    if has_identity(asked.front.site(), vault):
        return
    plan = asked.params["plan"].removeprefix("-").removeprefix(f"{vault}:")
    name = f"{vault}:{plan}/{asked.params.get('set', 'latest')}"
    raise PageError(
        HTTPStatus.CONFLICT,
        f"The copies in {vault} are encrypted, and the identity that opens them is not on this machine: nothing of "
        f"{name} can be shown or restored here.",
        "Nothing is wrong with the copies. One of these ways leads on:",
        ways=(
            "To read and restore it here: put the file with the line AGE-SECRET-KEY-1… on this machine, readable for "
            "the user of this program alone, and name it in .env: VAULT_IDENTITY_FILE=/path/to/the/file. Then load "
            "this page again; take the line out again afterwards.",
            f"In a terminal, with the file on a USB disk: backup-pipeline show {name} --identity FILE, and "
            f"backup-pipeline restore {name} SOURCE --identity FILE.",
            f"On a machine that may hold the identity: backup-pipeline vault fetch {name} --identity FILE brings the "
            "set back among the plan's own.",
            "The identity is on the page for the safe that `backup-pipeline vault kit` printed.",
        ),
    )


def copies_page(asked: PageRequest) -> Response:
    """Return the copies of a plan in a vault, newest first; without an identity what stands in plain."""
    # Vaults need libraries that are not installed everywhere.
    from backup_pipeline.operations.status.vault_listing import has_identity, list_plain

    site, place = asked.front.site(), asked.place
    vault, plan = split_place(place)
    opens = has_identity(site, vault)
    sets, plain = [], []
    if opens:
        store = open_sets(site, place)
        ids = store.ids()[::-1]
        page, pages = asked.page_of(len(ids), COPIES)
        sets = [ListedSet(store.read(each), vault=vault) for each in ids[page * COPIES : (page + 1) * COPIES]]
    else:
        plain = list_plain(site, place)[::-1]
        page, pages = asked.page_of(len(plain), COPIES)
        plain = plain[page * COPIES : (page + 1) * COPIES]
    return asked.render(
        "copies.html.jinja",
        place=place,
        vault=vault,
        plan=plan,
        configured=plan in site.settings.plans,
        opens=opens,
        sets=sets,
        plain=plain,
        page=page,
        pages=pages,
        zone=site.settings.timezone,
    )
