"""Freshness policies: how old a plan's newest set may be before the UI calls it overdue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg

from backup_pipeline.rules.overdue import grace_of, longest_pause
from backup_pipeline.settings.types import Plan

# A fixed moment: definitions must come out the same whenever they are built.
_REFERENCE = datetime(2024, 1, 1, tzinfo=UTC)


def freshness_of(plan: Plan, timezone: str) -> dg.FreshnessPolicy | None:
    """Return the policy of a plan's manifest: `overdue_after`, else its schedule's pause and some grace."""
    if plan.overdue_after is not None:
        return dg.FreshnessPolicy.time_window(fail_window=max(plan.overdue_after, timedelta(minutes=1)))
    if plan.schedule is None:
        return None
    window = longest_pause(plan.schedule, timezone) + grace_of(plan.schedule, timezone, _REFERENCE)
    return dg.FreshnessPolicy.time_window(fail_window=window)
