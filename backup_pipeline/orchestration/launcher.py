"""Run launcher, executor and compute logs, selected by the environment: for one machine by default, for Celery,
Docker or Kubernetes without a change of code (docs/scaling-out.md). Queueing and locks are elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, TypeVar

import yaml
from dagster import (
    DagsterInstance,
    ExecutorDefinition,
    InitExecutorContext,
    in_process_executor,
    multiprocess_executor,
)
from dagster._config.config_schema import UserConfigSchema
from dagster._core.events import DagsterEvent
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.execution.step_dependency_config import StepDependencyConfig
from dagster._core.executor.base import Executor
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.storage.compute_log_manager import ComputeLogManager
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.tags import (
    MAX_RETRIES_TAG,
    RETRY_ON_ASSET_OR_OP_FAILURE_TAG,
    RETRY_STRATEGY_TAG,
)
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from backup_pipeline.errors import SettingsError
from backup_pipeline.orchestration.home import default_home
from backup_pipeline.orchestration.liveness import death_of, marked_alive
from backup_pipeline.orchestration.names import OPERATION_TAG
from backup_pipeline.orchestration.run_steps import executing_here
from backup_pipeline.orchestration.run_subject import BACKUP, missing_tags

LAUNCHER_VARIABLE = "BACKUP_PIPELINE_RUN_LAUNCHER"
EXECUTOR_VARIABLE = "BACKUP_PIPELINE_EXECUTOR"
LOGS_VARIABLE = "BACKUP_PIPELINE_COMPUTE_LOGS"
_CONFIG_SUFFIX = "_CONFIG"
LAUNCHER_CONFIG_VARIABLE = LAUNCHER_VARIABLE + _CONFIG_SUFFIX
# At most twice, and from the beginning: what was captured may be on the machine that is gone.
_AGAIN = {MAX_RETRIES_TAG: "2", RETRY_ON_ASSET_OR_OP_FAILURE_TAG: "false", RETRY_STRATEGY_TAG: "ALL_STEPS"}
# Our own launchers and executors, by the names that the variables may have for them; others are named module:name.
_OURS = {
    (LAUNCHER_VARIABLE, "kubernetes"): "backup_pipeline.orchestration.kubernetes_launcher:KubernetesRunLauncher",
    (LAUNCHER_VARIABLE, "docker"): "backup_pipeline.orchestration.docker_launcher:WatchedDockerRunLauncher",
    (LAUNCHER_VARIABLE, "celery"): "backup_pipeline.orchestration.celery_runs:WatchedCeleryRunLauncher",
    (EXECUTOR_VARIABLE, "celery"): "backup_pipeline.orchestration.celery_steps:celery_steps",
}


T = TypeVar("T")


def _named(environment: Mapping[str, str], variable: str) -> tuple[str, str] | None:
    """Return module and name from a variable of the form `module:Name`; None when it is unset."""
    value = environment.get(variable, "").strip()
    value = _OURS.get((variable, value), value)
    if not value:
        return None
    module, _, name = value.partition(":")
    if not module or not name.isidentifier():
        raise SettingsError(
            f"{value!r} is not of the form module:Name.",
            where=variable,
            remedy="Write it as in dagster_k8s:K8sRunLauncher.",
        )
    return module, name


def _config(environment: Mapping[str, str], variable: str) -> dict[str, Any]:
    """Return the JSON object in `<variable>_CONFIG`, {} when unset."""
    text = environment.get(variable + _CONFIG_SUFFIX, "").strip()
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise SettingsError(
            f"Not JSON: {error}.", where=variable + _CONFIG_SUFFIX, remedy='Write an object, as in {"key": "value"}.'
        ) from None
    if not isinstance(value, dict):
        raise SettingsError("Not a JSON object.", where=variable + _CONFIG_SUFFIX, remedy="Write it in braces.")
    return value


def _load(variable: str, module: str, name: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"{module}:{name} cannot be imported: {error}.",
            where=variable,
            remedy="Check the spelling, and install its package (backup-pipeline[kubernetes], [docker] or [celery]).",
        ) from None


def _made(variable: str, named: tuple[str, str], family: type[T]) -> T:
    """Return what a variable names, with the configuration beside it."""
    kind = _load(variable, *named)
    if not (isinstance(kind, type) and issubclass(kind, family)):
        raise SettingsError(
            f"{':'.join(named)} is no {family.__name__}.",
            where=variable,
            remedy=f"Name a subclass of {family.__name__}.",
        )
    config = yaml.safe_dump(_config(os.environ, variable))
    return ConfigurableClassData(*named, config).rehydrate(as_type=family)


class WatchedRunLauncher(DefaultRunLauncher):
    """Dagster's own launcher, which also reports to its monitor runs whose process is dead, however started."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether the monitor may ask: always."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return whether a run's process lives; one without a mark here counts as living."""
        return health_by_mark(run.run_id)


def make_again_when_lost(instance: DagsterInstance, run: DagsterRun) -> None:
    """Have a backup made again, by another run, when the machine of this one dies; one that fails by itself is not."""
    if run.tags.get(OPERATION_TAG) == BACKUP and MAX_RETRIES_TAG not in run.tags:
        instance.add_run_tags(run.run_id, _AGAIN)


def health_by_mark(run_id: str) -> CheckRunHealthResult:
    """Return whether a run's process lives, by the mark that it leaves; one without a mark here counts as living."""
    if dead := death_of(run_id):
        return CheckRunHealthResult(WorkerStatus.FAILED, f"its process was killed or crashed: {dead}")
    return CheckRunHealthResult(WorkerStatus.RUNNING)


class WatchedExecutor(Executor):
    """An executor whose runs are tagged as they start, and leave a mark while they last; else it does as another.

    Args:
        inner: the executor that does the work.
        in_process: whether it executes the steps in this process, one after the other.
    """

    def __init__(self, inner: Executor, *, in_process: bool) -> None:
        self._inner = inner
        self._in_process = in_process

    def __getattr__(self, name: str) -> Any:
        """Return what only the other one has: an executor's loop may ask the run for it."""
        return getattr(self._inner, name)

    @property
    def retries(self) -> RetryMode:
        """As the other has them."""
        return self._inner.retries

    @property
    def step_dependency_config(self) -> StepDependencyConfig:
        """As the other has it."""
        return self._inner.step_dependency_config

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """Execute a run."""
        run = plan_context.dagster_run
        # A run that passed no queue, as of `dagster job execute`.
        if tags := missing_tags(run):
            plan_context.instance.add_run_tags(run.run_id, tags)
        here = execution_plan.step_keys_to_execute if self._in_process else ()
        with marked_alive(run.run_id), executing_here(run.run_id, here):
            yield from self._inner.execute(plan_context, execution_plan)


def watched(executor: ExecutorDefinition) -> ExecutorDefinition:
    """Return an executor definition whose runs are tagged and watched over."""

    def make(context: InitExecutorContext) -> Executor:
        create = executor.executor_creation_fn
        assert create is not None
        return WatchedExecutor(create(context), in_process=executor.name == in_process_executor.name)

    return ExecutorDefinition(
        name=executor.name,
        config_schema=executor.config_schema,  # type: ignore[arg-type]
        requirements=executor._requirements_fn,
        executor_creation_fn=make,
        description=executor.description,
    )


class EnvironmentComputeLogManager(ComputeLogManager, ConfigurableClass):
    """Stands in dagster.yaml; loading it gives the store of what runs print that `BACKUP_PIPELINE_COMPUTE_LOGS` names.

    `BACKUP_PIPELINE_COMPUTE_LOGS_CONFIG` is its configuration as a JSON object. Without the variable it is Dagster's
    own, files in `storage` below DAGSTER_HOME.
    """

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Return the schema of its configuration, which is empty."""
        return {}

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> ComputeLogManager:
        """Return the one that the environment asks for; SettingsError when its variables are wrong."""
        named = _named(os.environ, LOGS_VARIABLE)
        if named is None:
            return LocalComputeLogManager(str(default_home(os.environ) / "storage"), inst_data=inst_data)
        return _made(LOGS_VARIABLE, named, ComputeLogManager)  # type: ignore[type-abstract]


class EnvironmentRunLauncher(RunLauncher, ConfigurableClass):
    """Stands in dagster.yaml; loading it gives the run launcher that `BACKUP_PIPELINE_RUN_LAUNCHER` names.

    The variable holds `kubernetes`, `docker`, `celery`, or `module:Class` of another launcher.
    `BACKUP_PIPELINE_RUN_LAUNCHER_CONFIG` is its configuration as a JSON object; use `{"env": "NAME"}` for secrets.
    Without the variable it is Dagster's DefaultRunLauncher: a process beside the code location, watched over.
    """

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Return the schema of its configuration, which is empty."""
        return {}

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> RunLauncher:
        """Return the launcher that the environment asks for; SettingsError when its variables are wrong."""
        named = _named(os.environ, LAUNCHER_VARIABLE)
        if named is None:
            return WatchedRunLauncher(inst_data=inst_data)
        return _made(LAUNCHER_VARIABLE, named, RunLauncher)  # type: ignore[type-abstract]

    def launch_run(self, context: LaunchRunContext) -> None:
        """Never called: this class only stands for another."""
        raise NotImplementedError

    def terminate(self, run_id: str) -> bool:
        """Never called: this class only stands for another."""
        raise NotImplementedError


_IN_PROCESS = ("", "in_process", "dagster:in_process_executor")


def steps_share_a_process(environment: Mapping[str, str] | None = None) -> bool:
    """Return whether the executor that the environment names runs all steps of a run in one process."""
    environment = os.environ if environment is None else environment
    return environment.get(EXECUTOR_VARIABLE, "").strip() in _IN_PROCESS


def executor_from_environment(environment: Mapping[str, str] | None = None) -> ExecutorDefinition:
    """Return the executor of the jobs: `BACKUP_PIPELINE_EXECUTOR`, in-process when it is unset.

    The variable holds `in_process`, `multiprocess`, `celery` or `module:name` of an executor definition;
    `BACKUP_PIPELINE_EXECUTOR_CONFIG` its configuration as a JSON object.

    Raises:
        SettingsError: the variables are wrong.
    """
    environment = os.environ if environment is None else environment
    known = {"": in_process_executor, "in_process": in_process_executor, "multiprocess": multiprocess_executor}
    value = environment.get(EXECUTOR_VARIABLE, "").strip()
    executor = known.get(value)
    if executor is None:
        named = _named(environment, EXECUTOR_VARIABLE)
        assert named is not None
        executor = _load(EXECUTOR_VARIABLE, *named)
        if not isinstance(executor, ExecutorDefinition):
            raise SettingsError(
                f"{value} is no executor.", where=EXECUTOR_VARIABLE, remedy="Name an executor definition of a package."
            )
    config = _config(environment, EXECUTOR_VARIABLE)
    executor = watched(executor)
    return executor.configured(config, name=executor.name) if config else executor
