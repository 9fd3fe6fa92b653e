"""Samples into aggregates: sums balance, gaps are counted, unknown is not zero."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.processes.tree import TreeSample
from scheduler.processes.usage import NS_PER_S, UsageAggregate, UsageAggregator

S = NS_PER_S


def sample(at_s: float, cpu_s: float, memory: int, gpu: int | None = None) -> TreeSample:
    return TreeSample(round(at_s * S), round(cpu_s * S), memory, "pss", 1, gpu)


def run(samples: list[TreeSample], end_s: float, interval_s: int = 1) -> list[UsageAggregate]:
    aggregator = UsageAggregator(0, interval_s * S)
    made = [aggregate for each in samples if (aggregate := aggregator.add(each)) is not None]
    last = aggregator.finish(round(end_s * S))
    return made if last is None else [*made, last]


def test_a_short_run_gives_one_aggregate_with_peak_and_integral() -> None:
    [only] = run([sample(1, 0.5, 100), sample(2, 1.5, 300), sample(4, 2, 200)], 4)
    assert only == UsageAggregate(
        since_ns=0,
        until_ns=4 * S,
        cpu_ns=2 * S,
        memory_peak_bytes=300,
        memory_byte_s=100 + 200 + 500,  # held, then two trapezoids
        memory_kind="pss",
        samples=3,
        gaps_ns=0,
    )


def test_one_aggregate_a_minute_and_one_at_the_end() -> None:
    made = run([sample(s, s / 2, 10) for s in range(1, 151)], 151)
    assert [(each.since_ns // S, each.until_ns // S) for each in made] == [
        (0, 60),
        (60, 120),
        (120, 151),
    ]
    assert [each.cpu_ns for each in made] == [30 * S, 30 * S, 15 * S]
    assert [each.memory_byte_s for each in made] == [600, 600, 310]


def test_late_samples_leave_a_gap_that_no_memory_is_invented_for() -> None:
    [only] = run([sample(1, 1, 100), sample(21, 9, 100), sample(22, 9, 100)], 22)
    assert only.gaps_ns == 20 * S
    assert only.memory_byte_s == 200
    assert only.cpu_ns == 9 * S


def test_exactly_five_intervals_are_not_late_yet() -> None:
    [only] = run([sample(5, 0, 1), sample(10, 0, 1)], 10)
    assert (only.gaps_ns, only.memory_byte_s) == (0, 10)


def test_without_any_sample_nothing_is_known_and_all_is_gap() -> None:
    [only] = run([], 30)
    assert (only.cpu_ns, only.memory_peak_bytes, only.memory_byte_s) == (None, None, None)
    assert (only.memory_kind, only.samples, only.gaps_ns) == (None, 0, 30 * S)


def test_no_time_and_no_sample_give_no_aggregate() -> None:
    assert run([], 0) == []
    assert len(run([sample(60, 1, 1)], 60)) == 1


def test_the_time_after_the_last_sample_keeps_its_memory_and_claims_no_processor_time() -> None:
    made = run([*(sample(s, s, 8) for s in range(1, 61))], 62)
    assert made[-1].memory_byte_s == 16
    assert (made[-1].cpu_ns, made[-1].samples, made[-1].gaps_ns) == (None, 0, 0)


def test_one_sample_of_rss_makes_the_aggregate_rss() -> None:
    aggregator = UsageAggregator(0, S)
    aggregator.add(TreeSample(S, 0, 5, "rss", 1))
    aggregator.add(sample(2, 0, 5))
    last = aggregator.finish(2 * S)
    assert last is not None
    assert last.memory_kind == "rss"


def test_an_unknown_start_counts_processor_time_from_the_first_sample() -> None:
    aggregator = UsageAggregator(0, S, cpu_start_ns=None)
    aggregator.add(sample(1, 100, 1))
    aggregator.add(sample(2, 103, 1))
    last = aggregator.finish(2 * S)
    assert last is not None
    assert last.cpu_ns == 3 * S


def test_a_single_sample_with_an_unknown_start_tells_no_processor_time() -> None:
    aggregator = UsageAggregator(0, S, cpu_start_ns=None)
    aggregator.add(sample(1, 100, 1))
    last = aggregator.finish(S)
    assert last is not None
    assert last.cpu_ns is None


def test_a_clock_set_back_takes_no_time_and_keeps_processor_time() -> None:
    [only] = run([sample(3, 1, 10), sample(2, 2, 99), sample(4, 3, 10)], 4)
    assert (only.since_ns, only.until_ns, only.cpu_ns) == (0, 4 * S, 3 * S)
    assert only.memory_peak_bytes == 99


def test_memory_of_cards_is_aggregated_where_it_was_measured() -> None:
    [only] = run([sample(1, 0, 1, 40), sample(2, 0, 1, 60)], 2)
    assert (only.gpu_memory_peak_bytes, only.gpu_memory_byte_s) == (60, 90)


@pytest.mark.parametrize(("interval", "period"), [(0, 1), (1, 0), (-1, 1)])
def test_intervals_have_to_be_positive(interval: int, period: int) -> None:
    with pytest.raises(ValueError, match="above 0"):
        UsageAggregator(0, interval, period_ns=period)


steps = st.lists(
    st.tuples(st.integers(1, 8 * S), st.integers(0, 2 * S), st.integers(0, 2**45)),
    min_size=1,
    max_size=40,
)


@given(steps)
def test_aggregates_cover_all_time_once_and_add_up(steps: list[tuple[int, int, int]]) -> None:
    samples, at, cpu = [], 0, 0
    for elapsed, used, memory in steps:
        at, cpu = at + elapsed, cpu + used
        samples.append(TreeSample(at, cpu, memory, "pss", 1))
    made = run(samples, at / S)
    end = made[-1].until_ns
    assert made[0].since_ns == 0
    assert end >= at
    assert all(one.until_ns == two.since_ns for one, two in pairwise(made))
    assert sum(each.cpu_ns or 0 for each in made) == cpu
    assert sum(each.samples for each in made) == len(samples)
    assert max(each.memory_peak_bytes or 0 for each in made) == max(m for _, _, m in steps)
    gaps = sum(elapsed for elapsed, _, _ in steps if elapsed > 5 * S)
    assert sum(each.gaps_ns for each in made) == gaps
    doubled, before = 0, steps[0][2]
    for elapsed, _, memory in steps:
        doubled += 0 if elapsed > 5 * S else (before + memory) * elapsed
        before = memory
    total = sum(each.memory_byte_s or 0 for each in made)
    assert 0 <= doubled / (2 * S) - total < 2 + before * (end - at) / S
    assert all((each.memory_byte_s or 0) < 2**63 for each in made)
