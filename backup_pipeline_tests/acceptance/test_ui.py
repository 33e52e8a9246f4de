"""What people do in the UI, asked of the real webserver, daemon and code location."""

from __future__ import annotations

import pytest

from backup_pipeline.model.backup_set import SetState
from backup_pipeline_tests.acceptance.conftest import Served

REEXECUTE = """
mutation ($parent: String!) {
  launchRunReexecution(reexecutionParams: {parentRunId: $parent, strategy: FROM_FAILURE}) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on PresetNotFoundError { message }
    ... on ConflictingExecutionParamsError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
LAUNCH = """
mutation ($job: String!) {
  launchRun(executionParams: {
    selector: {repositoryLocationName: "backup-pipeline", repositoryName: "__repository__", jobName: $job},
    runConfigData: {}
  }) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}
"""


@pytest.mark.story
@pytest.mark.takes(seconds=30, together="ui")
def test_the_ui_backs_up_and_re_executes_from_failure_into_the_same_set(served: Served) -> None:
    site, ui, failed = served.site, served.ui, served.failed
    assert failed["sealed"] is False
    answer = ui.ask(REEXECUTE, parent=failed["run_id"])["launchRunReexecution"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    assert ui.wait_for_run(answer["run"]["runId"]) == "SUCCESS"
    (known,) = site.store("nightly").sets()
    assert known.set_id == failed["set"]
    assert known.state is SetState.COMPLETE

    answer = ui.ask(LAUNCH, job="nightly_backup")["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    assert ui.wait_for_run(answer["run"]["runId"]) == "SUCCESS"
    assert len(site.store("nightly").sealed_ids()) == 2
    log = (site.folder / "up.log").read_text()
    assert not any(value in log for name, value in site.variables.items() if "PASSWORD" in name)
