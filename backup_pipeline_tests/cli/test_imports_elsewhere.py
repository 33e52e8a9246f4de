"""The package is imported on systems that lack what only POSIX has, as Windows does."""

from __future__ import annotations

import subprocess
import sys

import pytest

_WITHOUT_POSIX = """
import os, pkgutil, signal, sys, importlib

# What the libraries need on this system is imported before its names go.
import dagster, psycopg, pyarrow, pandas, pandera.pandas, psutil, rich, typer, yaml, dotenv, isal.igzip_threaded
import apprise, requests, croniter, asyncio, multiprocessing, subprocess, socket, tempfile, ssl
import dagster._core.execution.api, dagster._core.launcher
try:
    import duckdb, starlette, asyncssh, obstore, botocore.session, pyrage
    import celery.app.base, dagster_celery.core_execution_loop, dagster_k8s
except ImportError:
    pass

POSIX_MODULES = ("fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "syslog")
OS_NAMES = (
    "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "geteuid", "getuid", "getegid", "getgid", "getgroups",
    "setuid", "setsid", "killpg", "getpgid", "fchmod", "fchown", "chown", "lchown", "mkfifo", "statvfs",
    "posix_fadvise",
    "POSIX_FADV_SEQUENTIAL", "POSIX_FADV_DONTNEED", "sched_getaffinity", "getxattr", "setxattr", "listxattr",
    "SEEK_DATA", "SEEK_HOLE", "sysconf", "fork", "pread", "pwrite", "uname", "WNOHANG", "major", "minor", "getloadavg",
    "O_PATH", "O_TMPFILE", "copy_file_range", "sendfile", "initgroups", "fchdir", "nice", "waitid",
)
SIGNALS = ("SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE", "SIGSTOP", "SIGCONT",
           "pthread_sigmask", "alarm", "setitimer", "SIG_BLOCK")
for name in POSIX_MODULES:
    sys.modules[name] = None
for name in OS_NAMES:
    if hasattr(os, name):
        delattr(os, name)
for name in SIGNALS:
    if hasattr(signal, name):
        delattr(signal, name)
import backup_pipeline
failed = []
count = 0
for module in pkgutil.walk_packages(backup_pipeline.__path__, "backup_pipeline."):
    if module.name in ("backup_pipeline.definitions", "backup_pipeline.orchestration.celery_worker"):
        continue  # read the site of the current folder, and the broker's address
    try:
        importlib.import_module(module.name)
        count += 1
    except Exception as error:
        failed.append(f"{module.name}: {type(error).__name__}: {error}")
print(count)
sys.exit("\\n".join(failed) or 0)
"""


# To import all, which nothing shorter can stand for, takes as long as thirty other tests.
@pytest.mark.story
def test_every_module_is_imported_where_posix_names_are_absent() -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT_POSIX], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200
