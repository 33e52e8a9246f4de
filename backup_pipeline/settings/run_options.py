"""What one run may have otherwise than the settings: where to, what with it, how long kept. Holds no secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import SettingsError
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import Duration, Settings


class RunOptions(Settings):
    """What one run has otherwise; None leaves what the settings say."""

    store: Path | None = None
    """The plan's store for this run: sets and `backup_log.txt` stand right below it."""
    include_env: bool | None = None
    """Whether repositories are captured with their `.env`."""
    include_volumes: bool | None = None
    """Whether repositories are captured with their volumes."""
    keep_within: Duration | None = None
    """How long sets are kept (14d), instead of the plan's own `keep_within`."""

    def run_config(self) -> dict[str, Any]:
        """Return what was given in plain values, as a run's configuration holds it."""
        values = self.model_dump(mode="python", exclude_none=True)
        if self.store is not None:
            values["store"] = str(self.store)
        if self.keep_within is not None:
            values["keep_within"] = f"{int(self.keep_within.total_seconds()) // 3600}h"
        return values


def run_options(values: Mapping[str, Any]) -> RunOptions:
    """Return options from plain values; SettingsError names the one that is wrong."""
    try:
        return RunOptions.model_validate({name: value for name, value in values.items() if value is not None})
    except PydanticError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        raise SettingsError(
            f"{first['msg'].removeprefix('Value error, ')}.",
            where=f"--{name.replace('_', '-')}",
            remedy="backup-pipeline backup --help shows what may stand there.",
        ) from None


def site_with(site: Site, plan: str, options: RunOptions) -> Site:
    """Return the site as this run of a plan sees it.

    Raises:
        SettingsError: the plan has no repository that the options could mean, or none that names a volume.
    """
    settings, own = site.settings, site.plan(plan)
    changes: dict[str, Any] = {}
    if options.store is not None:
        changes["store"] = site.folder / options.store.expanduser()
        # A set somewhere else is none in the plan's store, and its dead-man's-switch is not to believe so.
        changes["ping_env"] = None
    if options.keep_within is not None:
        changes["retention"] = own.retention.model_copy(update={"keep_within": options.keep_within})
    asked = {
        name: value
        for name, value in (("include_env", options.include_env), ("include_volumes", options.include_volumes))
        if value is not None
    }
    sources = dict(settings.sources)
    repositories = {name: each for name in own.sources if asked and {*asked} <= {*(each := sources[name]).run_fields}}
    if asked and not repositories:
        raise _nothing_meant(site, plan, next(iter(asked)), "has no repository")
    if options.include_volumes and not any(each.names_volumes for each in repositories.values()):
        raise _nothing_meant(site, plan, "include_volumes", "has no repository that names volumes")
    sources.update({name: each.model_copy(update=asked) for name, each in repositories.items()})
    plans = {**settings.plans, plan: own.model_copy(update=changes)}
    return replace(site, settings=settings.model_copy(update={"plans": plans, "sources": sources}))


def _nothing_meant(site: Site, plan: str, option: str, why: str) -> SettingsError:
    return SettingsError(
        f"Plan {plan} {why}.",
        where=f"--{option.replace('_', '-')}",
        remedy=f"Name `volumes` in {site.file.name}, or leave the option away.",
    )
