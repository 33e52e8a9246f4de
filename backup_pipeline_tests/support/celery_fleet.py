"""A site on many machines: servers of PostgreSQL, a broker, Dagster's history, objects, and workers of Celery.

Each has an address and a folder of its own (`machines.py`); workers share no disk. What is not installed is skipped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from backup_pipeline.orchestration.submit import submit_job
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.postgres.server.embedded import EmbeddedServer
from backup_pipeline.postgres.server.target import PostgresTarget
from backup_pipeline.stores.vault.encryption import new_identity
from backup_pipeline_tests.support.brokers import REDIS, Broker
from backup_pipeline_tests.support.fleet_programs import (
    answers,
    logs_in,
    programs,
    wait_until,
)
from backup_pipeline_tests.support.machines import SITE, Machine, Network, network
from backup_pipeline_tests.support.object_servers import S3Server, weed_server
from backup_pipeline_tests.support.sites import Output, TestSite, dsn

_POSTGRES, _CODE = 5432, 4000
_BUCKET = "fleet"
_SLOW = "1500kbit"
_HOME = """
storage:
  custom: {module: backup_pipeline.orchestration.storage, class: EnvironmentStorage}
run_launcher: {module: backup_pipeline.orchestration.launcher, class: EnvironmentRunLauncher}
run_coordinator:
  module: backup_pipeline.orchestration.coordinator
  class: TaggedRunCoordinator
  config: {dequeue_interval_seconds: 1}
concurrency:
  runs:
    max_concurrent_runs: RUNS
    tag_concurrency_limits:
      - {key: backup_pipeline/plan, value: {applyLimitPerUniqueValue: true}, limit: 1}
run_monitoring: {enabled: true, poll_interval_seconds: 2, start_timeout_seconds: 300, cancel_timeout_seconds: 30}
run_retries: {enabled: true, max_retries: 0}
telemetry: {enabled: false}
"""
_TABLE = """
create table public.items (id bigint primary key, name text not null);
insert into public.items select n, md5((n * 7919)::text) || md5((n * 104729)::text) from generate_series(1, {rows}) n;
"""


RUNS = {"BACKUP_PIPELINE_RUN_LAUNCHER": "celery", "BACKUP_PIPELINE_RUN_LAUNCHER_CONFIG": '{"silent_seconds": 6}'}
STEPS = {"BACKUP_PIPELINE_EXECUTOR": "celery", "BACKUP_PIPELINE_EXECUTOR_CONFIG": '{"silent_seconds": 6.0}'}
"""Each run is a task, or each step."""


@dataclass(frozen=True)
class Size:
    """Servers, databases on each, rows in each, what a server's link sends at most, and runs at once."""

    servers: int = 4
    databases: int = 3
    rows: int = 2000
    rate: str = "4mbit"
    runs: int = 4

    def sources(self, server: int) -> list[str]:
        """Return the sources that are on a server."""
        return [f"s{server}_d{number}" for number in range(1, self.databases + 1)]


@dataclass
class Fleet:
    """The site on its machines."""

    size: Size
    net: Network
    site: TestSite
    objects: S3Server
    template: EmbeddedServer
    servers: list[Machine]
    history: Machine
    control: Machine
    broker: Machine
    kind: Broker
    spread: dict[str, str]
    workers: list[Machine] = field(default_factory=list)
    workspace: WorkspaceProcessContext = field(init=False)

    def target(self, server: Machine, database: str = "postgres") -> PostgresTarget:
        """Return the superuser's way to a database of a server."""
        own = self.template.target(database)
        return PostgresTarget(server.address, _POSTGRES, database, own.user, own.password)

    # Servers

    def start_postgres(self, machine: Machine) -> None:
        """Start a machine's server of PostgreSQL, made from the template, and wait until it answers."""
        data = machine.folder / "data"
        if not data.exists():
            machine.folder.chmod(0o755)
            subprocess.run(["cp", "-a", str(self.template.data), str(data)], check=True)
            with (data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all 10.0.0.0/8 scram-sha-256\n")
        (data / "postmaster.pid").unlink(missing_ok=True)
        options = ["-p", str(_POSTGRES), "-c", "listen_addresses=*", "-c", "unix_socket_directories="]
        command = [str(programs() / "postgres"), "-D", str(SITE / "data"), *options]
        machine.start(*command, environment={"LC_ALL": "C"}, user=data.stat().st_uid)
        wait_until(lambda: answers(machine.address, _POSTGRES), f"PostgreSQL of {machine.name}")
        wait_until(lambda: logs_in(self.target(machine)), f"a login to {machine.name}")

    def start_broker(self) -> None:
        """Start the broker, with what it was left with."""
        self.kind.start(self.broker)

    # Dagster

    def variables(self) -> dict[str, str]:
        """Return the variables of Dagster's processes."""
        history = dsn(self.target(self.history, "dagster"))
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "BACKUP_PIPELINE_CONFIG": str(SITE / "backup.yaml"),
            "DAGSTER_HOME": str(SITE / "home"),
            "DAGSTER_POSTGRES_URL": history,
            "OFFSITE_KEYS_FILE": str(SITE / "keys"),
            "CELERY_BROKER_URL": self.kind.url_at(self.broker.address),
            **(
                {"CELERY_RESULT_BACKEND": f"redis://{self.broker.address}:{REDIS.port}/1"}
                if self.spread == STEPS
                else {}
            ),
            **self.spread,
        }

    def furnish(self, machine: Machine, *, identity: bool = False) -> None:
        """Give a machine what a worker has: settings, secrets, the site's keys, Dagster's home. No set."""
        for name in ("backup.yaml", ".env", "keys", *(("identity.txt",) if identity else ())):
            shutil.copy2(self.site.folder / name, machine.folder)
        (machine.folder / "home").mkdir()
        (machine.folder / "home" / "dagster.yaml").write_text(_HOME.replace("RUNS", str(self.size.runs)))

    def start_control(self) -> None:
        """Start the code location and the daemon."""
        self.furnish(self.control)
        code = ["dagster", "code-server", "start", "-m", "backup_pipeline.definitions", "-h", "0.0.0.0"]
        self.control.start(*code, "-p", str(_CODE), environment=self.variables(), log="code.log")
        wait_until(lambda: answers(self.control.address, _CODE), "the code location", 300)
        self.start_daemon()

    def start_daemon(self) -> None:
        """Start the daemon."""
        location = f"{{host: {self.control.address}, port: {_CODE}, location_name: backup-pipeline}}"
        (self.control.folder / "workspace.yaml").write_text(f"load_from: [{{grpc_server: {location}}}]\n")
        daemon = f"{sys.executable} -m backup_pipeline.web.daemon run -w {SITE / 'workspace.yaml'}"
        # As `restart: unless-stopped` does.
        again = f"while :; do {daemon}; sleep 1; done"
        self.control.start("sh", "-c", again, environment=self.variables(), log="daemon.log")

    def start_worker(self, number: int) -> Machine:
        """Start a worker on a machine of its own, new or as it was left."""
        name = f"w{number}"
        machine = next((known for known in self.workers if known.name == name), None)
        if machine is None:
            machine = self.net.machine(name)
            self.furnish(machine, identity=True)
            self.workers.append(machine)
        app = ["celery", "-A", "backup_pipeline.orchestration.celery_worker", "worker"]
        environment = self.variables() | {"VAULT_IDENTITY_FILE": str(SITE / "identity.txt")}
        machine.start(*app, "--concurrency", "1", "-n", f"{name}@%h", "-l", "INFO", environment=environment)
        return machine

    def wait_for_workers(self) -> None:
        """Wait until every worker takes tasks."""
        wait_until(lambda: all(" ready." in each.text() for each in self.workers), "the workers", 300)

    def command(self, machine: Machine, *arguments: str) -> Output:
        """Run the command line on a machine."""
        environment = self.variables() | {"VAULT_IDENTITY_FILE": str(SITE / "identity.txt"), "COLUMNS": "200"}
        log = machine.folder / "command.log"
        log.unlink(missing_ok=True)
        process = machine.start("backup-pipeline", *arguments, environment=environment, log=log.name)
        return Output(process.wait(180), log.read_text(), "")

    def task_of(self, run_id: str) -> str:
        """Return the number of a run's task; "-" where it has none yet."""
        run = self.workspace.instance.get_run_by_id(run_id)
        return run.tags.get(DAGSTER_CELERY_TASK_ID_TAG, "-") if run else "-"

    def worker_of(self, run_id: str) -> Machine | None:
        """Return the machine whose worker has taken a run; None while none has."""
        received = f"execute_job[{self.task_of(run_id)}] received"
        return next((each for each in self.workers if received in each.text()), None)

    def launch(self, job: str, **more: object) -> str:
        """Queue a run of a job; return its id."""
        return submit_job(self.workspace, job, asked_by="test", **more)  # type: ignore[arg-type]

    def states(self, run_id: str) -> list[dg.DagsterRunStatus]:
        """Return how a run is, and those that make its set again, oldest first."""
        runs = self.workspace.instance.get_runs()
        return [run.status for run in reversed(runs) if run_id in (run.run_id, run.root_run_id)]

    def wait_for(self, run_id: str, *states: dg.DagsterRunStatus, seconds: float = 240) -> None:
        """Wait until a run, and those that make its set again, are in these states."""

        def known() -> str:
            runs = (f"{run.run_id} {run.job_name} {run.status.value}" for run in self.workspace.instance.get_runs())
            return "\n".join(runs)

        wait_until(lambda: self.states(run_id) == [*states], f"run {run_id} in {states}", seconds, known)

    def starts(self, run_id: str) -> list[str]:
        """Return the steps of a run that have begun, in that order; one that began twice stands twice."""
        events = self.workspace.instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_START)
        return [str(event.step_key) for event in events]

    def prints(self, machine: Machine, run_id: str, event: str) -> bool:
        """Return whether a machine's worker has printed an event of a run."""
        return any(run_id in line and event in line for line in machine.text().splitlines())

    def captures(self, machine: Machine, step: str, run_id: str) -> bool:
        """Return whether a step of a run has begun on a machine."""
        return self.prints(machine, run_id, f"- {step} - STEP_START")

    def kill_task(self, machine: Machine) -> None:
        """Kill the process that executes a worker's task, as the kernel does where memory runs out."""
        tasks = [each for each in machine.started() if any("celery_worker" in word for word in each.cmdline())]
        assert tasks
        for task in tasks:
            task.kill()

    @contextlib.contextmanager
    def held(self, server: Machine, database: str) -> Iterator[None]:
        """Keep captures of a database waiting for the block."""
        with connected(self.target(server, database)) as connection, connection.transaction():
            connection.execute(b"lock table public.items in access exclusive mode")
            yield

    def messages(self, run_id: str) -> str:
        """Return what the UI shows of a run, one event a line."""
        entries = self.workspace.instance.all_logs(run_id)
        return "\n".join(f"{entry.user_message} {entry.message}" for entry in entries)

    @contextlib.contextmanager
    def slow_links(self) -> Iterator[None]:
        """Let a capture take seconds for the block."""
        for server in self.servers:
            server.limit(_SLOW)
        yield
        for server in self.servers:
            server.limit(self.size.rate)

    def copies(self) -> list[str]:
        """Return the names of the sealed sets in the vault."""
        found = self.objects.client.list_objects_v2(Bucket=_BUCKET, Prefix="site/copies/").get("Contents", [])
        return sorted(str(one["Key"]).rsplit("/", 1)[-1] for one in found if not str(one["Key"]).endswith(".refs"))

    def marker(self, server: Machine, database: str) -> str:
        """Return what only this database holds."""
        return f"{server.name}/{database}"


def settings(size: Size, recipient: str) -> str:
    """Return backup.yaml: a plan per server and one of all, whose only store is the vault."""
    lines = ["state_env: STATE_URL", "sources:"]
    for server in range(1, size.servers + 1):
        lines += [
            f"  {name}: {{kind: postgres, dsn_env: {name.upper()}_URL, tables: {{include: []}}}}"
            for name in size.sources(server)
        ]
    keys = "{access_key: TEST_S3_KEY, secret_key: TEST_S3_SECRET}"
    lines += [
        "vaults:",
        f"  offsite: {{url: 's3://{_BUCKET}/site', endpoint_env: TEST_S3_ENDPOINT, region: us-east-1,",
        f"    credentials_env: {keys}, keys_env: OFFSITE_KEYS, recipients: [{recipient}]}}",
        "plans:",
    ]
    for server in range(1, size.servers + 1):
        names = ", ".join(size.sources(server))
        lines.append(f"  p{server}: {{sources: [{names}], store: 'vault:offsite', retention: {{keep_last: 9}}}}")
    # Neighbours are on different servers.
    rows = zip(*(size.sources(server) for server in range(1, size.servers + 1)), strict=True)
    every = ", ".join(name for row in rows for name in row)
    lines.append(f"  all: {{sources: [{every}], store: 'vault:offsite', retention: {{keep_last: 9}}}}")
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def fleet(folder: Path, size: Size, spread: dict[str, str], broker: Broker = REDIS) -> Iterator[Fleet]:
    """Give a running site without workers."""
    broker.skip_where_absent()
    template = EmbeddedServer(folder / "template", programs=programs(), durable=False)
    with network(folder / "machines") as net, contextlib.ExitStack() as stack:
        stack.callback(template.remove)
        template.start()
        with connected(template.target()) as connection:
            for name in ("dagster", *(f"d{number}" for number in range(1, size.databases + 1))):
                connection.execute(f"create database {name}".encode())
                if name != "dagster":
                    with connected(template.target(name)) as filling:
                        filling.execute(_TABLE.format(rows=size.rows).encode())
        template.stop()
        (folder / "objects").mkdir()
        objects = stack.enter_context(weed_server(folder / "objects", net.address))
        objects.client.create_bucket(Bucket=_BUCKET)
        servers = [net.machine(f"s{number}", size.rate) for number in range(1, size.servers + 1)]
        site = TestSite(folder / "site")
        site.folder.mkdir()
        others = [net.machine(name) for name in ("history", "control", "broker")]
        made = Fleet(size, net, site, objects, template, servers, *others, broker, spread)
        made.start_broker()
        for machine in (*servers, made.history):
            made.start_postgres(machine)
        _write_site(made)
        made.start_control()
        stack.enter_context(mock.patch.dict(os.environ, _client_environment(made), clear=True))
        instance = stack.enter_context(dg.DagsterInstance.get())
        origin = GrpcServerTarget(host=made.control.address, port=_CODE, socket=None, location_name="backup-pipeline")
        made.workspace = stack.enter_context(WorkspaceProcessContext(instance, origin))
        yield made


def _write_site(made: Fleet) -> None:
    secret, recipient = new_identity()
    (made.site.folder / "identity.txt").write_text(secret + "\n")
    made.site.variables = dict(made.objects.options().environment or {})
    made.site.variables["STATE_URL"] = dsn(made.target(made.history, "dagster"))
    for number, server in enumerate(made.servers, 1):
        for name in made.size.sources(number):
            database = name.partition("_")[2]
            target = made.target(server, database)
            made.site.variables[f"{name.upper()}_URL"] = dsn(target)
            with connected(target) as connection:
                connection.execute(
                    f"update public.items set name = '{made.marker(server, database)}' where id = 1".encode()
                )
    made.site.write(settings(made.size, recipient))
    for command in (("vault", "init", "offsite"), ("vault", "keys", "offsite", str(made.site.folder / "keys"))):
        done = made.site.run(*command)
        assert done.code == 0, done.text


def _client_environment(made: Fleet) -> dict[str, str]:
    """Return the environment of the test's own process, which asks as the UI does."""
    home = made.site.folder / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(_HOME.replace("RUNS", str(made.size.runs)))
    own = {
        "BACKUP_PIPELINE_CONFIG": str(made.site.folder / "backup.yaml"),
        "DAGSTER_HOME": str(home),
        "OFFSITE_KEYS_FILE": str(made.site.folder / "keys"),
    }
    return made.variables() | own
