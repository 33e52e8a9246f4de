"""What a worker answers for a step that another one has done meanwhile."""

from __future__ import annotations

import dagster as dg
from dagster_shared.serdes import deserialize_value

from backup_pipeline.orchestration.celery_steps import events_of_done_steps


@dg.op(out={"left": dg.Out(), "right": dg.Out()})
def both() -> tuple[int, int]:
    return 1, 2


@dg.op
def last(left: int, right: int) -> int:
    return left + right


@dg.job
def halves() -> None:
    last(*both())


def test_a_step_that_is_done_answers_with_its_outputs_and_one_success() -> None:
    with dg.instance_for_test() as instance:
        run = halves.execute_in_process(instance=instance)
        events = [
            deserialize_value(event, dg.DagsterEvent) for event in events_of_done_steps(instance, run.run_id, ["both"])
        ]
    assert [event.event_type_value for event in events] == ["STEP_OUTPUT", "STEP_OUTPUT", "STEP_SUCCESS"]
    assert {event.step_key for event in events} == {"both"}
    assert {event.step_output_data.output_name for event in events[:2]} == {"left", "right"}
