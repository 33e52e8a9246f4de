"""Members of a fleet begin in their order, within the limits and the window; nothing is begun that would overrun."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from backup_pipeline.rules.fleet_order import Admission, FleetLimits, Turn, WaitingMember

OPENED = datetime(2026, 11, 27, 22, tzinfo=UTC)
CLOSES = OPENED + timedelta(hours=6)


def begun(admission: Admission, now: datetime = OPENED) -> list[str]:
    found = []
    while (one := admission.begin(now)) is not None:
        found.append(one.plan)
    return found


def test_postponed_ones_come_first_then_failed_then_the_oldest() -> None:
    waiting = [
        WaitingMember("new", "a", "n", last_good=OPENED),
        WaitingMember("old", "b", "n", last_good=OPENED - timedelta(days=2)),
        WaitingMember("never", "c", "n"),
        WaitingMember("failed", "d", "n", Turn.FAILED, OPENED),
        WaitingMember("postponed", "e", "n", Turn.POSTPONED, OPENED),
    ]
    assert begun(Admission(waiting, FleetLimits(9, 1), OPENED, None)) == ["postponed", "failed", "never", "old", "new"]


def test_one_server_and_one_network_have_their_limits() -> None:
    waiting = [WaitingMember(f"m{n}", f"server{n % 2}", "net", last_good=OPENED) for n in range(6)]
    assert begun(Admission(waiting, FleetLimits(9, 2), OPENED, CLOSES)) == ["m0", "m1", "m2", "m3"]
    admission = Admission(waiting, FleetLimits(9, 2, 3), OPENED, CLOSES)
    assert begun(admission) == ["m0", "m1", "m2"]
    admission.end("m1")
    assert begun(admission) == ["m3"]


def test_nothing_is_begun_that_would_run_beyond_the_window() -> None:
    waiting = [
        WaitingMember("long", "a", "n", expected=timedelta(hours=2)),
        WaitingMember("longer than the window", "b", "n", expected=timedelta(hours=9)),
        WaitingMember("unknown", "c", "n"),
    ]
    limits = FleetLimits(9, 9)
    assert begun(Admission(waiting, limits, OPENED, CLOSES)) == ["long", "longer than the window", "unknown"]
    late = Admission(waiting, limits, OPENED, CLOSES)
    assert begun(late, CLOSES - timedelta(hours=1)) == ["unknown"]
    assert late.is_over(CLOSES - timedelta(hours=1))
    closed = Admission(waiting, limits, OPENED, CLOSES)
    assert (begun(closed, CLOSES), closed.is_over(CLOSES), len(closed.waiting)) == ([], True, 3)


@given(
    members=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=30),
    limits=st.tuples(st.integers(1, 5), st.integers(1, 3), st.none() | st.integers(1, 4)),
    choices=st.randoms(use_true_random=False),
)
def test_no_order_of_ends_breaks_a_limit_or_forgets_a_member(
    members: list[tuple[int, int]], limits: tuple[int, int, int | None], choices: object
) -> None:
    parallel, per_server, per_network = limits
    waiting = [WaitingMember(f"m{n}", f"s{server}", f"n{net}") for n, (server, net) in enumerate(members)]
    by_plan = {one.plan: one for one in waiting}
    admission = Admission(waiting, FleetLimits(parallel, per_server, per_network), OPENED, CLOSES)
    running: list[str] = []
    seen: list[str] = []
    while True:
        new = begun(admission)
        running += new
        seen += new
        assert len(running) <= parallel
        servers = [by_plan[plan].server for plan in running]
        networks = [by_plan[plan].network for plan in running]
        assert all(servers.count(each) <= per_server for each in servers)
        assert per_network is None or all(networks.count(each) <= per_network for each in networks)
        if not running:
            break
        ended = running.pop(choices.randrange(len(running)))  # type: ignore[attr-defined]
        admission.end(ended)
    assert sorted(seen) == sorted(by_plan)
