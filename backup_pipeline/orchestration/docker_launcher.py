"""Run launcher for Docker: each run is one container of a host (`BACKUP_PIPELINE_RUN_LAUNCHER=docker`, scaling-out.md).

Containers are made by Dagster's own DockerRunLauncher. Here is what a backup needs besides: a run that lives is not
called dead because the engine did not answer, or because the shell started it without a container; each end of a
container is reported in one sentence with its remedy; what did not start, or was given up, is stopped and removed.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._serdes import ConfigurableClassData
from dagster_docker.docker_run_launcher import DOCKER_CONTAINER_ID_TAG, DockerRunLauncher
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container
from requests.exceptions import RequestException

from backup_pipeline.errors import BackupSystemError, SettingsError, UnreachableError
from backup_pipeline.orchestration.launcher import (
    LAUNCHER_CONFIG_VARIABLE,
    health_by_mark,
    make_again_when_lost,
)
from backup_pipeline.orchestration.worker_end import report_worker_end
from backup_pipeline.redaction import secrets_in

LOG = logging.getLogger("backup-pipeline.runs")
_ENGINE_ERRORS = (DockerException, RequestException)
_RUN_LABEL = "dagster/run_id"
_LIVING = ("running", "paused")
_SIGKILL = 137
# Between SIGTERM and SIGKILL: to end its programs and give back its locks.
_STOP_SECONDS = 60
_KEPT_SECONDS = 24 * 3600
_LOG_LINES = 25
_AGAIN = "Start the backup again: what was written of its set is no backup, and stands in nobody's way."
_NOT_FOR_RUNS = {
    "auto_remove": "Why a container ended could not be asked any more; those that ended are removed after a day.",
    "restart_policy": "A second process would find the run under way; a backup whose container dies is made again.",
}


class WatchedDockerRunLauncher(DockerRunLauncher):
    """Dagster's DockerRunLauncher, which also says why a run's container did not start or ended.

    Args:
        inst_data: Dagster's.
        config: as of DockerRunLauncher; `image` is required.

    Raises:
        SettingsError: no image, a secret in clear, or an option that does not suit runs.
    """

    def __init__(self, inst_data: ConfigurableClassData | None = None, **config: Any) -> None:
        _check(config)
        super().__init__(inst_data, **config)
        self.container_kwargs = {"stop_timeout": _STOP_SECONDS, **self.container_kwargs}

    @property
    def supports_resume_run(self) -> bool:
        """Whether a run whose container is gone goes on as the same run: never; another run completes its set."""
        return False

    def launch_run(self, context: LaunchRunContext) -> None:
        """Create and start the run's container; a backup whose container dies is made again.

        Raises:
            UnreachableError: the engine does not answer.
            BackupSystemError: it refuses the container, or has no such image and cannot pull it.
        """
        run = context.dagster_run
        make_again_when_lost(self._instance, run)
        try:
            self._remove_old(run)
            super().launch_run(context)
        except _ENGINE_ERRORS as error:
            reported = _refusal(error, self.image)
            with contextlib.suppress(*_ENGINE_ERRORS):
                # One that was made and cannot start would wait for ever.
                for container in self._containers(run, {"label": f"{_RUN_LABEL}={run.run_id}"}):
                    container.remove(force=True)
            report_worker_end(self._instance, run, reported)
            raise reported from None

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether a started run's container lives; one that cannot be asked about counts as living."""
        if DOCKER_CONTAINER_ID_TAG not in run.tags:
            # Started from the shell: upstream calls such a run lost.
            return health_by_mark(run.run_id)
        try:
            container = self._get_container(run)  # type: ignore[no-untyped-call]
        except _ENGINE_ERRORS as error:
            LOG.warning("whether run %s lives cannot be asked: %s", run.run_id[:8], _refusal(error, self.image))
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if container is not None and container.status in _LIVING:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        current = self._instance.get_run_by_id(run.run_id)
        if current is None or current.is_finished:
            # It ended while its container was asked about.
            return CheckRunHealthResult(WorkerStatus.SUCCESS)
        fault = fault_of(container)
        report_worker_end(self._instance, run, fault)
        return CheckRunHealthResult(WorkerStatus.FAILED, str(fault))

    def get_run_worker_debug_info(self, run: dg.DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """Return what the UI shows of the container of a run that the monitor gives up, and stop it if it goes on.

        Dagster's monitor asks for this, and for nothing else, before it ends a run that did not start, did not stop or
        has died.
        """
        container = self._get_container(run)  # type: ignore[no-untyped-call]
        if container is None:
            return None
        details = f"Container {container.name}: {container.status}."
        if include_container_logs:
            details += f"\n{container.logs(tail=_LOG_LINES).decode('utf-8', 'replace')}"
        if run.status is dg.DagsterRunStatus.STARTING:
            fault = BackupSystemError("The run's container did not start in time.", where=container.name, remedy=_AGAIN)
            fault = fault if container.status in _LIVING else fault_of(container)
            report_worker_end(self._instance, run, fault)
            details = f"{fault}\n{details}"
        if container.status in _LIVING:
            container.stop(timeout=self.container_kwargs["stop_timeout"])
        return details

    def terminate(self, run_id: str) -> bool:
        """Ask a run's container to end; where the engine cannot be asked from here, the daemon does so in time."""
        try:
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        except _ENGINE_ERRORS as error:
            run = self._instance.get_run_by_id(run_id)
            self._instance.report_engine_event(
                f"{_refusal(error, self.image).what} The daemon stops the container when the run does not end by "
                f"itself within {self._instance.run_monitoring_cancel_timeout_seconds} s.",
                run,
            )
            return True

    def _containers(self, run: dg.DagsterRun, filters: Mapping[str, str]) -> list[Container]:
        client = self._get_client(self.get_container_context(run))
        found: list[Container] = client.containers.list(all=True, sparse=True, filters=dict(filters))
        return found

    def _remove_old(self, run: dg.DagsterRun) -> None:
        """Remove the containers, and with them the logs, of this site's runs that ended a day ago."""
        for container in self._containers(run, {"label": _RUN_LABEL, "status": "exited"}):
            ended = self._instance.get_run_by_id(container.attrs["Labels"][_RUN_LABEL])
            # Another site's Dagster may have runs on this engine, too.
            if ended and ended.is_finished and time.time() - container.attrs["Created"] > _KEPT_SECONDS:
                with contextlib.suppress(APIError):
                    container.remove()


def _check(config: Mapping[str, Any]) -> None:
    options = config.get("container_kwargs") or {}
    if not config.get("image"):
        raise SettingsError(
            "No image is named.", where=LAUNCHER_CONFIG_VARIABLE, remedy='Write {"image": "backup-pipeline:1.0.0", …}.'
        )
    for name, why in _NOT_FOR_RUNS.items():
        if options.get(name):
            raise SettingsError(
                f"`{name}` does not suit the containers of runs.",
                where=f"{LAUNCHER_CONFIG_VARIABLE}: container_kwargs",
                remedy=f"Remove it. {why}",
            )
    for entry in config.get("env_vars") or ():
        name, given, value = entry.partition("=")
        if given and not name.endswith("_FILE") and secrets_in({name: value}):
            raise SettingsError(
                f"The value of {name} stands in clear in the launcher's configuration.",
                where=f"{LAUNCHER_CONFIG_VARIABLE}: env_vars",
                remedy=f"Mount a file with it and write {name}_FILE=PATH, or write the name alone.",
            )


def fault_of(container: Container | None) -> BackupSystemError:
    """Return what ended a run's container, as the engine shows it; None stands for one that is gone."""
    if container is None:
        return BackupSystemError("The run's container is gone: somebody removed it.", where="Docker", remedy=_AGAIN)
    state, where = container.attrs["State"], str(container.name)
    if state.get("OOMKilled"):
        limit = container.attrs["HostConfig"].get("Memory")
        return BackupSystemError(
            f"The run's container was killed for want of memory (limit {_megabytes(limit)}).",
            where=where,
            remedy=f"Raise mem_limit in container_kwargs ({LAUNCHER_CONFIG_VARIABLE}), then start the backup again.",
        )
    code = state.get("ExitCode")
    how = "was killed (SIGKILL)" if code == _SIGKILL else f"ended with exit code {code}"
    said = f": {_sentence(state['Error'])}" if state.get("Error") else "."
    return BackupSystemError(f"The run's container {how} before the run was over{said}", where=where, remedy=_AGAIN)


def _megabytes(limit: int | None) -> str:
    return f"{limit / (1 << 20):.0f} MiB" if limit else "of its host"


def _refusal(error: Exception, image: str) -> BackupSystemError:
    """Return why the engine did not do what it was asked for, as it says itself."""
    if not isinstance(error, APIError):
        return UnreachableError(
            "Docker's engine does not answer, or this user may not ask it.",
            where="DOCKER_HOST",
            remedy="Does it run, and is its socket mounted here with the group that may use it (docs/scaling-out.md)?",
        )
    said = _sentence(str(error.explanation or error))
    if isinstance(error, NotFound) and ("image" in said.lower() or "pull access" in said or "manifest" in said):
        return BackupSystemError(
            f"The run's image is not on the host and cannot be pulled: {said}",
            where=image,
            remedy="Build or pull it there, or correct the image's name and the login of its registry.",
        )
    return BackupSystemError(
        f"Docker refused the run's container: {said}",
        where=image,
        remedy=f"Correct {LAUNCHER_CONFIG_VARIABLE}: its networks, volumes and limits.",
    )


def _sentence(text: str) -> str:
    line = " ".join(text.split())
    return line if line.endswith(".") else f"{line}."
