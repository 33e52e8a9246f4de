"""Time limits of operations, from the settings. `system.limits` enforces them."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from backup_pipeline.model.progress import Progress, ProgressSink, no_progress
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import SourceSettings
from backup_pipeline.system.limits import Limit, limited, progressed

_P = ParamSpec("_P")
_T = TypeVar("_T")
_DEFAULT_TOTAL = SourceSettings.model_fields["timeout"].default.total_seconds()
_DEFAULT_STALL = SourceSettings.model_fields["stall_timeout"].default.total_seconds()


def capture_limit(site: Site, plan_name: str, source: str, elapsed: float) -> Limit:
    """Return the limit of a source's capture, which is no longer than what is left of the plan's own.

    Args:
        site: the site.
        plan_name: the plan.
        source: the source.
        elapsed: seconds since the plan's backup began.
    """
    settings = site.source(source)
    left = max(1.0, site.plan(plan_name).timeout.total_seconds() - elapsed)
    own = settings.timeout.total_seconds()
    stall, stall_setting = settings.stall_timeout.total_seconds(), f"sources.{source}.stall_timeout"
    if left < own:
        return Limit(left, f"plans.{plan_name}.timeout", stall, stall_setting)
    return Limit(own, f"sources.{source}.timeout", stall, stall_setting)


def archive_limit(site: Site, source: str) -> Limit:
    """Return the limit of work on an order archive: in all only, for other processes read and write the folders."""
    return Limit(site.source(source).timeout.total_seconds(), f"sources.{source}.timeout", math.inf, "")


def default_limit() -> Limit:
    """Return the limit of work on an order archive that no settings name."""
    return Limit(_DEFAULT_TOTAL, "timeout, by default", math.inf, "")


def counting_progress(progress: ProgressSink) -> ProgressSink:
    """Return a sink that counts every event as progress, ends work whose limit is reached, and passes it on."""

    def tell(event: Progress) -> None:
        progressed()
        progress(event)

    return tell


def operation_limit(site: Site, plan_name: str, source: str = "") -> Limit:
    """Return the limit of work on a plan's sets; without progress, that of the source, or the longest of the plan's."""
    # Copies in a vault (`VAULT:PLAN`) may be of a plan that the settings have no more.
    in_vault, _, bare = plan_name.rpartition(":")
    if in_vault and bare not in site.settings.plans:
        return Limit(_DEFAULT_TOTAL, "timeout, by default", _DEFAULT_STALL, "stall_timeout, by default")
    plan = site.plan(bare)
    names = [source] if source in site.settings.sources else [n for n in plan.sources if n in site.settings.sources]
    stalls = [(site.source(name).stall_timeout.total_seconds(), name) for name in names]
    stall, name = max(stalls, default=(_DEFAULT_STALL, "NAME"))
    return Limit(plan.timeout.total_seconds(), f"plans.{bare}.timeout", stall, f"sources.{name}.stall_timeout")


def within_the_plans_limit(what: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Limit the time of an operation, a function with the parameters `site`, `plan_name` and perhaps `source`.

    Args:
        what: the operation, as the beginning of an error's sentence ("The drill").
    """

    def decorate(operation: Callable[_P, _T]) -> Callable[_P, _T]:
        signature = inspect.signature(operation)

        @functools.wraps(operation)
        def run(*arguments: _P.args, **named: _P.kwargs) -> _T:
            given = signature.bind(*arguments, **named).arguments
            limit = operation_limit(given["site"], given["plan_name"], given.get("source", ""))
            if "progress" in signature.parameters:
                named["progress"] = counting_progress(given.get("progress", no_progress))
            with limited(what, limit, where=given["plan_name"]):
                return operation(*arguments, **named)

        return run

    return decorate
