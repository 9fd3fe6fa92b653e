"""The ending sweep against real processes: what was asked to end ends, and says how."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.events import Reclaimed
from scheduler.processes.ending import Ended
from scheduler.processes.identity import identify
from scheduler.processes.liveness import Liveness, observe
from scheduler.sweeps import crash, ending, endings
from scheduler.sweeps.endings import FOREIGN_GRACE_NS
from tests.integration.processes_children import child
from tests.integration.sweeps_bench import (
    SECOND,
    Bench,
    both,
    dead_process,
    elsewhere,
    open_bench,
    sleeper,
)

STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN); say(os.getpid()); time.sleep(60)"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with open_bench(tmp_path) as made:
        yield made


# --- ending --------------------------------------------------------------------------------------


def test_an_ending_returns_with_its_cause_when_its_process_is_gone(bench: Bench) -> None:
    with sleeper() as (made, identity):
        allocation = bench.allocate(identity)
        bench.ask_to_end(allocation)
        assert ending(bench.writer).acted == 0
        assert bench.state(allocation).state == "ending"
        made.say()
        made.wait()
        report = ending(bench.writer)
    assert (report.examined, report.acted) == (1, 1)
    body = bench.last(allocation).body
    assert isinstance(body, Reclaimed)
    assert (body.cause, body.enforced, body.evidence["how"]) == ("forced", True, "gone")


def test_the_crash_sweep_ends_an_ending_with_the_cause_it_was_asked_for(bench: Bench) -> None:
    dead = dead_process()
    allocation = bench.allocate(dead)
    bench.ask_to_end(allocation)
    report = crash(bench.writer)
    assert report.details[0]["cause"] == "forced"
    assert bench.state(allocation).ended_by == "forced"
    assert ending(bench.writer).examined == 0


def test_past_its_grace_a_process_tree_is_ended(bench: Bench) -> None:
    code = "pid = os.fork()\nif pid: say(os.getpid(), pid)\ntime.sleep(60)"
    with child(code) as made:
        root, below = (identify(int(pid)) for pid in made.hear())
        allocation = bench.allocate(root)
        bench.ask_to_end(allocation)
        bench.clock.ahead = 31 * SECOND
        would = ending(bench.writer, dry_run=True)
        assert would.acted == 1
        assert str(root.pid) in would.details[0]["would"]
        assert observe(root).liveness is Liveness.ALIVE
        report = ending(bench.writer)
        assert observe(root).liveness is Liveness.DEAD
        assert observe(below).liveness is Liveness.DEAD
    assert report.acted == 1
    body = bench.last(allocation).body
    assert isinstance(body, Reclaimed)
    assert body.enforced
    assert sorted(body.evidence["terminated"]) == sorted([root.pid, below.pid])
    assert body.evidence["killed"] == body.evidence["left"] == []
    assert body.evidence["liveness"] == "dead"


def test_what_ignores_term_is_killed(bench: Bench) -> None:
    with child(STUBBORN) as made:
        identity = identify(made.hear_pid())
        allocation = bench.allocate(identity)
        bench.ask_to_end(allocation, grace_ns=0)
        assert ending(bench.writer, term_grace_s=0.1).acted == 1
    body = bench.last(allocation).body
    assert isinstance(body, Reclaimed)
    assert body.evidence["killed"] == [identity.pid]
    assert "KILL" in body.reason


def test_a_process_that_is_not_ours_to_stop_is_named_unenforced_and_lives_on(
    bench: Bench,
) -> None:
    with sleeper() as (_, identity):
        allocation = bench.allocate(identity)
        bench.ask_to_end(allocation, enforced=False, grace_ns=0)
        assert "unenforced" in ending(bench.writer, dry_run=True).details[0]["would"]
        assert ending(bench.writer).acted == 1
        assert observe(identity).liveness is Liveness.ALIVE
    body = bench.last(allocation).body
    assert isinstance(body, Reclaimed)
    assert not body.enforced
    assert not bench.state(allocation).enforced


def test_what_is_left_running_beyond_reach_makes_the_ending_unenforced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sleeper() as (_, identity):
        allocation = bench.allocate(identity)
        bench.ask_to_end(allocation, grace_ns=0)
        # As for a process of another user: the kernel would not let us signal it.
        monkeypatch.setattr(endings, "_end_tree", lambda root, grace_s: Ended((), (), (root,)))
        assert ending(bench.writer).acted == 1
    body = bench.last(allocation).body
    assert isinstance(body, Reclaimed)
    assert not body.enforced
    assert body.evidence["left"] == [identity.pid]
    assert body.evidence["liveness"] == "alive"
    assert str(identity.pid) in body.reason


@pytest.mark.parametrize("who", ["init", "itself"])
def test_a_sweep_ends_neither_init_nor_itself(bench: Bench, who: str) -> None:
    pid = 1 if who == "init" else os.getpid()
    allocation = bench.allocate(identify(pid))
    bench.ask_to_end(allocation, grace_ns=0)
    assert "unenforced" in ending(bench.writer, dry_run=True).details[0]["would"]
    assert ending(bench.writer).acted == 1
    body = bench.last(allocation).body
    assert isinstance(body, Reclaimed)
    assert not body.enforced
    assert body.evidence["left"] == [pid]


def test_an_ending_elsewhere_is_left_to_whoever_sees_it_until_a_longer_grace_is_over(
    bench: Bench,
) -> None:
    allocation = bench.allocate(elsewhere(identify()))
    bench.ask_to_end(allocation, grace_ns=0)
    assert ending(bench.writer).acted == 0
    bench.clock.ahead = FOREIGN_GRACE_NS + SECOND
    assert ending(bench.writer).acted == 1
    body = bench.last(allocation).body
    assert isinstance(body, Reclaimed)
    assert not body.enforced
    assert body.evidence["liveness"] == "unknown"


def test_a_pass_over_endings_stops_at_its_limit(bench: Bench) -> None:
    dead = dead_process()
    for _ in range(3):
        bench.ask_to_end(bench.allocate(dead))
    first = ending(bench.writer, limit=2)
    assert (first.acted, first.more) == (2, True)
    assert ending(bench.writer, limit=2).acted == 1


def test_two_ending_sweeps_at_once_act_once(bench: Bench) -> None:
    dead = dead_process()
    for _ in range(4):
        bench.ask_to_end(bench.allocate(dead))
    other = bench.open_again()
    sweeps = (lambda: ending(bench.writer), lambda: crash(other))
    reports = both(lambda number: sweeps[number]())
    other.close()
    assert sum(report.acted for report in reports) == 4
    assert bench.types()["reclaimed"] == 4
    assert bench.types()["refused"] == 0
