"""Run launcher for Kubernetes: each run is one Job (`BACKUP_PIPELINE_RUN_LAUNCHER=kubernetes`, docs/scaling-out.md).

Jobs are made and deleted by Dagster's own K8sRunLauncher. Here is what a backup needs besides: a run that lives is not
called dead because the API server did not answer, or because the shell started it without a Job; each end of a pod is
reported in one sentence with its remedy; the Job of a run that was given up is deleted (dagster issue 15325).
"""

from __future__ import annotations

import json
import logging

import dagster as dg
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.storage.tags import DOCKER_IMAGE_TAG
from dagster_k8s import K8sRunLauncher
from dagster_k8s.client import DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError
from dagster_k8s.job import get_job_name_from_run_id
from kubernetes.client.rest import ApiException
from urllib3.exceptions import HTTPError

from backup_pipeline.errors import BackupSystemError, UnreachableError
from backup_pipeline.orchestration.launcher import health_by_mark, make_again_when_lost
from backup_pipeline.orchestration.pod_fault import fault_of
from backup_pipeline.orchestration.worker_end import report_worker_end

LOG = logging.getLogger("backup-pipeline.runs")
_FORBIDDEN = 403
# The API server refused, could not be asked, or was asked too often.
_API_ERRORS = (ApiException, DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError, HTTPError)


class KubernetesRunLauncher(K8sRunLauncher):
    """Dagster's K8sRunLauncher, which also says why a run's pod did not start or ended."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Create the run's Job; a backup whose pod dies is made again.

        Raises:
            UnreachableError: the API server does not answer.
            BackupSystemError: it refuses the Job.
        """
        make_again_when_lost(self._instance, context.dagster_run)
        try:
            super().launch_run(context)
        except _API_ERRORS as error:
            reported = _refusal(error, self.job_namespace)
            report_worker_end(self._instance, context.dagster_run, reported)
            raise reported from None

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether a started run's worker lives; one that cannot be asked about counts as living."""
        if DOCKER_IMAGE_TAG not in run.tags:
            # Started from the shell, in a pod that has no Job: upstream calls such a run lost.
            return health_by_mark(run.run_id)
        name = self._job_name(run)
        try:
            status = self._api_client.get_job_status(name, self._namespace(run))
            if status is not None and (status.active or not (status.failed or status.succeeded)):
                return CheckRunHealthResult(WorkerStatus.RUNNING)
            fault = self._fault(run, job_exists=status is not None)
        except _API_ERRORS as error:
            LOG.warning("whether run %s lives cannot be asked: %s", run.run_id[:8], _refusal(error, name))
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        current = self._instance.get_run_by_id(run.run_id)
        if current is None or current.is_finished:
            # It ended while its pod was asked about.
            return CheckRunHealthResult(WorkerStatus.SUCCESS)
        fault = fault or BackupSystemError("The run's pod ended before the run was over.", where=name)
        report_worker_end(self._instance, run, fault)
        return CheckRunHealthResult(WorkerStatus.FAILED, str(fault))

    def get_run_worker_debug_info(self, run: dg.DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """Return what the UI shows of the pod of a run that the monitor gives up, and delete its Job if it goes on.

        Dagster's monitor asks for this, and for nothing else, before it ends a run that did not start, did not stop or
        has died. A pod that is still to start would otherwise wait for its image, and hold its quota, for ever.
        """
        if DOCKER_IMAGE_TAG not in run.tags:
            return None
        name, namespace = self._job_name(run), self._namespace(run)
        details = super().get_run_worker_debug_info(run, include_container_logs)
        status = self._api_client.get_job_status(name, namespace)
        if run.status is dg.DagsterRunStatus.STARTING:
            fault = self._fault(run, job_exists=status is not None)
            fault = fault or BackupSystemError("The run's pod did not start in time.", where=name)
            report_worker_end(self._instance, run, fault)
            details = f"{fault}\n{details}"
        if status is not None and (status.active or not (status.failed or status.succeeded)):
            self._api_client.delete_job(name, namespace)
        return details

    def _job_name(self, run: dg.DagsterRun) -> str:
        attempt = self._get_resume_attempt_number(run)
        return str(get_job_name_from_run_id(run.run_id, attempt))  # type: ignore[no-untyped-call]

    def _namespace(self, run: dg.DagsterRun) -> str:
        return self.get_container_context_for_run(run).namespace or self.job_namespace

    def _fault(self, run: dg.DagsterRun, *, job_exists: bool) -> BackupSystemError | None:
        name, namespace = self._job_name(run), self._namespace(run)
        pods = self._api_client.get_pods_in_job(name, namespace)
        # The client asks for events by the name of what they are about, whatever its kind.
        events = () if pods else self._api_client.retrieve_pod_events(name, namespace)
        return fault_of(name, pods, events, job_exists=job_exists)


def _refusal(error: Exception, where: str) -> BackupSystemError:
    """Return why the API server did not do what it was asked for, as it says itself."""
    cause = getattr(error, "k8s_api_exception", error)
    if not isinstance(cause, ApiException):
        return UnreachableError(
            f"The API server of Kubernetes does not answer ({type(cause).__name__}).",
            where=where,
            remedy="Are the network policies and the service account of the daemon as in deploy/kubernetes?",
        )
    try:
        said = str(json.loads(cause.body)["message"])
    except (TypeError, ValueError, KeyError):
        said = str(cause.reason)
    if cause.status == _FORBIDDEN and "quota" in said:
        remedy = "Raise the namespace's quota, or lower max_concurrent_runs in dagster.yaml."
    elif cause.status == _FORBIDDEN:
        remedy = "Give the service account the rights of deploy/kubernetes/base/rights.yaml."
    else:
        remedy = "Correct the launcher's configuration, or ask whoever runs the cluster."
    return BackupSystemError(f"Kubernetes refused the run's Job: {said.rstrip('.')}.", where=where, remedy=remedy)
