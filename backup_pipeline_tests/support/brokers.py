"""Brokers of Celery's tasks: Redis, and RabbitMQ as Debian packages it, each on a machine of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from backup_pipeline_tests.support.fleet_programs import answers, needed, wait_until
from backup_pipeline_tests.support.machines import SITE, Machine


@dataclass(frozen=True)
class Broker:
    """A kind of broker.

    Attributes:
        name: as in the names of tests.
        program: what has to be installed; Debian's package has the same name.
        port: where it listens.
        url: what follows its address in `CELERY_BROKER_URL`, and what precedes it.
        command: starts it in the foreground, with its files in SITE.
        environment: its variables beside PATH.
        files: what it reads, by name.
    """

    name: str
    program: str
    port: int
    url: tuple[str, str]
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def url_at(self, address: str) -> str:
        """Return the URL of this broker at an address."""
        before, after = self.url
        return f"{before}{address}:{self.port}{after}"

    def skip_where_absent(self) -> None:
        """Skip the test, with the remedy, where the program is not installed."""
        needed(self.program, f"apt install {self.program}")

    def start(self, machine: Machine) -> None:
        """Start it with what it was left with, and wait until it answers."""
        for name, text in self.files.items():
            (machine.folder / name).write_text(text)
        path = "/usr/sbin:/usr/bin:/sbin:/bin"
        machine.start(*self.command, environment={"PATH": path, **self.environment})
        wait_until(lambda: answers(machine.address, self.port), self.name, 120, machine.text)


REDIS = Broker(
    "Redis",
    "redis-server",
    6379,
    ("redis://", "/0"),
    (
        *("redis-server", "--bind", "0.0.0.0", "--protected-mode", "no"),
        *("--dir", str(SITE), "--appendonly", "yes", "--save", ""),
    ),
)
RABBITMQ = Broker(
    "RabbitMQ",
    "rabbitmq-server",
    5672,
    ("amqp://guest:guest@", "//"),
    # Debian's own command changes to a user that owns no folder here.
    (str(Path("/usr/lib/rabbitmq/bin/rabbitmq-server")),),
    {
        "HOME": str(SITE),
        "RABBITMQ_NODENAME": "fleet@localhost",
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": str(SITE / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(SITE / "plugins"),
        "RABBITMQ_LOG_BASE": str(SITE / "logs"),
        "RABBITMQ_MNESIA_BASE": str(SITE / "mnesia"),
    },
    # One week, as a backup may take: half an hour is what RabbitMQ allows a task that is not acknowledged.
    {"rabbitmq.conf": "loopback_users = none\nconsumer_timeout = 604800000\n"},
)
