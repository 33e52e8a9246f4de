"""State machine of incidents: opening, closing, notices. Observations and time are passed in.

Reading sets, keeping the state and sending messages are not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from backup_pipeline.model.incident import Incident, IncidentKind, IncidentState, Notice, Observation
from backup_pipeline.rules.acknowledgements import worse_than_acknowledged

CLOSED_KEPT = 200
CLAIM_LASTS = timedelta(minutes=3)
GIVE_UP_AFTER = timedelta(days=2)
_SHOWN = 15
_REASON_LENGTH = 600


def incident_key(kind: IncidentKind, plan: str, *subject: str) -> str:
    """Return the key of an incident; the same problem from the shell, a sensor or the store has the same one."""
    return ":".join((str(kind), plan, *subject))


def is_of_restore(incident: Incident) -> bool:
    """Return whether a restore, or the undo of one, failed: it was asked for, and says nothing of the backups."""
    work = incident.key.removeprefix(f"{incident.kind}:{incident.plan}:")
    return incident.kind is IncidentKind.RUN_FAILED and work.partition(" ")[0].endswith(("restore", "undo"))


def observe(state: IncidentState, observations: Iterable[Observation]) -> IncidentState:
    """Return the state after these observations, with a notice for each incident that opened or is over.

    A problem that is open already is not reported again, unless it was acknowledged and has become worse since; its
    reason becomes the present one. A sign that is older than
    the last 'all is well' of its key is stale (a slow sensor reporting a run that has been repeated since) and changes
    nothing.
    """
    opened = {incident.key: incident for incident in state.open}
    closed = list(state.closed)
    notices = list(state.notices)
    well = dict(state.well_since)
    for observed in observations:
        if observed.incident is None:
            if observed.key in well and well[observed.key] >= observed.at:
                continue
            if observed.key in opened and opened[observed.key].opened_at > observed.at:
                continue
            over = opened.pop(observed.key, None)
            # Checks are many and nearly all pass: those that never failed are not worth remembering.
            if over or not observed.key.startswith(f"{IncidentKind.CHECK_FAILED}:"):
                well[observed.key] = observed.at
            if over:
                over = over.model_copy(update={"closed_at": observed.at})
                closed.append(over)
                notices.append(Notice(incident=over, over=True))
        elif observed.key in well and well[observed.key] >= observed.at:
            continue
        elif observed.key not in opened:
            opened[observed.key] = observed.incident
            notices.append(Notice(incident=observed.incident))
        elif observed.at >= opened[observed.key].opened_at:
            # The same problem, and perhaps another reason by now: that is listed, and sent if nobody was alerted yet.
            before = opened[observed.key]
            kept = {"opened_at": before.opened_at, "acknowledged": before.acknowledged}
            present = observed.incident.model_copy(update=kept)
            if worse := worse_than_acknowledged(present, observed.at):
                present = present.model_copy(update={"acknowledged": None})
                notices.append(Notice(incident=present, note=worse, made_at=observed.at))
            opened[observed.key] = present
            notices = [
                notice.model_copy(update={"incident": present})
                if notice.incident.key == observed.key and not notice.over and notice.incident.closed_at is None
                else notice
                for notice in notices
            ]
    return state.model_copy(
        update={
            "open": tuple(sorted(opened.values(), key=lambda incident: (incident.opened_at, incident.key))),
            "closed": tuple(closed[-CLOSED_KEPT:]),
            "notices": tuple(notices),
            "well_since": well,
        }
    )


def claim(state: IncidentState, now: datetime) -> tuple[IncidentState, tuple[Notice, ...]]:
    """Return the state with the notices that this process delivers now marked as taken, and those notices.

    One that another process took up less than three minutes ago is left to it. One that could not be delivered for two
    days is dropped: the incident itself stays open and listed.
    """
    kept, taken = [], []
    for notice in state.notices:
        if notice.attempted_at is not None and now - notice.attempted_at < CLAIM_LASTS:
            kept.append(notice)
            continue
        born = notice.made_at or notice.incident.closed_at or notice.incident.opened_at
        if notice.attempts and now - born > GIVE_UP_AFTER:
            continue
        mine = notice.model_copy(update={"attempted_at": now, "attempts": notice.attempts + 1})
        kept.append(mine)
        taken.append(mine)
    return state.model_copy(update={"notices": tuple(kept)}), tuple(taken)


def unreported(state: IncidentState) -> IncidentState:
    """Return the state where nobody can be reported to: what is open waits for an address, what is over is dropped."""
    lasting = {incident.key: incident for incident in state.open}
    waiting = tuple(
        notice
        for notice in state.notices
        if not notice.over
        and (now_open := lasting.get(notice.incident.key)) is not None
        and now_open.opened_at == notice.incident.opened_at
    )
    return state.model_copy(update={"notices": waiting})


def settle(state: IncidentState, taken: Sequence[Notice], *, delivered: bool) -> IncidentState:
    """Return the state after trying to deliver `taken`: forgotten when delivered, free for the next try otherwise.

    Where nothing could be delivered the claim's time stays: the next try comes when it has run out.
    """
    if not delivered:
        return state
    return state.model_copy(update={"notices": tuple(notice for notice in state.notices if notice not in taken)})


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent: a subject line, a text, and whether something is wrong in it."""

    title: str
    body: str
    bad: bool


def compose(notices: Sequence[Notice], *, site: str) -> Message:
    """Return one message for several notices; a hundred failed checks of one run are one mail, not a hundred.

    Args:
        notices: at least one.
        site: name of the site for the subject line.
    """
    news = [notice for notice in notices if not notice.over]
    bad = [notice.incident for notice in news]
    good = [notice.incident for notice in notices if notice.over]
    lines: list[str] = []
    for notice in news[:_SHOWN]:
        lines += [*_paragraph(notice), ""]
    if len(bad) > _SHOWN:
        lines += [f"… and {len(bad) - _SHOWN} more: backup-pipeline incidents", ""]
    if good:
        lines.append("Over:")
        lines += [
            f"  {_subject(incident)}{_one_line(incident.what)} (since {_time(incident.opened_at)})"
            for incident in good[:_SHOWN]
        ]
        if len(good) > _SHOWN:
            lines.append(f"  … and {len(good) - _SHOWN} more")
    first = (bad or good)[0]
    more = f" (+{len(bad or good) - 1})" if len(bad or good) > 1 else ""
    state = "" if bad else "over: "
    title = f"[{site}] {state}{_subject(first)}{first.what}{more}"
    return Message(_one_line(title), "\n".join(lines).strip(), bool(bad))


def _one_line(text: str) -> str:
    """Return text without line ends: names with line breaks must not write lines of their own into a message."""
    return " ".join(text.split())


def _subject(incident: Incident) -> str:
    return f"{incident.plan}: " if incident.plan else ""


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M %Z}".strip()


def _paragraph(notice: Notice) -> list[str]:
    incident = notice.incident
    fields = {
        "again": notice.note,
        "plan": incident.plan,
        "set": incident.set_id,
        "artefact": incident.artefact,
        "reason": incident.reason[:_REASON_LENGTH],
        "remedy": incident.remedy,
        "since": _time(incident.opened_at),
        "link": incident.link,
    }
    return [_one_line(incident.what), *(f"  {name:<9}{_one_line(value)}" for name, value in fields.items() if value)]
