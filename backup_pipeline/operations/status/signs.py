"""Problems of a plan that no set shows. Reads only, and little.

A set records what was well when it was sealed. Here its store is held against what is known from elsewhere: the
settings (which sources, which checks are due), the log beside the sets, the clock, and the order archives on their
disks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from backup_pipeline.artefacts.types import artefact_types
from backup_pipeline.model.manifest import Manifest
from backup_pipeline.model.record import ArtefactRecord
from backup_pipeline.model.set_id import SetId, is_set_id, set_time
from backup_pipeline.operations.sites.run_log import RUN_LOG_NAME
from backup_pipeline.rules.clock_ahead import is_ahead
from backup_pipeline.rules.retention import SetClass, SetFacts
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.registry import kind_of

PROOF_WARNING = timedelta(days=35)
"""Verifications and drills that a plan asks for are missed when the last one is older than this."""
_SEALED = re.compile(r" - backup - \w+ - (?P<plan>\w+)/(?P<set>\S+) complete,")
_REMOVED = re.compile(r" - cleanup - \w+ - (?P<plan>\w+)/(?P<set>\S+) removed,")


@dataclass(frozen=True, slots=True)
class Sign:
    """One thing that is not as the owner believes.

    Attributes:
        subject: what it is about, the same each time: `gone`, `clock`, `verification`, `archive:<source>`, …
        severity: "error" or "warning".
        what: one sentence.
        remedy: what to do.
        lasting: whether it stays until somebody acts; others end with the next backup and need no message.
    """

    subject: str
    severity: str
    what: str
    remedy: str
    lasting: bool = True


def is_future(set_id: SetId, now: datetime) -> bool:
    """Return whether a set's time has not come yet: it was made while a clock was wrong, or this clock is."""
    return is_ahead(set_time(set_id), now)


def signs_of(
    site: Site,
    plan: str,
    facts: Sequence[SetFacts],
    newest: Manifest | None,
    now: datetime,
    *,
    verified_at: datetime | None,
    drilled_at: datetime | None,
) -> Iterator[Sign]:
    """Yield what is not as it should be with a plan.

    Args:
        site: the site.
        plan: the plan.
        facts: all its sets.
        newest: the newest good set of all of its sources; None when there is none.
        now: the present moment.
        verified_at: when a set of it was last verified, well or not; None if never.
        drilled_at: when a set of it was last proven; None if never.
    """
    yield from _clock(facts, now)
    yield from _gone(site, plan, facts, now)
    yield from _not_checked(site, plan, facts, now, verified_at, drilled_at)
    for name in site.plan(plan).sources:
        kind, source = kind_of(site, name)
        for one in kind.standing_problems(source, plan, newest):
            yield Sign(f"{one.subject}:{name}", one.severity, one.what, one.remedy, lasting=newest is not None)
    if newest is not None:
        yield from _not_held(site, plan, newest)


def _clock(facts: Sequence[SetFacts], now: datetime) -> Iterator[Sign]:
    future = [one.set_id for one in facts if is_future(one.set_id, now)]
    if future:
        more = f" and {len(future) - 1} more" if len(future) > 1 else ""
        yield Sign(
            "clock",
            "warning",
            f"The time of set {max(future)}{more} has not come: it does not count as the newest.",
            "Is this machine's clock right? If it is, the set was made while it was not: remove it by hand.",
        )


def _gone(site: Site, plan: str, facts: Sequence[SetFacts], now: datetime) -> Iterator[Sign]:
    """The newest set that the log says was sealed, and that neither is there nor was removed by a clean-up."""
    try:
        text = (site.store_folder(plan) / RUN_LOG_NAME).read_text("utf-8", "replace")
    except OSError:
        return
    sealed, removed = (
        {SetId(line["set"]) for line in kind.finditer(text) if line["plan"] == plan and is_set_id(line["set"])}
        for kind in (_SEALED, _REMOVED)
    )
    past = [set_id for set_id in sealed if not is_future(set_id, now)]
    newest = max(past, default=None)
    if newest is None or newest in removed or newest in {one.set_id for one in facts}:
        return
    yield Sign(
        "gone",
        "warning",
        f"Set {newest} was sealed, is not in the store any more, and no clean-up removed it.",
        f"Was it removed by hand, or is another disk mounted here? `backup-pipeline backup {plan}` makes a new one.",
    )


def _not_checked(
    site: Site,
    plan: str,
    facts: Sequence[SetFacts],
    now: datetime,
    verified_at: datetime | None,
    drilled_at: datetime | None,
) -> Iterator[Sign]:
    settings = site.plan(plan)
    sealed = [one.at for one in facts if one.set_class is SetClass.BACKUP]
    if not sealed:
        return
    for subject, schedule, last, noun, remedy in (
        ("verification", settings.verify, verified_at, "verification", f"`backup-pipeline verify {plan}/latest`"),
        ("drill", settings.drill, drilled_at, "proof", f"`backup-pipeline drill {plan}/latest`"),
    ):
        since = last or min(sealed)
        if schedule and now - since > PROOF_WARNING:
            days = (now - since).days
            what = f"The last {noun} is {days} days old" if last else f"No {noun} in {days} days"
            yield Sign(
                subject,
                "warning",
                f"{what}.",
                f"The plan asks for it at {schedule}: is the daemon running, or the schedule installed? {remedy} "
                "does it now.",
            )


def _not_held(site: Site, plan: str, newest: Manifest) -> Iterator[Sign]:
    """Sources that the plan has and the newest good set has not, and databases of which it holds no row."""
    remedy = f"`backup-pipeline backup {plan}` captures it."
    for name in site.plan(plan).sources:
        if name not in newest.sources:
            what = f"The last good set does not hold {name}, which is in the plan."
            yield Sign(f"source:{name}", "warning", what, remedy, lasting=False)
    for name in newest.sources:
        databases = [one for one in newest.artefacts if one.source == name and _is_database(one)]
        if databases and not _rows(newest, name):
            yield Sign(
                f"rows:{name}",
                "warning",
                f"The last good set holds no row of {name}.",
                f"Is it the right database? The set was made from {databases[0].source_label}.",
                lasting=False,
            )


def _is_database(record: ArtefactRecord) -> bool:
    known = artefact_types().get(record.kind)
    return known is not None and known.is_database


def _rows(newest: Manifest, source: str) -> int:
    """Return the rows of a source: of its tables' exports, or of those that its dump's record lists."""
    total = 0
    for record in newest.artefacts:
        if record.source == source:
            listed = record.details.get("tables")
            counts: Sequence[object] = (
                list(listed.values())
                if isinstance(listed, dict)
                else [each.get("rows") for each in listed or () if isinstance(each, dict)]
                if isinstance(listed, list)
                else []
            )
            total += (record.rows or 0) + record.rows_in_dump + sum(count for count in counts if isinstance(count, int))
    return total
