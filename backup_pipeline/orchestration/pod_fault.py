"""What is wrong with the Job or pod of a run on Kubernetes, from the state that the API server shows of them.

Pure: nothing is asked here. Names of states and reasons are those of the Kubernetes API (PodStatus, ContainerState,
the events of the Job controller).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backup_pipeline.errors import BackupSystemError

RUN_CONFIG = "BACKUP_PIPELINE_RUN_LAUNCHER_CONFIG"
_SIGKILL = 137
# Of a container that waits: why it will not start by itself.
_STUCK = {
    "ErrImagePull": "Its image cannot be pulled",
    "ImagePullBackOff": "Its image cannot be pulled",
    "InvalidImageName": "Its image has no valid name",
    "ErrImageNeverPull": "Its image is not on the node",
    "CreateContainerConfigError": "Its container cannot be configured",
    "CreateContainerError": "Its container cannot be created",
    "RunContainerError": "Its container cannot be started",
}
_AGAIN = "Start the backup again: what was written of its set is no backup, and stands in nobody's way."


def fault_of(job: str, pods: Sequence[Any], job_events: Sequence[Any], *, job_exists: bool) -> BackupSystemError | None:
    """Return what keeps a run's Job from its work, None where nothing does.

    Args:
        job: the Job's name.
        pods: V1Pod of the Job.
        job_events: CoreV1Event about the Job.
        job_exists: whether the API server has the Job.
    """
    for pod in pods:
        if (fault := _of_pod(pod)) is not None:
            return fault
    if pods:
        return None
    refused = [event.message for event in job_events if event.reason == "FailedCreate" and event.message]
    if refused:
        return BackupSystemError(
            f"Kubernetes refused the run's pod: {_sentence(refused[-1])}",
            where=job,
            remedy="Raise the namespace's quota or limits, or let the pods of runs ask for less.",
        )
    if not job_exists:
        return BackupSystemError(
            "The run's Job and its pod are gone: somebody deleted them, or their node.", where=job, remedy=_AGAIN
        )
    return None


def _of_pod(pod: Any) -> BackupSystemError | None:
    where, status = str(pod.metadata.name), pod.status
    # An eviction is known by the pod's own reason (by the kubelet), or by its condition (drains, preemption, taints).
    conditions = status.conditions or ()
    disrupted = next((each for each in conditions if each.type == "DisruptionTarget" and each.status == "True"), None)
    if status.reason == "Evicted" or disrupted is not None:
        said = status.message or (disrupted.message if disrupted is not None else "")
        return BackupSystemError(
            f"The run's pod was evicted: {_sentence(said or 'no reason given.')}",
            where=where,
            remedy=f"{_AGAIN} Give the pods of runs the memory and disk that they need ({RUN_CONFIG}).",
        )
    for container in status.container_statuses or ():
        state = container.state
        if state is None:
            continue
        if state.waiting is not None and state.waiting.reason in _STUCK:
            return BackupSystemError(
                f"{_STUCK[state.waiting.reason]}: {_sentence(state.waiting.message or container.image)}",
                where=where,
                remedy="Correct the image's name, the secret of its registry, or what the container mounts.",
            )
        if state.terminated is not None and state.terminated.exit_code:
            return _of_ended_container(where, pod, state.terminated)
    unscheduled = next((c for c in conditions if c.type == "PodScheduled" and c.status == "False"), None)
    if unscheduled is not None:
        return BackupSystemError(
            f"No node takes the run's pod: {_sentence(unscheduled.message or 'no reason given.')}",
            where=where,
            remedy="Add a node, or let the pods of runs ask for less.",
        )
    return None


def _of_ended_container(where: str, pod: Any, ended: Any) -> BackupSystemError:
    if ended.reason == "OOMKilled":
        limits = (pod.spec.containers[0].resources and pod.spec.containers[0].resources.limits) or {}
        return BackupSystemError(
            f"The run's container was killed for want of memory (limit {limits.get('memory', 'of its node')}).",
            where=where,
            remedy=f"Raise resources.limits.memory of the pods of runs ({RUN_CONFIG}), then start the backup again.",
        )
    how = "was killed (SIGKILL)" if ended.exit_code == _SIGKILL else f"ended with exit code {ended.exit_code}"
    return BackupSystemError(f"The run's container {how} before the run was over.", where=where, remedy=_AGAIN)


def _sentence(text: str) -> str:
    """Return a text of Kubernetes on one line, with its full stop."""
    line = " ".join(text.split())
    return line if line.endswith(".") else f"{line}."
