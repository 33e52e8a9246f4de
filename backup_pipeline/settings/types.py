"""The settings as frozen typed values, with description, units and defaults.

Reading and diagnosing files is `loader`'s work. Secrets are never here: fields that end in `_env` name variables.
"""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, Union

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from backup_pipeline.model.file_name import name_fault
from backup_pipeline.settings.kinds import source_models
from backup_pipeline.settings.raw_values import FieldPath, FoundFaults

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=60)]
VaultLocation = Annotated[str, Field(pattern=r"^(vault:[A-Za-z][A-Za-z0-9_]*|(s3|gs|az|sftp|file)://.+)$")]
SourceName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=60)]
TableFormat = Literal["parquet", "jsonl", "json", "csv"]


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_tuple, json_schema_input_type=str | tuple[str, ...])]


class Settings(BaseModel):
    """Base of all settings: frozen; unknown fields are faults. The text below a field is its meaning (`field_docs`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TableSelection(Settings):
    """Which tables are exported beside the dump, and as what. Patterns are `schema.table` with `*` and `?`."""

    include: Names = ("public.*",)
    """Patterns of tables to export."""
    exclude: Names = ()
    """Patterns of tables to skip; wins over include."""
    formats: Annotated[
        tuple[TableFormat, ...],
        BeforeValidator(_as_tuple, json_schema_input_type=TableFormat | tuple[TableFormat, ...]),
    ] = ("parquet",)
    """Parquet keeps every type; for other programs JSON lines and CSV (both gzip), or json: a plain array, one file."""


NO_SUCH_DATABASE = "the server has no such database"
CORRECT_PATTERN = "Correct it in `databases: {include: …}` of backup.yaml."
"""What is wrong with a pattern that means no database, and what to do."""


class DatabaseSelection(Settings):
    """Which databases of a server are captured. Templates and databases that allow no connections never are."""

    include: Names = ("*",)
    """Names or patterns (`*`, `?`) of databases to capture."""
    exclude: Names = ()
    """Names or patterns of databases to skip; wins over include."""

    def selects(self, database: str) -> bool:
        """Return whether a database is to be captured."""
        return self.matches(self.include, database) and not self.matches(self.exclude, database)

    def unmatched(self, databases: Iterable[str]) -> list[str]:
        """Return the names and patterns of `include` that mean none of a server's databases."""
        names = list(databases)
        return [each for each in self.include if not any(self.matches((each,), name) for name in names)]

    @staticmethod
    def matches(patterns: tuple[str, ...], database: str) -> bool:
        """Return whether a database's name is among some names or patterns."""
        return any(pattern == database or fnmatch.fnmatchcase(database, pattern) for pattern in patterns)


class CollapseCheck(Settings):
    """When a table or artefact is suspiciously smaller than in the last set."""

    drop: float = Field(default=0.5, gt=0, le=1)
    """Share of rows (or bytes) that may be missing: 0.5 complains when more than half is gone."""
    severity: Literal["WARN", "ERROR"] = "WARN"
    """ERROR keeps the set from being sealed."""
    minimum_rows: int = Field(default=10, ge=0)
    """Tables that had fewer rows are not compared."""


def _time_limit(value: object) -> object:
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    if isinstance(value, str) and value[:-1].isdecimal() and len(value) < 9 and value[-1:] in units:
        value = timedelta(**{units[value[-1]]: int(value[:-1])})
    if isinstance(value, timedelta) and timedelta(0) < value <= timedelta(days=3650):
        return value
    raise ValueError("write a number above 0 and s, m, h or d, as in 30m")


_TimeLimitText = Annotated[str, Field(pattern=r"^[0-9]+[smhd]$", examples=["90s", "30m", "24h"])]
TimeLimit = Annotated[timedelta, BeforeValidator(_time_limit, json_schema_input_type=_TimeLimitText)]


def _arguments(value: object) -> object:
    return tuple(shlex.split(value)) if isinstance(value, str) else value


class Command(Settings):
    """A program that is run before or after a capture, in the folder of backup.yaml and without a shell."""

    run: Annotated[
        tuple[str, ...], BeforeValidator(_arguments, json_schema_input_type=str | tuple[str, ...]), Field(min_length=1)
    ]
    """Program and arguments: `docker compose start cdb_postgres`, or as a list."""
    timeout: TimeLimit = timedelta(minutes=5)
    """How long it may take (90s, 30m); then it is ended and has failed."""
    env: Names = ()
    """Variables of the site that it is given; it sees no others."""


def _as_commands(value: object) -> object:
    one = (value,) if isinstance(value, (str, dict, Command)) else value
    if isinstance(one, (list, tuple)):
        return tuple({"run": each} if isinstance(each, (str, list, tuple)) else each for each in one)
    return one


Commands = Annotated[
    tuple[Command, ...],
    BeforeValidator(_as_commands, json_schema_input_type=str | Command | tuple[str | tuple[str, ...] | Command, ...]),
]


@dataclass(frozen=True, slots=True)
class Connection:
    """The variables of a PostgreSQL connection.

    Attributes:
        dsn_env: those that may hold the connection string; the first that is set counts.
        user_env: that with the user, where the connection string has none.
        password_env: that with the password, where the connection string has none.
        database: the database, where it is another one of the same server than the connection string's.
        address: the connection string itself, where it holds no secret (of a member of a fleet).
    """

    dsn_env: tuple[str, ...]
    user_env: str | None = None
    password_env: str | None = None
    database: str | None = None
    address: str = ""


class SourceSettings(Settings):
    """What every kind of source has."""

    variable_fields: ClassVar[tuple[str, ...]] = ()
    # Fields that name variables; every kind lists its own.
    secret_fields: ClassVar[tuple[str, ...]] = ()
    # Those of them whose values are secret.
    run_fields: ClassVar[tuple[str, ...]] = ()
    # Fields that one run may set otherwise (`backup --include-env`).
    groups: ClassVar[Mapping[str, type[Settings]]] = {}
    # Settings of its own below its fields, each by its title in the reference.

    run_before: Commands = ()
    """Commands run before its capture, as `docker compose start cdb_postgres`; when one fails nothing is captured."""
    run_after: Commands = ()
    """Commands run after its capture, however that ended; when one fails the source has failed."""

    timeout: TimeLimit = timedelta(hours=24)
    """How long one capture of it may take in all (90s, 30m, 24h); then all that it began is ended."""
    stall_timeout: TimeLimit = timedelta(minutes=30)
    """How long work on it may make no progress: no byte moves, no statement ends, no server or program is at work."""

    after: Names = ()
    """Sources of the plan that must be captured before this one starts; when they fail it does not start.
    `SERVER/DATABASE` is one database of a source with `databases`, the source's own name all of them."""
    owners: Names = ()
    """Who answers for it (`team:ops` or an e-mail address); shown in the UI."""
    description: str = ""
    """One sentence for the UI."""
    collapse: CollapseCheck = CollapseCheck()
    """Alarm on collapsed row counts or sizes."""

    @classmethod
    def cross_field_faults(cls, source: Mapping[str, Any]) -> FoundFaults:
        """Yield what is wrong between the fields of a source as it stands in the file; paths begin below its name."""
        return iter(())

    @classmethod
    def captured_trees(cls, source: Mapping[str, Any]) -> Iterator[tuple[FieldPath, str]]:
        """Yield the folders whose whole content it captures, as written in the file, each with its field."""
        return iter(())

    @property
    def kind_name(self) -> str:
        """The kind, as in `kind:` of backup.yaml."""
        return str(getattr(self, "kind"))  # noqa: B009 - every kind narrows the field's type

    @property
    def connection(self) -> Connection | None:
        """How its PostgreSQL database is reached; None where there is none."""
        return None

    @property
    def connections_at_once(self) -> int:
        """How many connections to its database one capture holds at most at one time."""
        return 0

    @property
    def server_databases(self) -> DatabaseSelection | None:
        """Which databases of its server it stands for, each as a source of its own; None where it is one source."""
        return None

    def of_database(self, server: str, database: str) -> SourceSettings:
        """Return the settings of the source of one of them; `server` is this source's name."""
        raise NotImplementedError

    @classmethod
    def of_fleet(cls) -> type[SourceSettings]:
        """Return the model of such a source as a member of a fleet, which may have fields of its own."""
        return cls

    @property
    def served_by(self) -> str:
        """Host and port that it is captured from, as far as the settings say; "" where they do not."""
        return ""

    @property
    def names_volumes(self) -> bool:
        """Whether there is a volume that could be captured."""
        return False


_S = TypeVar("_S", bound=SourceSettings)


def check_file_name(source: _S, pattern: str | None, fields: tuple[str, ...], endings: tuple[str, ...]) -> _S:
    """Return the settings of a source whose `file_name` names what there is; raise ValueError as pydantic takes it."""
    if pattern is not None and (fault := name_fault(pattern, fields, endings)):
        raise ValueError(f"file_name: {fault}")
    return source


if TYPE_CHECKING:
    from backup_pipeline.settings.fleet import Fleet

    Source = SourceSettings


@cache
def source_kinds() -> Mapping[str, type[SourceSettings]]:
    """Return the settings' models of all kinds of sources by name, those of other packages among them.

    Raises:
        SettingsError: a package that brings a kind cannot be imported.
    """
    return source_models()


@cache
def site_settings() -> type[SiteSettings]:
    """Return the model of backup.yaml, completed with the kinds of other packages.

    They import this module themselves, so that the model is not complete before they are loaded.

    Raises:
        SettingsError: a package that brings a kind cannot be imported.
    """
    source: Any = Union[tuple(source_kinds().values())]  # noqa: UP007 - of a tuple
    source = Annotated[source, Field(discriminator="kind")]
    from backup_pipeline.settings.fleet import Fleet

    SiteSettings.model_rebuild(_types_namespace={"Source": source, "Fleet": Fleet})
    return SiteSettings


# From here on, times can no longer be counted back in the calendar.
_LONGEST = timedelta(days=36_500)


def _duration(value: object) -> object:
    units = {"h": "hours", "d": "days", "w": "weeks"}
    if isinstance(value, str) and value[:-1].isdecimal() and value[-1:] in units:
        try:
            length = timedelta(**{units[value[-1]]: int(value[:-1])})
        except OverflowError:
            length = timedelta.max
        if length > _LONGEST:
            raise ValueError("at most a hundred years, as in 36500d")
        return length
    if isinstance(value, timedelta):
        return value
    raise ValueError("write a number and h, d or w, as in 14d")


_DurationText = Annotated[str, Field(pattern=r"^[0-9]+[hdw]$", examples=["12h", "14d", "8w"])]
Duration = Annotated[timedelta, BeforeValidator(_duration, json_schema_input_type=_DurationText)]


def _some_time(value: timedelta) -> timedelta:
    if not value:
        raise ValueError("must be more than zero, or every backup is overdue as soon as it is made")
    return value


class Retention(Settings):
    """Which sets are kept, counted as restic counts: the newest set of each of the last N days, weeks, …."""

    keep_last: int = Field(default=0, ge=0)
    """The newest N sets."""
    keep_within: Duration | None = None
    """All sets younger than this (12h, 14d, 8w), counted back from the newest set."""
    keep_daily: int = Field(default=0, ge=0)
    """The newest set of each of the last N days that have one."""
    keep_weekly: int = Field(default=0, ge=0)
    """The same by ISO week."""
    keep_monthly: int = Field(default=0, ge=0)
    """The same by month."""
    keep_yearly: int = Field(default=0, ge=0)
    """The same by year."""
    keep_emergency: Duration = timedelta(days=30)
    """How long emergency sets are kept."""
    keep_incomplete: Duration | None = None
    """How long an incomplete set stays; by default as long as `keep_within` or `keep_daily` keep sets, at least 2d."""

    @property
    def incomplete_for(self) -> timedelta:
        """How long an incomplete set stays."""
        if self.keep_incomplete is not None:
            return self.keep_incomplete
        return max(timedelta(days=2), timedelta(days=self.keep_daily), self.keep_within or timedelta())


class PlanCopies(Settings):
    """Copies of a plan's sets in one vault: made when a set is sealed, with retention and schedules of their own."""

    to: Name
    """The vault, as named in `vaults`."""
    retention: Retention = Retention()
    """Which copies stay there; a policy that names nothing, as by default, keeps every copy."""
    check: str | None = None
    """Cron expression of the check of the plan's copies as they are stored; it needs no identity."""
    drill: str | None = None
    """Cron expression of the drill of the newest copy, read from the vault; it needs VAULT_IDENTITY_FILE."""


class Plan(Settings):
    """A named backup policy: which sources, when, where to, how long kept."""

    sources: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the sources it captures. `SERVER/DATABASE` is one database of a source with `databases`, the source's
    own name all of them, new ones too."""
    run_before: Commands = ()
    """Commands run before the first source."""
    run_after: Commands = ()
    """Commands run after the last source and before the set is sealed, or when the run has failed."""
    store: Annotated[VaultLocation | Path | None, Field(union_mode="left_to_right")] = None
    """Its own store; `<store>/<plan>` when absent. `vault:NAME`, or the URL of a vault, keeps its sets there alone."""
    schedule: str | None = None
    """Cron expression of the backup."""
    verify: str | None = None
    """Cron expression of the verification of all sets."""
    drill: str | None = None
    """Cron expression of the drill of the newest set."""
    retention: Retention = Retention(keep_last=30)
    """What is kept."""
    copies: tuple[PlanCopies, ...] = ()
    """Vaults that every sealed set of the plan is copied into: `[{to: offsite, retention: {keep_daily: 30}}]`."""
    ping_env: str | None = None
    """Variable with the URL of a dead-man's-switch (healthchecks.io's protocol)."""
    overdue_after: Annotated[Duration, AfterValidator(_some_time)] | None = None
    """When a missing set is an incident; from the schedule when absent."""
    wait_seconds: float = Field(default=30.0, ge=0)
    """How long a run waits for another run of the plan before it refuses."""
    parallel_sources: int = Field(default=2, ge=1, le=32)
    """How many of its sources are captured at one time, each as far as its `after` allows."""
    timeout: TimeLimit = timedelta(hours=24)
    """How long one backup of the plan may take in all, and each verification, drill, restore or undo of its sets."""


class Alerts(Settings):
    """Where alerts go."""

    urls_env: Names = ()
    """Variables with Apprise URLs (mail, Slack, ntfy, …), several separated by spaces."""
    ui_url_env: str | None = None
    """Variable with the address of the Dagster UI, for links."""


class Browse(Settings):
    """What of a set's content the pages show and hand out; each access is logged in `access_log.txt` beside them."""

    rows: bool = True
    """Whether rows of tables and contents of files are shown at all."""
    although_secret: Names = ()
    """What is shown though its name sounds secret: `schema.table`, `schema.table.column`, paths; with `*` and `?`."""


class EmbeddedPostgres(Settings):
    """A PostgreSQL server of the site's own, started when it is needed."""

    data: Path
    """Folder of the server."""
    port: int | None = Field(default=None, gt=0, lt=65536)
    """TCP port on 127.0.0.1; a free one when absent."""


class Vault(Settings):
    """A place off the machine for encrypted copies of sealed sets."""

    url: str = Field(pattern=r"^(s3|gs|az|sftp|file)://")
    """Where it is: `s3://bucket/prefix`, `gs://…`, `az://…`, `sftp://user@host/path`, `file:///mnt/nas/backups`."""
    endpoint_env: str = ""
    """Variable with the address of an S3-compatible service."""
    region: str = ""
    """Region of an S3 bucket."""
    credentials_env: dict[str, str] = {}
    """Variables with the credentials, as in `{access_key: OFFSITE_ACCESS_KEY, secret_key: OFFSITE_SECRET_KEY}`."""
    keys_env: str = ""
    """Variable with what a machine that writes there keeps, for workers whose folders do not last (`vault keys`)."""
    recipients: Names = ()
    """age's public keys (`age1…`) that copies are encrypted to; their identities are kept elsewhere."""
    encryption: Literal["age", "none"] = "age"
    """none keeps copies in plain text; without recipients nothing else does."""
    signers: Names = ()
    """Public keys (`ed25519:…`) of other machines whose copies count, too."""
    lock_days: int = Field(default=0, ge=0, le=3650)
    """For how long the storage itself shall forbid to delete what is written; 0 leaves that to its own default."""
    lock_mode: Literal["COMPLIANCE", "GOVERNANCE"] = "COMPLIANCE"
    """Of S3's Object Lock: COMPLIANCE lets nobody shorten a lock, GOVERNANCE people with a right of their own."""
    megabytes_per_second: float = Field(default=0.0, ge=0)
    """Limit of what is sent; 0 is none."""
    path_style: bool = True
    """false puts the bucket of S3 into the host's name, as a few services want it."""
    checksums: bool = True
    """false sends no SHA-256 with objects to S3: a few old services refuse it, buckets with Object Lock ask for it."""
    conditional_create: bool = True
    """false where a service cannot create only what is absent; one machine alone may write to such a vault."""
    key_file: Path | None = None
    """Private key for SFTP; by default the keys in ~/.ssh."""
    known_hosts: Path | None = None
    """Host keys for SFTP; by default ~/.ssh/known_hosts."""
    off_site: bool | None = None
    """Whether it is in another building; by default every place but a folder and a server on this machine."""


class SiteSettings(Settings):
    """All of backup.yaml: `sources` and `plans`, or `fleets`, or all of them."""

    store: Path = Path("backups")
    """Folder of all plans' stores; relative paths count from backup.yaml."""
    sources: dict[SourceName, Source] = {}
    """What to protect, by name."""
    plans: dict[Name, Plan] = {}
    """Backup policies, by name."""
    fleets: dict[Name, Fleet] = {}
    """Many sources by one template, by name."""
    vaults: dict[Name, Vault] = {}
    """Places off the machine for copies of sets, by name."""
    state_env: Names = ()
    """For workers that share no disk: variables with the address of a PostgreSQL database that keeps what is known."""
    timezone: str = "UTC"
    """IANA name of the time zone of schedules and retention."""
    browse: Browse = Browse()
    """What of sets the pages show."""
    alerts: Alerts = Alerts()
    """Where alerts go."""
    schemas: Path | None = None
    """Folder with pandera schemas of the site's own (YAML or Python), named `<source>.<schema>.<table>`."""
    table_assets: int = Field(default=100, ge=0, le=1000)
    """Up to so many tables of a source are assets of their own in Dagster; the tables of a source with more are one."""
    embedded_postgres: EmbeddedPostgres | None = None
    """For laptops and the demo: a PostgreSQL server that comes and goes with the work."""
    environment: str = Field(default="", max_length=60)
    """Which environment this is (`production`, `staging`, …); recorded in every manifest and shown."""
    file_mode: str = Field(default="0600", pattern=r"^0[0-7]{3}$")
    """Mode of all files in stores: sets, locks, logs, proofs. The process's umask does not narrow it."""
    folder_mode: str = Field(default="0700", pattern=r"^0[0-7]{3}$")
    """Mode of all folders in stores."""
