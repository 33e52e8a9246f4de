"""A terminal of a given width, for what a person sees of a command."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass
from pathlib import Path

from rich.cells import cell_len

_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Screen:
    """What a command wrote to a terminal, with its control codes, and its exit code."""

    code: int
    raw: str

    @property
    def lines(self) -> list[str]:
        """The lines that stay, without codes."""
        return [_CODES.sub("", line).split("\r")[-1].rstrip() for line in self.raw.replace("\r\n", "\n").split("\n")]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def widest(self) -> int:
        return max(cell_len(line) for line in self.lines)


def in_terminal(arguments: list[str], folder: Path, environment: dict[str, str], width: int = 80) -> Screen:
    """Run the command line in a terminal of `width` columns; what is asked is answered with Enter."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    plain = {name: value for name, value in environment.items() if name not in ("COLUMNS", "NO_COLOR")}
    command = [sys.executable, "-c", "from backup_pipeline.cli.main import main; main()", *arguments]
    process = subprocess.Popen(
        command, cwd=folder, env={**plain, "TERM": "xterm-256color"}, stdin=other, stdout=other, stderr=other
    )
    os.close(other)
    written = b""
    try:
        while piece := os.read(main, 65536):
            written += piece
    except OSError:
        # Linux's way of saying that the other end was closed.
        pass
    finally:
        os.close(main)
    return Screen(process.wait(), written.decode())
