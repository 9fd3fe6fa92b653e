"""Simulations with lifetimes: who waits, holds and leaves when, and that nobody is lost on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.requests import NodeSpec, Request
from reports.simulate.jobs import Job, cut, hastened, jobs_of
from reports.simulate.lifetimes import SERIES_MAX, Simulation
from reports.simulate.openb import read_pods
from reports.simulate.traces import SECOND

TWO = [NodeSpec("n1", {"cpu": 2000}), NodeSpec("n2", {"cpu": 2000})]
HEAD = (
    "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,"
    "creation_time,deletion_time,scheduled_time\n"
)


def job(name: str, arrived: float, lasts: float | None, cpu: int = 2000) -> Job:
    lasts_ns = None if lasts is None else int(lasts * SECOND)
    return Job(name, Request({"cpu": cpu}), int(arrived * SECOND), lasts_ns)


def test_a_request_waits_for_room_and_lasts_from_its_grant_on() -> None:
    jobs = [job("a", 0, 100), job("b", 0, 50), job("c", 10, 30), job("d", 20, 5), job("e", 200, 1)]
    course = Simulation(TWO, jobs, "first_fit").run()
    # c is granted when b leaves at 50, d when c leaves at 80.
    assert sorted(course.waits_s) == [0, 0, 0, 40, 60]
    assert (course.granted, course.waited, course.waiting_s) == (5, 2, [])
    # 2 cpu × (100 + 50 + 30 + 5) s of 4 cpu × 200 s.
    assert course.used == {"cpu": pytest.approx(2 * 185 / 800, abs=1e-6)}


def test_who_may_not_wait_is_refused_and_who_waits_too_long_leaves() -> None:
    jobs = [job("a", 0, 100), job("b", 0, 100), job("c", 10, 30), job("d", 150, 1)]
    refused = Simulation(TWO, jobs, "first_fit", wait_ns=0).run()
    assert sum(refused.refused.values()) == 1
    gone = Simulation(TWO, jobs, "first_fit", wait_ns=20 * SECOND).run()
    assert (gone.waited, gone.timed_out, gone.granted) == (1, 1, 3)


def test_each_of_many_equal_refusals_is_counted() -> None:
    """The ledger writes down the same refusal only once a second."""
    jobs = [job(str(i), 0, 100) for i in range(9)]
    course = Simulation(TWO, jobs, "first_fit", wait_ns=0).run()
    assert course.granted == 2
    assert course.refused == {"insufficient_capacity": 7}


def test_a_place_that_runs_out_lets_the_next_one_in_at_that_very_time() -> None:
    one = [NodeSpec("n", {"cpu": 2000})]
    # b stands before c in a strict queue, gives up at 30, and c fits from then on.
    jobs = [
        job("a", 0, 1000, cpu=1000),
        job("b", 10, 5),
        job("c", 15, 5, cpu=1000),
        job("d", 900, 1, cpu=1000),
    ]
    course = Simulation(one, jobs, "first_fit", wait_ns=20 * SECOND, policy={"order": "fifo"}).run()
    assert course.timed_out == 1
    assert sorted(course.waits_s) == [0, 0, 15]


def test_less_than_a_second_counts() -> None:
    one = [NodeSpec("n", {"cpu": 2000})]
    jobs = [job("a", 0, 0.75), job("b", 0.5, 0.75), job("c", 1, 0.75), job("d", 4, 1)]
    course = Simulation(one, jobs, "first_fit").run()
    assert sorted(course.waits_s) == [0, 0, 0.25, 0.5]
    assert course.used == {"cpu": pytest.approx(2.25 / 4, abs=1e-6)}
    gone = Simulation(one, jobs, "first_fit", wait_ns=SECOND * 2 // 5).run()
    # b begins at 0.75 and ends at 1.5; c would have to wait for half a second.
    assert (gone.granted, gone.timed_out) == (3, 1)


def test_who_still_waits_at_the_end_is_told_apart_from_who_was_granted() -> None:
    jobs = [job("a", 0, None), job("b", 0, None), job("c", 10, 1), job("d", 30, 1)]
    course = Simulation(TWO, jobs, "first_fit").run()
    assert sorted(course.waits_s) == [0, 0]
    assert sorted(course.waiting_s) == [0, 20]
    document = course.to_json()
    assert (document["waiting_at_end"], document["waiting_s_max"]) == (2, 20)


def test_what_can_never_fit_is_refused() -> None:
    course = Simulation(TWO, [job("a", 0, 1, cpu=9000), job("b", 1, 1)], "best_fit").run()
    assert course.refused == {"exceeds_pool": 1}
    assert course.granted == 1


def test_a_trace_longer_than_any_lease_is_refused() -> None:
    year = 365 * 86_400
    with pytest.raises(ValueError, match="11 years lie between the first arrival and the last"):
        Simulation(TWO, [job("a", 0, None), job("b", 11 * year, 1)], "first_fit")
    jobs = [job("a", 0, None), job("b", 9 * year, 1), job("c", 9 * year + 1, 1)]
    course = Simulation(TWO, jobs, "first_fit").run()
    # a holds to the end, also after nine years: c finds b's node free, and nothing has run out.
    assert (course.granted, course.waited, course.timed_out) == (3, 0, 0)


JOBS = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.none() | st.integers(0, 30),
        st.sampled_from([500, 1000, 1500, 2000, 2500]),
    ),
    min_size=1,
    max_size=25,
)


@given(
    JOBS,
    st.sampled_from([None, 0, 3, 10]),
    st.sampled_from(["fair", "fifo"]),
    st.sampled_from(["first_fit", "best_fit", "random", "fragmentation_aware"]),
)
def test_every_request_is_granted_refused_timed_out_or_waiting(
    asked: list[tuple[int, int | None, int]], wait: int | None, order: str, strategy: str
) -> None:
    jobs = [job(str(i), a, lasts, cpu) for i, (a, lasts, cpu) in enumerate(sorted(asked, key=str))]
    jobs.sort(key=lambda each: each.arrived_ns)
    wait_ns = None if wait is None else wait * SECOND
    course = Simulation(TWO, jobs, strategy, wait_ns=wait_ns, policy={"order": order}).run()
    refused = sum(course.refused.values())
    assert course.granted + refused + course.timed_out + len(course.waiting_s) == len(jobs)
    assert len(course.waits_s) == course.granted
    assert course.refused.get("exceeds_pool", 0) == sum(cpu > 2000 for _, _, cpu in asked)
    if wait is not None:
        assert all(waited <= wait for waited in course.waits_s)


@given(JOBS, st.sampled_from([None, 0, 4]))
def test_a_strict_queue_serves_as_one_written_down_by_hand(
    asked: list[tuple[int, int | None, int]], wait: int | None
) -> None:
    asked = sorted(asked, key=lambda each: each[0])
    jobs = [job(str(i), *each) for i, each in enumerate(asked)]
    wait_ns = None if wait is None else wait * SECOND
    policy = {"order": "fifo"}
    course = Simulation(TWO, jobs, "first_fit", wait_ns=wait_ns, policy=policy).run()
    assert sorted(course.waits_s) == sorted(_by_hand(asked, wait))


def _by_hand(asked: list[tuple[int, int | None, int]], wait: int | None) -> list[float]:
    """The waits of a strict queue over two nodes of 2 cpu, second by second."""
    free = [2000, 2000]
    held: list[tuple[int, int, int]] = []
    queue: list[tuple[int, int | None, int]] = []
    waits: list[float] = []

    def serve(now: int) -> None:
        while queue:
            arrived, lasts, cpu = queue[0]
            node = next((i for i, left in enumerate(free) if left >= cpu), None)
            if node is None:
                return
            queue.pop(0)
            free[node] -= cpu
            waits.append(now - arrived)
            if lasts is not None:
                held.append((now + lasts, node, cpu))

    for now in range(asked[-1][0] + 1):
        if wait:
            for over in [each for each in queue if each[0] + wait <= now]:
                queue.remove(over)
                serve(now)
        arriving = [each for each in asked if each[0] == now and each[2] <= 2000]
        for each in [None, *arriving]:
            # Those who are over leave before anybody comes; who held for no time at all, too.
            while over_now := [each for each in held if each[0] <= now]:
                held.remove(over_now[0])
                free[over_now[0][1]] += over_now[0][2]
                serve(now)
            if each is not None:
                queue.append(each)
                serve(now)
                if wait == 0 and each in queue:
                    queue.remove(each)
    return waits


def test_a_series_tells_what_was_in_use_over_time() -> None:
    nodes = [NodeSpec("n1", {"cpu": 4000, "gpu": 1000})]
    jobs = [
        Job("a", Request({"cpu": 1000, "gpu": 500}), 0, 500 * SECOND),
        Job("b", Request({"cpu": 1000}), 1000 * SECOND, 1),
    ]
    course = Simulation(nodes, jobs, "fragmentation_aware").run()
    by_second = {sample.at_s: sample.used["gpu"] for sample in course.samples}
    assert by_second[495] == 0.5
    assert by_second[505] == 0
    assert all(sample.fragmented is not None for sample in course.samples)
    assert course.to_json()["series"][0]["utilization"] == {"cpu": 0.25, "gpu": 0.5}


@pytest.mark.parametrize("last", [0, 1, 199, 201, 399])
def test_a_series_is_no_longer_than_it_may_be(last: int) -> None:
    course = Simulation(TWO, [job("a", 0, 1), job("b", last, 1)], "first_fit").run()
    assert SERIES_MAX / 2 * bool(last) <= len(course.samples) <= SERIES_MAX


# --- from a trace to jobs ------------------------------------------------------------------------


def pods(folder: Path, *times: str, head: str = HEAD) -> Path:
    path = folder / "pods.csv"
    lines = (f"p-{i},1000,256,0,0,,{each}\n" for i, each in enumerate(times))
    path.write_text(head + "".join(lines))
    return path


def test_a_job_holds_for_as_long_as_it_was_served_not_for_as_long_as_it_was_there(
    tmp_path: Path,
) -> None:
    jobs, _ = jobs_of(read_pods(pods(tmp_path, "10,100,70")))
    assert [(j.arrived_ns, j.lasts_ns) for j in jobs] == [(10 * SECOND, 30 * SECOND)]


def test_who_was_never_served_would_hold_for_the_usual_time(tmp_path: Path) -> None:
    path = pods(tmp_path, "0,20,10", "1,5000,", "2,50,20", "3,1003,3", "4,,", "5,,6", ",9,7")
    jobs, assumed = jobs_of(read_pods(path))
    seconds = [None if j.lasts_ns is None else j.lasts_ns // SECOND for j in jobs]
    # Served were 10, 30, 1000 and 2 s; p-1 and p-4 never, and p-5 has no end.
    assert seconds == [10, 10, 30, 1000, 10, None]
    assert (assumed.without_a_time, assumed.without_an_end, assumed.never_ran) == (1, 1, 2)
    assert assumed.typical_ns == 10 * SECOND


def test_where_nobody_was_served_they_hold_for_as_long_as_they_were_there(tmp_path: Path) -> None:
    jobs, assumed = jobs_of(read_pods(pods(tmp_path, "1,6,", "2,,")))
    assert [j.lasts_ns for j in jobs] == [5 * SECOND, None]
    assert (assumed.never_ran, assumed.typical_ns) == (2, None)


def test_a_table_without_the_times_of_scheduling_says_of_nobody_that_it_never_ran(
    tmp_path: Path,
) -> None:
    head = HEAD.replace(",scheduled_time", "")
    jobs, assumed = jobs_of(read_pods(pods(tmp_path, "1,6", "2,", ",", head=head)))
    assert [(j.arrived_ns // SECOND, j.lasts_ns) for j in jobs] == [(1, 5 * SECOND), (2, None)]
    assert (assumed.without_a_time, assumed.without_an_end, assumed.never_ran) == (1, 1, 0)


def test_a_part_of_the_nodes_is_taken_evenly() -> None:
    nodes = [NodeSpec(f"n{i}", {"cpu": 1}) for i in range(10)]
    assert [spec.name for spec in cut(nodes, 0.3)] == ["n3", "n6", "n9"]
    assert cut(nodes, 1) == nodes
    # 0.29 × 100 is a little less than 29 in binary fractions.
    assert len(cut(nodes * 10, 0.29)) == 29
    with pytest.raises(ValueError, match="between 0 and 1"):
        cut(nodes, 0)


def test_hastened_arrivals_last_as_long_as_before() -> None:
    jobs = [job("a", 100, 7), job("b", 200, 8)]
    got = [(j.arrived_ns // SECOND, (j.lasts_ns or 0) // SECOND) for j in hastened(jobs, 4)]
    assert got == [(100, 7), (125, 8)]


@pytest.mark.parametrize("speedup", [0, -1, float("nan"), float("inf"), 1e-300])
def test_a_speed_up_without_sense_is_refused(speedup: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        hastened([job("a", 100, 7)], speedup)
