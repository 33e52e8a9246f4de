"""The commands that the settings run before and after a capture: a container started, an application paused.

They run without a shell in the folder of backup.yaml, with a small environment (and the variables that a command names
in `env`), each with a limit of time. What they write is kept in the set, the values of secret variables masked.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Literal

from backup_pipeline.errors import BackupSystemError, ToolError
from backup_pipeline.model.command_record import CommandRecord
from backup_pipeline.redaction import redacted
from backup_pipeline.settings.site import Site
from backup_pipeline.settings.types import Command
from backup_pipeline.system.docker import ENGINE_VARIABLES
from backup_pipeline.system.processes import run

LOG = logging.getLogger("backup")
_OUTPUT = 4000
_SECRET_NAME = re.compile(r"(password|passwd|secret|token|key|dsn|url|credential|pass$|pwd$)", re.IGNORECASE)
_IN_URL = re.compile(r"://[^/\s:@]*:([^@/\s]+)@")
_SHORTEST = 4
# None of these holds a secret.
_PASSED_ON = (*ENGINE_VARIABLES, "COMPOSE_FILE", "COMPOSE_PROJECT_NAME")


def masked(text: str, environment: Mapping[str, str]) -> str:
    """Return a text without URLs' passwords and the values of variables whose names mean secrets."""
    secrets = {value.strip() for name, value in environment.items() if _SECRET_NAME.search(name)}
    secrets |= {found for value in environment.values() for found in _IN_URL.findall(value)}
    for secret in sorted((each for each in secrets if len(each) >= _SHORTEST), key=len, reverse=True):
        text = text.replace(secret, "***")
    return redacted(_IN_URL.sub(lambda found: found[0].replace(f":{found[1]}@", ":***@"), text))


@contextmanager
def commands_around(
    site: Site, before: Sequence[Command], after: Sequence[Command], now: Callable[[], datetime]
) -> Iterator[list[CommandRecord]]:
    """Run commands before and after the block; give the list that their records go into.

    The ones after are run however the block ends, and also when one before has failed: what was stopped is started.

    Raises:
        ToolError: a command failed or took too long. One after the block does not hide the block's own error.
    """
    records: list[CommandRecord] = []
    try:
        run_commands(site, before, "before", records, now)
        yield records
    except BaseException:
        try:
            run_commands(site, after, "after", records, now)
        except BackupSystemError as error:
            LOG.error("%s", error)
        raise
    run_commands(site, after, "after", records, now)


def run_commands(
    site: Site,
    commands: Sequence[Command],
    when: Literal["before", "after"],
    records: list[CommandRecord],
    now: Callable[[], datetime],
) -> None:
    """Run commands one after the other, adding a record of each; ToolError where one fails, then none follows."""
    for command in commands:
        started = now()
        passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        passed |= {name: site.value(name) for name in command.env}
        code, output, problem = None, "", ""
        try:
            done = run(command.run, env=passed, cwd=site.folder, check=False, timeout=command.timeout.total_seconds())
            code, output = done.exit_code, done.stdout.decode("utf-8", "replace") + done.stderr
            problem = f"exit code {code}" if code else ""
        except ToolError as error:
            problem = error.what
        output = masked(output, site.environment).strip()[-_OUTPUT:]
        arguments = tuple(masked(word, site.environment) for word in command.run)
        records.append(
            CommandRecord(
                when=when, command=arguments, exit_code=code, output=output, started_at=started, finished_at=now()
            )
        )
        if problem:
            last = ": " + " | ".join(lines) if (lines := output.splitlines()[-3:]) else ""
            raise ToolError(
                f"The command `{' '.join(arguments)}` ({when} the capture) failed: {problem}{last}.",
                where=f"run_{when}",
                remedy=f"Run it by hand in {site.folder}, or correct `run_{when}` in {site.file.name}.",
            )
