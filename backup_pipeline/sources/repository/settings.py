"""Settings of a source of the kind `repository`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from backup_pipeline.settings.raw_values import FieldPath, names_in
from backup_pipeline.settings.types import Names, SourceSettings, check_file_name


class RepositorySource(SourceSettings):
    """A git repository."""

    run_fields: ClassVar[tuple[str, ...]] = ("include_env", "include_volumes")

    kind: Literal["repository"]
    path: Path
    """The working tree or bare repository."""
    file_name: str = "{source}_repo_{time:%Y-%m-%d_%H%M}_{commit}.zip"
    """Name of the ZIP, in the site's time zone; may hold `{branch}` and folders."""
    include_env: bool = False
    """Also capture `.env`, which holds secrets."""
    volumes: tuple[Path, ...] = ()
    """Folders outside git to capture with it, named one by one."""
    docker_volumes: Names = ()
    """Docker's named volumes to capture with it (`docker volume ls`), read through its client."""
    include_volumes: bool = True
    """Whether the volumes are captured; `backup --include-volumes` and `--no-include-volumes` decide it for one run."""

    @classmethod
    def captured_trees(cls, source: Mapping[str, Any]) -> Iterator[tuple[FieldPath, str]]:
        """Yield the volumes that are folders."""
        for index, volume in enumerate(names_in(source.get("volumes"))):
            yield ("volumes", index), volume

    @property
    def names_volumes(self) -> bool:
        """Whether there is a volume that could be captured."""
        return bool(self.volumes or self.docker_volumes)

    @property
    def captured_volumes(self) -> tuple[Path, ...]:
        """The folders that are captured with it."""
        return self.volumes if self.include_volumes else ()

    @property
    def captured_docker_volumes(self) -> tuple[str, ...]:
        """The named volumes that are captured with it."""
        return self.docker_volumes if self.include_volumes else ()

    @model_validator(mode="after")
    def _zip_name(self) -> RepositorySource:
        return check_file_name(self, self.file_name, ("source", "commit", "branch"), (".zip",))
