"""Deadlines of one backup after the other are those of each by itself, also where clocks are changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from backup_pipeline.rules.overdue import Deadlines, grace_of, next_time

SCHEDULES = ("0 2 * * *", "30 2 * * *", "0 * * * *", "*/20 1-3 * * *", "0 22 * * 5", "0 0 29 2 *", "15 */3 * 3,10 *")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe")
BEGIN = datetime(2026, 3, 6, tzinfo=UTC)
MOMENTS = st.lists(
    st.integers(0, 248 * 86400).map(lambda seconds: BEGIN + timedelta(seconds=seconds)), min_size=1, max_size=8
)


@given(
    schedule=st.sampled_from(SCHEDULES),
    zone=st.sampled_from(ZONES),
    moments=MOMENTS,
    gaps=st.lists(st.integers(0, 9000), max_size=6),
    ascending=st.booleans(),
)
def test_deadlines_in_a_row_are_those_of_each_moment_by_itself(
    schedule: str, zone: str, moments: list[datetime], gaps: list[int], ascending: bool
) -> None:
    for gap in gaps:
        moments.append(moments[-1] + timedelta(seconds=gap))
    deadlines = Deadlines(schedule, zone)
    for moment in sorted(moments) if ascending else moments:
        due = next_time(schedule, zone, moment)
        assert deadlines.after(moment) == due + grace_of(schedule, zone, due)
