"""Ending a process at once when its work is over.

Taking the interpreter apart with all that Dagster has loaded takes more than a second of a processor for each process,
several times that where the machine is busy, and does nothing: everything that is to be closed was closed before. And
a thread of Arrow's that lets go of a Python buffer in that moment aborts the process, after good work.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable


def run_and_leave(main: Callable[[], object]) -> None:
    """Run a process's main function, then end the process with its exit code; never returns."""
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # noqa: BLE001 - what the interpreter itself would do
        traceback.print_exc()
        code = 1
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
