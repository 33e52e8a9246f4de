"""Health check of a code location's container: whether it serves this site's definitions.

Dagster's own check asks only whether the server answers. It answers also when backup.yaml is wrong and nothing could be
loaded, so that nothing would ever be backed up and nobody alerted: here that is a failure.

    python -m backup_pipeline.orchestration.code_health PORT
"""

from __future__ import annotations

import sys

from dagster._api.list_repositories import sync_list_repositories_grpc
from dagster._core.errors import DagsterUserCodeProcessError, DagsterUserCodeUnreachableError
from dagster._grpc.client import DagsterGrpcClient


def what_is_wrong(port: int) -> str:
    """Return why the code location on this port of this machine serves no definitions, "" when it does."""
    try:
        served = sync_list_repositories_grpc(DagsterGrpcClient(port=port, host="127.0.0.1"))
    except DagsterUserCodeUnreachableError:
        return f"Nothing answers on port {port}."
    except DagsterUserCodeProcessError as error:
        info = error.user_code_process_error_infos[-1]
        # The innermost error says what is wrong; the outer ones where Dagster met it.
        while info.cause is not None:
            info = info.cause
        return info.message.strip()
    return "" if served.repository_symbols else "It serves no definitions."


def main() -> None:
    """Print what is wrong and end with 1, or end with 0."""
    problem = what_is_wrong(int(sys.argv[1]))
    if problem:
        sys.stdout.write(problem + "\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
