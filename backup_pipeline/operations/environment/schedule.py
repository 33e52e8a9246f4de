"""A site's schedules in the machine's own timekeeper: lines of a crontab, or systemd timers.

For machines on which Dagster's daemon does not run. Installing twice changes nothing; what was there before is kept.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from backup_pipeline.errors import RefusedError, SettingsError, ToolError
from backup_pipeline.rules.timetable import CHECK_CRON, Job, block_in, crontab_block, on_calendar, with_block
from backup_pipeline.settings.site import Site
from backup_pipeline.system.files import make_folders, write_atomically
from backup_pipeline.system.former_files import keep_former, keep_former_text
from backup_pipeline.system.processes import find_program, run

_SECONDS = 60
_UNIT = "backup-pipeline"


@dataclass
class Scheduled:
    """What stands in the timekeeper, or would.

    Attributes:
        keeper: `cron` or `systemd`.
        installed: the site's lines, or its units by file name with their text.
        current: whether it is what the settings say now.
        changed: whether this command changed it.
        former: copies of what was replaced.
        warnings: what a person should know.
    """

    keeper: str
    installed: str
    current: bool
    changed: bool = False
    former: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def jobs_of(site: Site) -> list[Job]:
    """Return what runs by itself: backups, verifications, drills, checks of copies, and the check for what is overdue.

    Raises:
        RefusedError: no plan has a schedule.
    """
    jobs: list[Job] = []
    plans = {name: site.plan(name) for name in site.single_plans}
    for name, fleet in site.settings.fleets.items():
        if fleet.schedule:
            jobs.append(Job(f"backup-{name}", fleet.schedule, ("backup", name), "backup.log"))
    for name, plan in plans.items():
        if plan.schedule:
            jobs.append(Job(f"backup-{name}", plan.schedule, ("backup", name), "backup.log"))
    if not jobs:
        raise RefusedError(
            "No plan has a schedule.", where=str(site.file), remedy='Give one to a plan, as in schedule: "0 2 * * *".'
        )
    # `verify --all` is of all plans: once for each time that is named.
    for number, cron in enumerate(dict.fromkeys(plan.verify for plan in plans.values() if plan.verify), 1):
        jobs.append(Job(f"verify-{number}", cron, ("verify", "--all"), "verify.log"))
    jobs += [
        Job(f"drill-{name}", plan.drill, ("drill", f"{name}/latest"), "drill.log")
        for name, plan in plans.items()
        if plan.drill
    ]
    copies = [(name, entry) for name, plan in plans.items() for entry in plan.copies]
    # `vault check` is of all plans' copies in a vault: once for each time that is named.
    checks = dict.fromkeys((entry.to, entry.check) for _, entry in copies if entry.check)
    for number, (vault, cron) in enumerate(checks, 1):
        jobs.append(Job(f"vault-check-{number}", str(cron), ("vault", "check", vault), "vault.log"))
    jobs += [
        Job(f"drill-{name}-from-{entry.to}", entry.drill, ("drill", f"{entry.to}:{name}/latest"), "drill.log")
        for name, entry in copies
        if entry.drill
    ]
    return [*jobs, Job("alerts", CHECK_CRON, ("alerts", "check"), "alerts.log", fresh=True)]


def program() -> str:
    """Return the path of backup-pipeline as this process was started, or as it is installed beside this Python."""
    beside = Path(sys.executable).with_name("backup-pipeline")
    started = Path(sys.argv[0])
    if started.name == "backup-pipeline" and started.is_file():
        return str(started.absolute())
    if beside.is_file():
        return str(beside)
    return str(find_program("backup-pipeline", remedy="Install the package, then run this with its own command."))


def _block(site: Site) -> str:
    for text in (str(site.file), str(site.folder)):
        if "\n" in text:
            raise SettingsError("A line end in a path cannot stand in a crontab.", where=text, remedy="Rename it.")
    return crontab_block(jobs_of(site), program=program(), config=str(site.file), folder=str(site.folder))


def _crontab(*arguments: str, stdin: bytes | None = None) -> str:
    tool = find_program("crontab", remedy="Install cron (Debian: apt-get install cron), or use --systemd.")
    done = run([tool, *arguments], stdin=stdin, check=False, timeout=_SECONDS)
    if done.exit_code and "no crontab for" not in done.stderr:
        raise ToolError(
            f"crontab refused: {done.stderr.strip() or done.exit_code}.",
            where=str(tool),
            remedy="Is this user allowed to use cron (/etc/cron.allow)?",
        )
    # crontab itself puts no header there when it is written by `crontab -`.
    return done.stdout.decode("utf-8", "surrogateescape")


def _zone_warnings(site: Site) -> list[str]:
    now = datetime.now().astimezone()
    there = now.astimezone(ZoneInfo(site.settings.timezone))
    if now.utcoffset() == there.utcoffset():
        return []
    return [
        f"cron counts in this machine's time zone ({now.tzname()}), the settings in {site.settings.timezone}: "
        "the times differ. Use --systemd, which knows time zones, or write the schedule in the machine's time."
    ]


def show_cron(site: Site) -> Scheduled:
    """Return the site's lines of this user's crontab. ToolError: crontab cannot be asked."""
    there = block_in(_crontab("-l"), str(site.file))
    return Scheduled(
        "cron", there, bool(there) and there == _block(site), warnings=_zone_warnings(site) if there else []
    )


def set_cron(site: Site, now: datetime, *, remove: bool = False, dry_run: bool = False) -> Scheduled:
    """Install or remove the site's lines in this user's crontab; every other line stays.

    Raises:
        ToolError: crontab refused; nothing was changed.
        RefusedError: no plan has a schedule.
    """
    wanted = "" if remove else _block(site)
    old = _crontab("-l")
    new = with_block(old, str(site.file), wanted)
    done = Scheduled("cron", wanted, not remove, changed=new != old, warnings=[] if remove else _zone_warnings(site))
    if new == old or dry_run:
        return done
    if old:
        done.former.append(keep_former_text(site.folder, "crontab", old.encode("utf-8", "surrogateescape"), now))
    _crontab("-", stdin=new.encode("utf-8", "surrogateescape"))
    if block_in(_crontab("-l"), str(site.file)) != wanted:
        raise ToolError("crontab took the lines and does not show them.", where="crontab", remedy="Read crontab -l.")
    return done


def units_folder() -> Path:
    """Return where this user's units are: the system's for root."""
    if os.geteuid() == 0:
        return Path("/etc/systemd/system")
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


def _slug(site: Site) -> str:
    import hashlib

    plain = re.sub(r"[^A-Za-z0-9]+", "-", site.folder.name).strip("-") or "site"
    return f"{_UNIT}-{plain}-{hashlib.sha256(str(site.file).encode()).hexdigest()[:6]}"


def _quoted(word: str) -> str:
    """Return a word for ExecStart: systemd knows C's escapes, `%` for its own names and `$` for variables."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"'


def units_of(site: Site) -> dict[str, str]:
    """Return the texts of the site's units by file name.

    Raises:
        RefusedError: no plan has a schedule, or one cannot be said in systemd's form.
    """
    units = {}
    owner = site.folder.stat().st_uid
    user = f"User={owner}\n" if os.geteuid() == 0 and owner else ""
    for job in jobs_of(site):
        name = f"{_slug(site)}-{job.name}"
        try:
            when = on_calendar(job.cron, site.settings.timezone)
        except ValueError as error:
            raise RefusedError(
                f"systemd cannot run {job.cron!r}: {error}.",
                where=str(site.file),
                remedy="Use --cron, or another time.",
            ) from error
        command_line = " ".join(_quoted(word) for word in (program(), *job.arguments, "--config", str(site.file)))
        success = "SuccessExitStatus=6\n" if job.name == "alerts" else ""
        folder = str(site.folder).replace("%", "%%")
        units[f"{name}.service"] = (
            f"# Written by `backup-pipeline schedule install` for {site.file}\n"
            f"[Unit]\nDescription=backup-pipeline {' '.join(job.arguments)}\nWants=network-online.target\n"
            f"After=network-online.target\n\n[Service]\nType=oneshot\n{user}WorkingDirectory={folder}\n"
            f"ExecStart={command_line}\n{success}UMask=0077\nNice=10\nIOSchedulingClass=idle\n"
        )
        units[f"{name}.timer"] = (
            f"# Written by `backup-pipeline schedule install` for {site.file}\n"
            f"[Unit]\nDescription=backup-pipeline {' '.join(job.arguments)}\n\n"
            f"[Timer]\nOnCalendar={when}\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n"
        )
    return units


def _installed_units(site: Site, folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in sorted(folder.glob(f"{_slug(site)}-*")) if path.is_file()}


def _systemctl(*arguments: str) -> None:
    tool = find_program("systemctl", remedy="This machine does not run systemd: use --cron.")
    scope = [] if os.geteuid() == 0 else ["--user"]
    bus = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
    env = {name: os.environ[name] for name in bus if name in os.environ}
    run([tool, *scope, *arguments], timeout=_SECONDS, env=env)


def show_systemd(site: Site) -> Scheduled:
    """Return the site's units that are installed."""
    there = _installed_units(site, units_folder())
    return Scheduled("systemd", _as_text(there), bool(there) and there == units_of(site))


def _as_text(units: dict[str, str]) -> str:
    return "\n".join(f"# {name}\n{text}" for name, text in units.items())


def set_systemd(site: Site, now: datetime, *, remove: bool = False, dry_run: bool = False) -> Scheduled:
    """Install or remove the site's units and start or stop their timers.

    Raises:
        ToolError: systemctl refused.
        RefusedError: no plan has a schedule, or one cannot be said in systemd's form.
        StoreError: a unit cannot be written.
    """
    folder = units_folder()
    wanted = {} if remove else units_of(site)
    there = _installed_units(site, folder)
    done = Scheduled("systemd", _as_text(wanted), not remove, changed=wanted != there)
    if wanted == there or dry_run:
        return done
    gone = sorted(there.keys() - wanted.keys())
    if timers := [name for name in gone if name.endswith(".timer")]:
        _systemctl("disable", "--now", *timers)
    make_folders(folder, 0o755)
    for name in sorted(there.keys() | wanted.keys()):
        if wanted.get(name) == there.get(name):
            continue
        if name in there and (kept := keep_former(folder / name, now)):
            done.former.append(kept)
        if name in wanted:
            write_atomically(folder / name, wanted[name].encode(), mode=0o644)
        else:
            (folder / name).unlink()
    _systemctl("daemon-reload")
    if timers := sorted(name for name in wanted if name.endswith(".timer")):
        _systemctl("enable", "--now", *timers)
    return done
