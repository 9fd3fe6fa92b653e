"""Efficiency: given events, then shares of what was granted, and honest gaps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.events import (
    Adjusted,
    Allocated,
    AnyBody,
    Event,
    Expired,
    Queued,
    Reclaimed,
    Released,
    Transferred,
    UsageRecorded,
    Withdrawn,
)
from ledger.requests import Placement, Request
from reports.efficiency import (
    Efficiency,
    efficiency_by,
    efficiency_of,
    efficiency_of_task,
    rounded_bytes,
)
from reports.seff import bytes_text, duration_text, percent_text, use_lines

S = 1_000_000_000
GIB = 1 << 30
NEVER = 1_000_000 * S


class Log:
    """A log that is written by hand, at seconds."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(
        self,
        at_s: float,
        allocation: str,
        body: AnyBody,
        *,
        task: str | None = "t",
        holder: str = "h",
        tenant: str = "default",
    ) -> None:
        at, position = int(at_s * S), len(self.events) + 1
        self.events.append(
            Event(position, at, at, tenant, "pool", allocation, holder, task, None, body)
        )

    def grant(self, at_s: float, allocation: str, amounts: dict[str, int], **more: Any) -> None:
        asked = {name: more.pop(name) for name in ("parent", "max_age_ns") if name in more}
        request = Request(amounts, ttl_ns=S, **asked)
        placements = (Placement("node", amounts, amounts),)
        self.add(at_s, allocation, Allocated(request, amounts, placements), **more)

    def use(
        self,
        since_s: float,
        until_s: float,
        allocation: str,
        used: dict[str, int],
        peak: dict[str, int] | None = None,
        gaps_s: float = 0,
        samples: int = 9,
        **more: Any,
    ) -> None:
        body = UsageRecorded(
            int(since_s * S),
            int(until_s * S),
            used,
            peak or {},
            {"memory": "pss"},
            samples,
            int(gaps_s * S),
        )
        self.add(until_s, allocation, body, **more)

    def release(self, at_s: float, allocation: str, **more: Any) -> None:
        self.add(at_s, allocation, Released("h"), **more)

    def one(self, now_s: float = 1000) -> Efficiency:
        row = efficiency_of(self.events, now=int(now_s * S))
        assert row is not None
        return row


@pytest.fixture
def log() -> Log:
    return Log()


def test_efficiency_is_used_over_granted_times_time(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 2000, "memory": 4 * GIB})
    log.use(0, 10, "A1", {"cpu": 5000, "memory": 10 * GIB}, {"memory": 2 * GIB})
    log.release(10, "A1")
    row = log.one()
    assert row.granted_seconds == {"cpu": 20_000, "memory": 40 * GIB}
    assert row.efficiency == {"cpu": 0.25, "memory": 0.25}
    assert row.peak_efficiency == {"cpu": None, "memory": 0.5}
    assert (row.held_ns, row.coverage, row.ended_by) == (10 * S, 1.0, {"released": 1})


def test_what_was_not_measured_is_none_and_never_zero(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 1000, "memory": GIB, "gpu": 1000})
    log.use(0, 10, "A1", {"cpu": 1000})
    log.release(10, "A1")
    row = log.one()
    assert row.efficiency == {"cpu": 0.1, "memory": None, "gpu": None}
    assert row.peak_efficiency == {"cpu": None, "memory": None, "gpu": None}
    assert "memory" not in row.used_seconds
    assert "memory" not in row.suggestion


def test_an_allocation_without_any_usage_has_no_efficiency_and_no_coverage(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 1000})
    log.release(10, "A1")
    row = log.one()
    assert (row.efficiency, row.coverage, row.idle_ns) == ({"cpu": None}, 0.0, None)
    assert row.to_json()["idle_s"] is None


def test_efficiency_is_of_the_measured_time_and_coverage_says_how_much_that_is(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 1000, "memory": GIB})
    log.use(0, 10, "A1", {"cpu": 5000, "memory": 5 * GIB}, {"memory": GIB})
    log.release(100, "A1")
    row = log.one()
    assert row.efficiency == {"cpu": 0.5, "memory": 0.5}
    assert row.coverage == pytest.approx(0.1)
    assert row.granted_seconds["cpu"] == 100_000


def test_a_gap_takes_memory_out_but_not_processor_time(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 1000, "memory": GIB})
    log.use(0, 10, "A1", {"cpu": 5000, "memory": 5 * GIB}, gaps_s=5)
    log.release(10, "A1")
    row = log.one()
    assert row.efficiency == {"cpu": 0.5, "memory": 1.0}
    assert row.coverage == pytest.approx(0.5)


def test_use_beyond_the_grant_is_more_than_one(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 1000, "memory": GIB})
    log.use(0, 10, "A1", {"cpu": 15_000, "memory": 20 * GIB}, {"memory": 3 * GIB})
    log.release(10, "A1")
    row = log.one()
    assert row.efficiency == {"cpu": 1.5, "memory": 2.0}
    assert row.peak_efficiency["memory"] == 3.0


def test_a_nodes_use_is_never_counted_for_each_of_its_allocations(log: Log) -> None:
    """The system that this one replaces divided a node's use by each allocation's grant, and
    reported efficiencies above 1. Here two neighbours that used half of theirs each say so."""
    for allocation in ("A1", "A2"):
        log.grant(0, allocation, {"cpu": 1000})
        log.use(0, 10, allocation, {"cpu": 5000})
    for allocation in ("A1", "A2"):
        log.release(10, allocation)
    [row] = efficiency_by(log.events, "pool", now=NEVER)
    assert row.allocations == 2
    assert row.efficiency == {"cpu": 0.5}
    assert row.granted_seconds == {"cpu": 20_000}


def test_what_draws_on_a_parent_is_not_counted_beside_it(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 2000})
    log.grant(1, "A2", {"cpu": 1000}, parent="A1")
    log.grant(1, "A3", {"cpu": 500}, parent="A2")
    log.use(1, 9, "A3", {"cpu": 4000})
    log.use(1, 9, "A2", {"cpu": 6000})
    log.use(0, 10, "A1", {"cpu": 8000})
    log.release(10, "A1")
    [row] = efficiency_by(log.events, "task", now=10 * S)
    assert (row.allocations, row.efficiency) == (1, {"cpu": 0.4})
    rows = efficiency_by(log.events, "allocation", now=10 * S)
    assert [r.key["allocation"] for r in rows] == ["A1", "A2", "A3"]


def test_a_child_of_another_task_counts_for_its_own(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 2000}, task="outer")
    log.grant(0, "A2", {"cpu": 1000}, parent="A1", task="inner")
    rows = efficiency_by(log.events, "task", now=10 * S)
    assert [(r.key["task"], r.allocations) for r in rows] == [("inner", 1), ("outer", 1)]


def test_an_adjusted_allocation_is_measured_against_what_it_held_when(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 1000})
    now = {"cpu": 3000}
    log.add(10, "A1", Adjusted(now, {"cpu": 1000}, (Placement("node", now, now),)))
    log.use(0, 10, "A1", {"cpu": 10_000})
    log.use(10, 20, "A1", {"cpu": 10_000})
    log.release(20, "A1")
    row = log.one()
    assert row.granted_seconds == {"cpu": 40_000}
    assert row.efficiency == {"cpu": 0.5}


def test_waiting_and_what_ended_it_are_told(log: Log) -> None:
    request = Request({"cpu": 1000}, ttl_ns=S)
    log.add(0, "A1", Queued(request, 100 * S, "insufficient_capacity"))
    log.grant(7, "A1", {"cpu": 1000})
    log.add(9, "A1", Expired(9 * S))
    log.grant(0, "A2", {"cpu": 1000})
    log.add(4, "A2", Reclaimed("crashed", {}, "sweep"))
    [row] = efficiency_by(log.events, "task", now=NEVER)
    assert row.wait_ns == 7 * S
    assert row.ended_by == {"expired": 1, "crashed": 1}
    assert row.held_ns == 6 * S


def test_what_was_never_granted_counts_nowhere(log: Log) -> None:
    request = Request({"cpu": 1000}, ttl_ns=S)
    log.add(0, "A1", Queued(request, 100 * S, "insufficient_capacity"))
    log.add(100, "A1", Withdrawn("timed_out", "ledger"))
    assert efficiency_by(log.events, "task", now=NEVER) == []
    assert efficiency_of_task(log.events, "t", now=NEVER) is None


def test_what_is_still_held_counts_up_to_now(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 1000})
    assert log.one(now_s=5).granted_seconds == {"cpu": 5000}


def test_a_transferred_allocation_belongs_to_whom_it_went(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 1000}, holder="one")
    log.add(5, "A1", Transferred("one", "one"), holder="two", task="other")
    log.release(10, "A1", holder="two", task="other")
    assert [r.key for r in efficiency_by(log.events, "holder", now=NEVER)] == [{"holder": "two"}]


def test_idle_time_is_recorded_time_without_processor_time(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 1000})
    log.use(0, 60, "A1", {"cpu": 30_000})
    log.use(60, 120, "A1", {"cpu": 100})
    log.release(180, "A1")
    assert log.one().idle_ns == 60 * S, "the last minute was not measured, so nobody knows"


def test_a_maximum_age_tells_how_well_the_time_was_guessed(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 1000}, max_age_ns=40 * S)
    log.release(10, "A1")
    assert log.one().time_limit_accuracy == 0.25


def test_suggestions_leave_a_fifth_and_round_up(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 8000, "memory": 64 * GIB})
    log.use(0, 10, "A1", {"cpu": 24_000, "memory": GIB}, {"memory": GIB})
    log.release(10, "A1")
    row = log.one()
    assert row.suggestion["cpu"] == 3000, "2.4 cores and a fifth, in whole cores"
    assert row.suggestion["memory"] == rounded_bytes(GIB * 6 // 5)
    assert GIB * 6 // 5 <= row.suggestion["memory"] < GIB * 13 // 10


def test_a_moment_suggests_no_processors(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 1000})
    log.use(0, 0.2, "A1", {"cpu": 10})
    assert "cpu" not in log.one().suggestion


def test_an_unknown_grouping_is_refused(log: Log) -> None:
    with pytest.raises(ValueError, match="goes by task"):
        efficiency_by(log.events, "colour", now=0)


def test_a_row_has_the_keys_of_the_contract(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 1000})
    [row] = efficiency_by(log.events, "task", now=S)
    assert set(row.to_json()) == {
        *("task", "allocations", "granted_seconds", "used_seconds", "efficiency", "peak"),
        *("peak_efficiency", "held_s", "idle_s", "wait_s", "time_limit_accuracy", "coverage"),
        *("ended_by", "suggestion"),
    }


def test_events_that_begin_in_the_middle_tell_nothing_of_what_began_before(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 1000})
    log.use(0, 10, "A1", {"cpu": 5000})
    assert efficiency_by(log.events[1:], "task", now=NEVER) == []


@given(
    st.lists(
        st.tuples(st.integers(1, 8000), st.integers(1, 100), st.integers(0, 100)),
        min_size=1,
        max_size=8,
    )
)
def test_a_group_is_the_sum_of_its_allocations(parts: list[tuple[int, int, int]]) -> None:
    log = Log()
    for number, (cpu, length, percent) in enumerate(parts):
        log.grant(0, f"A{number}", {"cpu": cpu})
        log.use(0, length, f"A{number}", {"cpu": cpu * length * percent // 100})
        log.release(length, f"A{number}")
    [row] = efficiency_by(log.events, "task", now=NEVER)
    ones = efficiency_by(log.events, "allocation", now=NEVER)
    assert row.granted_seconds["cpu"] == sum(cpu * length for cpu, length, _ in parts)
    assert row.used_seconds["cpu"] == sum(one.used_seconds["cpu"] for one in ones)
    shares = [one.efficiency["cpu"] for one in ones]
    total = row.efficiency["cpu"]
    assert total is not None
    assert min(s for s in shares if s is not None) <= total + 1e-9
    assert total <= max(s for s in shares if s is not None) + 1e-9


@given(st.integers(1, 1 << 50))
def test_rounded_bytes_are_never_less_and_little_more(amount: int) -> None:
    assert 0 <= rounded_bytes(amount) - amount < max(16 << 20, amount // 8)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.50 KiB"),
        (20 << 20, "20.0 MiB"),
        (3 << 40, "3.00 TiB"),
    ],
)
def test_bytes_are_shown_with_three_digits(amount: int, text: str) -> None:
    assert bytes_text(amount) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.5, "0.50 s"), (75, "75 s"), (7507, "2:05:07")])
def test_durations_are_shown_as_long_as_they_are(seconds: float, text: str) -> None:
    assert duration_text(int(seconds * S)) == text


def test_the_lines_say_what_was_not_measured(log: Log) -> None:
    log.grant(0, "A1", {"cpu": 1000, "memory": GIB})
    log.release(10, "A1")
    lines = use_lines(log.one())
    assert lines[0].endswith("not measured")
    assert lines[1].endswith("not measured")
    assert "0 % of the time held" in lines[2]
    assert percent_text(None) == "not measured"
