"""Comparing strategies: what a roll-out's grants came to beside the rest."""

from __future__ import annotations

import pytest

from ledger.commands import SetPolicy
from reports.compare import compare
from tests.scenario import SECOND, Scenario


def test_the_strategies_of_a_rollout_stand_beside_each_other() -> None:
    s = Scenario()
    s.pool(policy={"order": "fair"}, n1={"cpu": 4000}, n2={"cpu": 2000})
    held = s.got({"cpu": 2000}, strategy="best_fit")
    s.got({"cpu": 4000}, strategy="first_fit")
    waiting = s.waits({"cpu": 1000}, strategy="best_fit")
    s.later(9).release(held)
    rows = {row["strategy"]: row for row in compare(s.events, now=s.now)}
    assert set(rows) == {"best_fit", "first_fit"}
    assert (rows["best_fit"]["granted"], rows["best_fit"]["waited"]) == (2, 1)
    assert rows["best_fit"]["wait_s_median"] == rows["best_fit"]["wait_s_max"] == 10.0
    assert rows["best_fit"]["ended_by"] == {"released": 1}
    assert rows["first_fit"]["wait_s_median"] is None
    assert rows["first_fit"]["nodes"] == 1
    assert waiting in s.book.allocations


def test_a_rollout_sends_its_share_and_the_report_counts_it() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 10**6})
    s.when(
        SetPolicy(
            command_id="p",
            pool="box",
            policy={"rollout_strategy": "worst_fit", "rollout_permille": 500},
        )
    )
    for number in range(60):
        s.got({"cpu": 1}, holder=f"h{number}")
    rows = compare(s.events, now=s.now)
    assert sum(row["granted"] for row in rows) == 60
    assert {row["strategy"] for row in rows} == {"first_fit", "worst_fit"}


def test_what_nobody_measured_has_no_efficiency() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 1000})
    s.release(s.got({"cpu": 1000}))
    (row,) = compare(s.events, now=s.now + SECOND)
    assert row["efficiency"] == {"cpu": None}


def test_an_empty_log_has_nothing_to_compare_and_an_unknown_key_is_an_error() -> None:
    assert compare([], now=0) == []
    with pytest.raises(ValueError, match="not by"):
        compare([], "colour", now=0)
