"""Commands in texts for people, completed with program, settings file and identity's file to run as they stand. Pure.

Which command mends what stands where the text is written.
"""

from __future__ import annotations

import re
import shlex

_COMMAND = re.compile(r"`backup-pipeline ([^`]+)`")


def ready_commands(text: str, *, config: str, program: str = "backup-pipeline", identity: str = "") -> str:
    """Return a text whose commands (in backticks) name the program, the settings file and the identity's file.

    Args:
        text: a remedy.
        config: ` --config FILE` as a shell must have it; "" where backup.yaml is found without.
        program: path or name by which the program is found in a shell.
        identity: path that stands for `--identity FILE`; "" leaves FILE.
    """

    def completed(found: re.Match[str]) -> str:
        rest = found[1].replace("--identity FILE", f"--identity {shlex.quote(identity)}") if identity else found[1]
        return f"`{shlex.quote(program)} {rest}{config}`"

    return _COMMAND.sub(completed, text)
