"""Pages of a restore up to its plan: which set, which source, what of it, and where to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.responses import Response

from backup_pipeline.model.backup_set import BackupSet, SetState
from backup_pipeline.model.manifest import Purpose
from backup_pipeline.model.set_id import SetId
from backup_pipeline.operations.data.recorded_columns import with_columns
from backup_pipeline.operations.data.set_contents import SourceContents, set_contents
from backup_pipeline.operations.sites.known_databases import with_databases_of
from backup_pipeline.operations.sites.stores import open_sets, open_store, resolve_set, split_place
from backup_pipeline.operations.status.set_summaries import SetSummary, set_summaries
from backup_pipeline.orchestration.restore_runs import Wanted, latest_runs, submit_plan, under_way
from backup_pipeline.settings.site import Site
from backup_pipeline.stores.contract import PlanStore
from backup_pipeline.web.front.copies import require_identity
from backup_pipeline.web.front.pages import PageError, PageRequest
from backup_pipeline.web.front.restore_form import CONDITIONS, OPERATORS, FormError, choices, options_of

if TYPE_CHECKING:
    from backup_pipeline.orchestration.submit import UiWorkspace

_SETS = 30
_COLUMNS = 2000


@dataclass(frozen=True)
class Opened:
    """The set that a page is about, with what it holds. `place` is its plan, or `VAULT:PLAN` for a copy."""

    place: str
    known: BackupSet
    contents: tuple[SourceContents, ...]

    @property
    def vault(self) -> str:
        """The vault that holds the copy; "" for a set of the plan's own store."""
        return split_place(self.place)[0]

    @property
    def plan(self) -> str:
        """The plan that made it."""
        return split_place(self.place)[1]

    @property
    def set_id(self) -> SetId:
        """The set."""
        return self.known.set_id

    def source(self, name: str) -> SourceContents:
        """Return one source; PageError where the set has none of that name."""
        for each in self.contents:
            if each.source == name:
                return each
        have = ", ".join(each.source for each in self.contents)
        raise PageError(HTTPStatus.NOT_FOUND, "The set has nothing of such a source.", f"It has: {have}.")


def workspace_of(asked: PageRequest) -> UiWorkspace:
    """Return Dagster's workspace; PageError where there is none."""
    if asked.front.workspace is None:
        raise PageError(HTTPStatus.SERVICE_UNAVAILABLE, "Dagster is not running here.", "Start backup-pipeline up.")
    return asked.front.workspace


def opened(asked: PageRequest) -> Opened:
    """Return the set that the path names.

    Raises:
        PageError: no such plan or vault, no identity that opens the copy, or a set that is not sealed.
        SetNotFoundError: no such set.
    """
    site = asked.front.site()
    require_identity(asked, split_place(asked.place)[0] or site.vault_of(asked.plan))
    place, set_id = resolve_set(site, f"{asked.place}/{asked.params['set']}")
    known = open_sets(site, place).read(set_id)
    if known.state is not SetState.COMPLETE:
        problem = f": {known.problem}" if known.problem else ""
        raise PageError(
            HTTPStatus.CONFLICT, f"The set {set_id} is {known.state}{problem}.", "Choose another set of the plan."
        )
    return Opened(place, known, set_contents(known))


def restore_home(asked: PageRequest) -> Response:
    """Return the page that begins: the newest backup of each plan, and what was restored lately."""
    site = asked.front.site()
    plans = []
    for name in site.single_plans:
        store = open_store(site, name)
        sets = _sealed(store)
        # What was made just before a restore has the damage in it.
        newest = next((each.facts for each in sets if each.whole), None)
        if newest is not None:
            known = store.read(newest.set_id)
            one = {"name": name, "set_id": newest.set_id, "proven": newest.proven, "restored": known.restored}
            one |= {"contents": set_contents(known)}
            plans.append(one | {"sets": _listed(sets), "more": len(sets) > _SETS})
    workspace = asked.front.workspace
    named = (*site.single_plans, *site.settings.fleets)
    runs = [run for name in named for run in latest_runs(workspace.instance, name)] if workspace else []
    runs.sort(key=lambda run: run.began or asked.front.now(), reverse=True)
    copies = [(name, one.to) for name, plan in site.settings.plans.items() for one in plan.copies]
    return asked.render(
        "restore_home.html.jinja", plans=plans, copies=copies, runs=runs[:10], zone=site.settings.timezone
    )


def _sealed(store: PlanStore) -> list[SetSummary]:
    """Return the sets of a store that can be restored, newest first."""
    return [each for each in set_summaries(store, running=False) if each.facts.state is SetState.COMPLETE]


def _listed(sets: Sequence[SetSummary]) -> list[tuple[SetId, str]]:
    """Return the newest sets, each with what sets it apart from a usual backup ("" for nothing)."""
    found = []
    for one in sets[:_SETS]:
        apart = "" if one.facts.purpose is Purpose.BACKUP else "made just before a restore"
        found.append((one.facts.set_id, apart or ("a part of the plan" if one.facts.partial else "")))
    return found


def _others(site: Site, found: Opened) -> list[tuple[SetId, str]]:
    if found.vault:
        # What sets a copy apart stands in the copy itself: none is read for a list of names.
        return [(set_id, "") for set_id in reversed(open_sets(site, found.place).ids()[-_SETS:])]
    return _listed(_sealed(open_store(site, found.place)))


def fleet_of(site: Site, plan: str) -> str:
    """Return the fleet that a plan is a member of, "" for any other plan."""
    found = site.member_of(plan)
    return found[0] if found else ""


def restore_set(asked: PageRequest) -> Response:
    """Return the page of one set: its sources, each with the ways back."""
    found = opened(asked)
    site = _site(asked, found)
    others = _others(site, found)
    configured = set(site.settings.sources) if found.plan in site.settings.plans else set()
    return asked.render(
        "restore_set.html.jinja", found=found, others=others, configured=configured, zone=site.settings.timezone
    )


def _site(asked: PageRequest, found: Opened) -> Site:
    """Return the site, on a new machine with the databases of servers that the set holds."""
    site = asked.front.site()
    return with_databases_of(site, found.known.manifest) if found.known.manifest else site


def restore_source(asked: PageRequest) -> Response:
    """Return the form of one source; a form that was sent begins the plan and leads to it."""
    found = opened(asked)
    contents = found.source(asked.params["source"])
    if contents.rows_come_back:
        contents = with_columns(asked.front.site(), found.place, found.set_id, contents)
    if asked.form:
        try:
            options = options_of(asked.form, contents)
        except FormError as error:
            return _form(asked, found, contents, error)
        workspace = workspace_of(asked)
        fleet = fleet_of(asked.front.site(), found.plan)
        wanted = Wanted(found.plan, found.set_id, contents.source, options, found.vault, fleet)
        run_id = submit_plan(workspace, wanted, asked_by=asked.who)
        return asked.redirect("restore", "run", run_id)
    return _form(asked, found, contents, None)


def _form(asked: PageRequest, found: Opened, contents: SourceContents, error: FormError | None) -> Response:
    site, workspace = _site(asked, found), asked.front.workspace
    of_server = [each.source for each in found.contents if site.server_of(each.source) == contents.source]
    ways = choices(contents)
    form = dict(asked.form) or {name: asked.query.getlist(name) for name in asked.query}
    selected = (form.get("what") or [""])[0]
    if selected not in {way.value for way in ways}:
        selected = ways[0].value if ways else ""
    return asked.render(
        "restore_source.html.jinja",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if error else HTTPStatus.OK,
        found=found,
        contents=contents,
        ways=ways,
        form=form,
        selected=selected,
        error=error,
        columns=sorted({column.name for table in contents.tables for column in table.columns})[:_COLUMNS],
        operators=OPERATORS,
        conditions=range(CONDITIONS),
        new_name=f"{contents.source}_restored_{found.set_id[:10].replace('-', '')}",
        busy=under_way(workspace.instance, found.plan, contents.source, fleet_of(site, found.plan))
        if workspace
        else None,
        configured=contents.source in site.settings.sources and found.plan in site.settings.plans,
        databases=of_server if site.is_server(contents.source) else None,
        zone=site.settings.timezone,
    )
