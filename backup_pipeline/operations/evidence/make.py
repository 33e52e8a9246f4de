"""Evidence of a plan and a period: preview, signed file, chain. The files lie in `evidence/` beside the sets."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from datetime import datetime
from importlib.resources import files as package_files
from pathlib import Path

from backup_pipeline import __version__
from backup_pipeline.errors import RefusedError, StoreError
from backup_pipeline.model.evidence import NOTHING_KNOWN, Evidence, Gap, Previous
from backup_pipeline.operations.evidence.collect import collect
from backup_pipeline.operations.evidence.copies import copies_at
from backup_pipeline.operations.evidence.history import History
from backup_pipeline.operations.evidence.statement import ENDING, envelope, is_signed_with, signed_evidence
from backup_pipeline.operations.sites.identity import state_folder
from backup_pipeline.operations.sites.keys import machine_keys
from backup_pipeline.operations.sites.stores import open_store
from backup_pipeline.rules.evidence import EvidencePolicy, demands_of, gaps_of
from backup_pipeline.settings.site import Site
from backup_pipeline.system.files import make_folder_in, read_ordinary, write_atomically
from backup_pipeline.system.former_files import private_folder
from backup_pipeline.system.locks import hold_lock

FOLDER = "evidence"
CHECKER = "check_evidence.py"
_LOCK = ".evidence.lock"
_LAST = "evidence.json"
_NO_HISTORY = "who started each run, and which restores failed, is missing: there was no history to ask"


def preview(
    site: Site,
    plan: str,
    begin: datetime,
    end: datetime,
    history: History,
    *,
    now: datetime,
    from_files: bool = True,
) -> Evidence:
    """Return the evidence of a period, unsigned and not part of the chain.

    Args:
        site: the site.
        plan: the plan.
        begin: the first moment of the period.
        end: the first moment after it; the evidence ends now where that is earlier.
        history: Dagster's runs of the plan in it.
        now: the present moment.
        from_files: read the sets themselves, as what is signed must be; False takes what the index of their store
            holds, for pages.

    Raises:
        RefusedError: the period is empty, or has not begun.
        StoreError: the plan's store cannot be read.
    """
    until = min(end, now)
    if begin >= until:
        raise RefusedError(
            f"The period from {begin:%Y-%m-%d} to {end:%Y-%m-%d} is empty or has not begun.",
            where=plan,
            remedy="Name a day before today first, then a later one.",
        )
    known = collect(site, plan, begin, until, history, from_files=from_files)
    policy = _policy(site, plan)
    known_from = max(begin, min(known.known_from or until, until))
    # Before that nobody knows whether the plan was there at all: no backup of it counts as missed.
    gaps = gaps_of(known.events, policy, known_from, until, before=known.good_before) if known_from < until else []
    if known_from > begin:
        gaps.append(Gap(begin=begin, end=known_from, what=NOTHING_KNOWN))
    if not history.known:
        gaps.append(Gap(begin=begin, end=until, what=_NO_HISTORY))
    return Evidence(
        site=site.folder.name,
        plan=plan,
        begin=begin,
        end=until,
        made_at=now,
        made_by="",
        pipeline_version=__version__,
        policy=_policy_text(site, plan, policy),
        events=known.events,
        gaps=tuple(sorted(gaps, key=lambda gap: gap.begin)),
        demands=tuple(demands_of(known.events, gaps, policy, copies_at(site, plan, until, past=until < now))),
    )


def make(site: Site, evidence: Evidence, *, made_by: str) -> Path:
    """Sign some evidence, chain it to the plan's last, and return its new file.

    Raises:
        StoreError: the store cannot be written, or the last file of the chain cannot be read.
        RefusedError: the last file was not signed by this site.
        LockError: another process makes evidence of the plan right now.
    """
    store = open_store(site, evidence.plan)
    folder = make_folder_in(store.folder, FOLDER, store.folder_mode)
    with hold_lock(folder / _LOCK, purpose=f"evidence of {evidence.plan}"):
        last = _last(site, evidence.plan)
        number = last[0] + 1 if last else 1
        previous = last[1] if last else None
        chained = evidence.model_copy(update={"number": number, "previous": previous, "made_by": made_by})
        signer = machine_keys(site).signer(make=True)
        assert signer is not None
        name = f"{number:04}_{evidence.begin:%Y-%m-%d}_{evidence.end:%Y-%m-%d}{ENDING}"
        signed = envelope(chained, signer)
        write_atomically(folder / name, signed, mode=store.file_mode)
        _remember(site, evidence.plan, number, Previous(name=name, sha256=hashlib.sha256(signed).hexdigest()))
        write_atomically(folder / CHECKER, checker(), mode=store.file_mode)
    return folder / name


def _last(site: Site, plan: str) -> tuple[int, Previous] | None:
    """Return number and file of the plan's last evidence, also where that file is gone: its number is not used again.

    Raises:
        StoreError: the last file of the chain cannot be read.
        RefusedError: somebody else made it: what is chained to it would be in doubt for ever.
    """
    known = _remembered(site).get(plan)
    files = evidence_files(site, plan)
    if not files:
        return known
    data, evidence = signed_evidence(files[-1])
    last = evidence.number, Previous(name=files[-1].name, sha256=hashlib.sha256(data).hexdigest())
    if last != known and (evidence.plan != plan or not is_signed_with(_own_keys(site), data)):
        raise RefusedError(
            f"No key of this site has signed this evidence of {plan}, and nothing is chained to it.",
            where=str(files[-1]),
            remedy="Move it out of the folder, and find out who put it there. If an earlier machine of this site "
            "signed it: list that machine's key in the `signers` of a vault to go on with its chain, or move its files "
            "into a folder of their own to begin a new one.",
        )
    return known if known is not None and known[0] > evidence.number else last


def _own_keys(site: Site) -> list[str]:
    signers = (key for vault in site.settings.vaults.values() for key in vault.signers)
    return [key for key in (public_key(site, make_one=False), *signers) if key]


def _remembered(site: Site) -> dict[str, tuple[int, Previous]]:
    try:
        document = json.loads(read_ordinary(state_folder(site) / _LAST, at_most=1 << 20))
        return {plan: (int(number), Previous(**last)) for plan, (number, last) in document.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(site: Site, plan: str, number: int, last: Previous) -> None:
    known = {**_remembered(site), plan: (number, last)}
    document = {name: [count, one.model_dump()] for name, (count, one) in known.items()}
    private_folder(state_folder(site))
    write_atomically(state_folder(site) / _LAST, json.dumps(document, indent=1).encode() + b"\n")


def evidence_files(site: Site, plan: str) -> list[Path]:
    """Return the plan's signed files, oldest first."""
    found = (open_store(site, plan).folder / FOLDER).glob(f"[0-9]*_*{ENDING}")
    return sorted((path for path in found if path.name.partition("_")[0].isdecimal()), key=_number_of)


def _number_of(path: Path) -> tuple[int, str]:
    return int(path.name.partition("_")[0]), path.name


def evidence_file(site: Site, plan: str, name: str) -> Path:
    """Return the signed file of a name.

    Raises:
        RefusedError: there is none of that name.
    """
    found = next((path for path in evidence_files(site, plan) if path.name == name), None)
    if found is None:
        raise RefusedError(
            "There is no such evidence.", where=f"{plan}: {name}", remedy="The list shows what is there."
        )
    return found


def public_key(site: Site, *, make_one: bool = True) -> str:
    """Return the key that this site's evidence is signed with; where there is none, a new one, or "" unless asked."""
    signer = machine_keys(site).signer(make=make_one)
    return signer.public if signer is not None else ""


def keys_to_check_with(site: Site, plans: Iterable[str]) -> list[str]:
    """Return the site's public keys that these plans' chains are signed with, the present one first; none yet: [].

    An earlier machine's key counts where a vault of the site lists it (`signers`), and where it has signed a file.
    """
    present = public_key(site, make_one=False)
    others = [key for key in _own_keys(site) if key != present]
    signed: list[bytes] = []
    for path in [path for plan in plans for path in evidence_files(site, plan)] if others else []:
        with contextlib.suppress(StoreError):
            signed.append(signed_evidence(path)[0])
    earlier = [key for key in dict.fromkeys(others) if any(is_signed_with([key], data) for data in signed)]
    return [key for key in (present, *earlier) if key]


def checker() -> bytes:
    """Return the program that checks evidence and needs nothing but Python."""
    return package_files("backup_pipeline.operations.evidence").joinpath(CHECKER).read_bytes()


def _policy(site: Site, plan: str) -> EvidencePolicy:
    settings = site.plan(plan)
    kept = settings.retention.model_dump(mode="json", exclude_defaults=True)
    return EvidencePolicy(
        schedule=settings.schedule,
        drill=settings.drill,
        timezone=site.settings.timezone,
        overdue_after=settings.overdue_after,
        retention=", ".join(f"{name} {value}" for name, value in kept.items()) or "every set",
        sources=len(settings.sources),
    )


def _policy_text(site: Site, plan: str, policy: EvidencePolicy) -> dict[str, str]:
    settings = site.plan(plan)
    return {
        "sources": ", ".join(settings.sources),
        "schedule": policy.schedule or "none",
        "verify": settings.verify or "none",
        "drill": policy.drill or "none",
        "timezone": policy.timezone,
        "retention": policy.retention,
        "copies": ", ".join(entry.to for entry in settings.copies) or "none",
    }
