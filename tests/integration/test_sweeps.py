"""The sweeps against real processes and a real ledger file, and the scheduler that runs them."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledger.commands import Claim, Transfer
from ledger.errors import InvalidInput, LedgerUnavailable
from ledger.events import Expired, Reclaimed, Withdrawn
from ledger.fields import dump
from ledger.writer import Writer
from scheduler.jobs import run_logged, start_sweeps
from scheduler.processes.identity import identify
from scheduler.processes.liveness import Liveness, observe
from scheduler.sweeps import SWEEPS, SweepReport, crash, expire, run_sweeps
from tests.integration.processes_children import child, eventually
from tests.integration.sweeps_bench import (
    SECOND,
    Bench,
    both,
    dead_process,
    elsewhere,
    open_bench,
    sleeper,
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with open_bench(tmp_path) as made:
        yield made


# --- crash ---------------------------------------------------------------------------------------


def test_a_holder_killed_while_holding_is_reclaimed_with_its_evidence(bench: Bench) -> None:
    with sleeper() as (made, identity):
        allocation = bench.allocate(identity, cpu=4000)
        os.kill(made.pid, signal.SIGKILL)
        made.wait()
        report = crash(bench.writer)
    assert (report.name, report.examined, report.acted, report.more) == ("crash", 1, 1, False)
    assert report.details[0]["allocation"] == allocation.id
    ended = bench.state(allocation)
    assert (ended.state, ended.ended_by) == ("ended", "crashed")
    event = bench.last(allocation)
    assert isinstance(event.body, Reclaimed)
    assert event.body.by == "sweep"
    assert event.body.enforced
    assert event.at <= event.recorded_at
    evidence = event.body.evidence
    assert evidence["pid"] == identity.pid
    assert evidence["start_time"] == identity.start_time > 0
    assert evidence["boot_id"] == identity.boot_id
    assert evidence["pid_namespace"] == identity.pid_namespace
    assert evidence["host"] == identity.host
    assert evidence["liveness"] == "dead"
    assert evidence["how"] == "gone"
    assert evidence["observed_at"] == event.at
    assert bench.allocate(cpu=4000).state == "active"


def test_a_zombie_holds_nothing(bench: Bench) -> None:
    with child("say(os.getpid())") as made:
        allocation = bench.allocate(identify(made.hear_pid()))
        assert eventually(lambda: crash(bench.writer).acted == 1)
    body = bench.last(allocation).body
    assert isinstance(body, Reclaimed)
    assert body.evidence["how"] == "zombie"


def test_a_recycled_pid_does_not_keep_a_dead_holder_alive(bench: Bench) -> None:
    with sleeper() as (_, identity):
        other = replace(identity, start_time=identity.start_time - 1)
        allocation = bench.allocate(other)
        report = crash(bench.writer)
        assert observe(identity).liveness is Liveness.ALIVE
    assert report.acted == 1
    body = bench.last(allocation).body
    assert isinstance(body, Reclaimed)
    assert body.evidence["how"] == "reused"


def test_a_process_of_an_earlier_boot_counts_as_ended_when_the_machine_booted_or_later(
    bench: Bench,
) -> None:
    earlier = replace(identify(), boot_id="00000000-0000-0000-0000-000000000000")
    allocation = bench.allocate(earlier)
    crash(bench.writer)
    event = bench.last(allocation)
    assert isinstance(event.body, Reclaimed)
    assert event.body.evidence["how"] == "boot_id"
    # The grant is younger than this boot, so nothing ended before the grant.
    assert event.at == allocation.granted_at == event.body.evidence["booted_at"]
    assert event.at < event.recorded_at


def test_a_live_process_is_left_alone(bench: Bench) -> None:
    allocation = bench.allocate(identify())
    report = crash(bench.writer)
    assert (report.examined, report.acted, report.details) == (1, 0, [])
    assert bench.state(allocation) == allocation


def test_what_cannot_be_seen_from_here_is_left_alone(bench: Bench) -> None:
    dead = dead_process()
    away = bench.allocate(elsewhere(dead))
    contained = bench.allocate(replace(dead, pid_namespace="1"))
    head = bench.writer.log.head()
    assert crash(bench.writer).acted == 0
    assert bench.writer.log.head() == head
    assert bench.state(away).state == bench.state(contained).state == "active"


def test_a_lease_by_ttl_is_no_matter_for_the_crash_sweep(bench: Bench) -> None:
    bench.allocate()
    assert crash(bench.writer) == SweepReport("crash")


def test_a_dry_run_says_what_would_happen_and_changes_nothing(bench: Bench) -> None:
    dead = dead_process()
    held = bench.allocate(dead)
    forced = bench.allocate(dead)
    bench.ask_to_end(forced)
    short = bench.allocate(ttl_ns=5 * SECOND)
    bench.clock.ahead = 60 * SECOND
    head = bench.writer.log.head()
    reports = run_sweeps(bench.writer, dry_run=True)
    assert bench.writer.log.head() == head
    assert all(report.dry_run for report in reports)
    named = {r.name: {detail["allocation"] for detail in r.details} for r in reports}
    assert named == {
        "expire": {short.id},
        "crash": {held.id, forced.id},
        "ending": {forced.id},
        "observe": set(),
    }
    assert [report.acted for report in reports] == [1, 2, 1, 0]
    assert [report.acted for report in run_sweeps(bench.writer)] == [1, 2, 0, 0]


def test_sweeping_twice_acts_once(bench: Bench) -> None:
    bench.allocate(dead_process())
    assert crash(bench.writer).acted == 1
    head = bench.writer.log.head()
    assert [report.acted for report in run_sweeps(bench.writer)] == [0, 0, 0, 0]
    assert bench.writer.log.head() == head


def test_two_crash_sweeps_at_once_act_once(bench: Bench) -> None:
    dead = dead_process()
    held = [bench.allocate(dead, cpu=200) for _ in range(12)]
    other = bench.open_again()
    writers = (bench.writer, other)
    reports = both(lambda number: crash(writers[number]))
    other.close()
    assert sum(report.acted for report in reports) == 12
    assert bench.types()["reclaimed"] == 12
    assert bench.types()["refused"] == 0
    assert {bench.state(one).ended_by for one in held} == {"crashed"}


def test_the_next_in_the_queue_is_granted_in_the_commit_that_withdraws_a_dead_one(
    bench: Bench,
) -> None:
    dead = dead_process()
    bench.allocate(identify(), cpu=3000)
    # The dead one waits for more than is free, and the live one, behind it, must not overtake it.
    gone = bench.allocate(dead, cpu=2000, wait_ns=600 * SECOND)
    live = bench.allocate(identify(), cpu=1000, wait_ns=600 * SECOND)
    assert (gone.state, live.state) == ("waiting", "waiting")
    assert crash(bench.writer).acted == 1
    withdrawn, granted = bench.last(gone), bench.last(live)
    assert isinstance(withdrawn.body, Withdrawn)
    assert withdrawn.body.cause == "crashed"
    for word in (str(dead.pid), str(dead.start_time), dead.boot_id, dead.host, "gone"):
        assert word in withdrawn.body.reason
    assert granted.type == "allocated"
    assert granted.position == withdrawn.position + 1
    assert granted.recorded_at == withdrawn.recorded_at
    assert bench.state(live).state == "active"


def test_a_dead_holders_capacity_goes_to_the_waiter_in_the_same_commit(bench: Bench) -> None:
    holder = bench.allocate(dead_process(), cpu=4000)
    waiter = bench.allocate(identify(), cpu=4000, wait_ns=600 * SECOND)
    crash(bench.writer)
    taken, granted = bench.last(holder), bench.last(waiter)
    assert (taken.type, granted.type) == ("reclaimed", "allocated")
    assert taken.recorded_at == granted.recorded_at


def test_a_reservation_of_a_dead_process_is_taken_back(bench: Bench) -> None:
    reserved = bench.allocate(dead_process(), reserve_ns=600 * SECOND)
    assert reserved.state == "reserved"
    crash(bench.writer)
    assert bench.state(reserved).ended_by == "crashed"


def test_what_draws_on_a_dead_holders_allocation_ends_for_its_own_cause(bench: Bench) -> None:
    dead = dead_process()
    parent = bench.allocate(dead, cpu=4000)
    dead_child = bench.allocate(dead, parent=parent.id)
    live_child = bench.allocate(identify(), parent=parent.id)
    report = crash(bench.writer)
    assert report.acted == 2
    assert bench.state(dead_child).ended_by == "crashed"
    assert bench.state(live_child).ended_by == "leaked"
    assert bench.types()["refused"] == 0


def test_a_pass_stops_at_its_limit_and_says_so(bench: Bench) -> None:
    dead = dead_process()
    for _ in range(3):
        bench.allocate(dead)
    bench.allocate(identify())
    first = crash(bench.writer, limit=2)
    assert (first.examined, first.acted, first.more) == (4, 2, True)
    second = crash(bench.writer, limit=2)
    assert (second.acted, second.more) == (1, False)


def test_what_changed_hands_after_the_look_is_not_taken_from_its_new_holder(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocation = bench.allocate(dead_process())
    execute = bench.writer.execute

    def handed_over_first(command: Any) -> Any:
        monkeypatch.setattr(bench.writer, "execute", execute)
        execute(
            Transfer(
                command_id="hand-over",
                allocation=allocation.id,
                claim=Claim(allocation.holder),
                to_holder="heir",
                process=identify(),
            )
        )
        return execute(command)

    monkeypatch.setattr(bench.writer, "execute", handed_over_first)
    assert crash(bench.writer).acted == 0
    heir = bench.state(allocation)
    assert (heir.state, heir.holder) == ("active", "heir")
    assert crash(bench.writer).acted == 0


# --- expire --------------------------------------------------------------------------------------


def test_an_expired_lease_is_written_down_with_the_end_of_the_lease(bench: Bench) -> None:
    short = bench.allocate(ttl_ns=5 * SECOND)
    kept = bench.allocate()
    bench.clock.ahead = 100 * SECOND
    report = expire(bench.writer)
    assert (report.examined, report.acted) == (2, 1)
    event = bench.last(short)
    assert isinstance(event.body, Expired)
    assert event.at == event.body.lease_until == short.lease_until
    assert event.recorded_at > event.at + 90 * SECOND
    assert report.details[0]["ended_at"] == event.at
    assert report.details[0]["positions"] == [event.position]
    assert bench.state(kept).state == "active"
    assert expire(bench.writer).acted == 0


def test_time_slept_through_ends_no_lease(bench: Bench) -> None:
    allocation = bench.allocate(ttl_ns=60 * SECOND)
    bench.clock.slept = 3600 * SECOND
    assert expire(bench.writer).acted == 0
    after = bench.state(allocation)
    assert after.state == "active"
    assert after.lease_until is not None
    assert allocation.lease_until is not None
    assert after.lease_until >= allocation.lease_until + 3600 * SECOND
    bench.clock.ahead = 90 * SECOND
    assert expire(bench.writer).acted == 1


def test_a_wait_that_is_over_is_written_down_as_timed_out(bench: Bench) -> None:
    bench.allocate(cpu=4000)
    waiting = bench.allocate(cpu=1000, wait_ns=5 * SECOND)
    bench.clock.ahead = 10 * SECOND
    report = expire(bench.writer)
    assert [(d["allocation"], d["cause"]) for d in report.details] == [(waiting.id, "timed_out")]
    assert bench.state(waiting).ended_by == "timed_out"


def test_details_are_bounded_where_the_ends_are_many(bench: Bench) -> None:
    for _ in range(5):
        bench.allocate(cpu=100, ttl_ns=SECOND)
    bench.clock.ahead = 5 * SECOND
    dry = expire(bench.writer, limit=2, dry_run=True)
    assert (dry.acted, len(dry.details)) == (5, 2)
    done = expire(bench.writer, limit=2)
    assert (done.acted, len(done.details)) == (5, 2)


def test_a_dry_run_starts_from_a_snapshot_where_there_is_one(bench: Bench) -> None:
    early = bench.allocate(ttl_ns=SECOND)
    assert bench.writer.snapshots is not None
    data = bench.writer.read(lambda book, now: dump(book))
    bench.writer.snapshots.save(bench.writer.log.head(), data)
    late = bench.allocate(ttl_ns=2 * SECOND)
    bench.clock.ahead = 5 * SECOND
    report = expire(bench.writer, dry_run=True)
    assert [detail["allocation"] for detail in report.details] == [early.id, late.id]
    assert bench.types()["expired"] == 0


def test_two_expire_sweeps_at_once_write_each_end_once(bench: Bench) -> None:
    for _ in range(12):
        bench.allocate(cpu=100, ttl_ns=SECOND)
    other = bench.open_again()
    bench.clock.ahead = 5 * SECOND
    writers = (bench.writer, other)
    reports = both(lambda number: expire(writers[number]))
    other.close()
    assert sum(report.acted for report in reports) == 12
    assert bench.types()["expired"] == 12


def test_threads_that_share_a_writer_report_each_end_once(bench: Bench) -> None:
    for _ in range(12):
        bench.allocate(cpu=100, ttl_ns=SECOND)
    bench.clock.ahead = 5 * SECOND
    reports = both(lambda number: expire(bench.writer))
    assert sum(report.acted for report in reports) == 12


# --- by name, and by the scheduler ---------------------------------------------------------------


def test_sweeps_run_by_name_and_in_the_order_asked_for(bench: Bench) -> None:
    names = [report.name for report in run_sweeps(bench.writer, ["ending", "expire", "ending"])]
    assert names == ["ending", "expire"]
    assert [report.name for report in run_sweeps(bench.writer)] == list(SWEEPS)


def test_an_unknown_sweep_is_refused_before_any_has_run(bench: Bench) -> None:
    bench.allocate(dead_process())
    with pytest.raises(InvalidInput, match="no sweep 'crush'") as caught:
        run_sweeps(bench.writer, ["crash", "crush"])
    assert "crash" in caught.value.hint
    assert bench.types()["reclaimed"] == 0


def test_the_scheduler_sweeps_until_it_is_stopped(bench: Bench) -> None:
    dead = dead_process()
    first = bench.allocate(dead)
    sweeping = start_sweeps(bench.writer, interval_s=0.05, names=["crash"])
    assert eventually(lambda: bench.state(first).state == "ended")
    again = bench.allocate(dead)
    assert eventually(lambda: bench.state(again).state == "ended")
    sweeping.stop()
    sweeping.stop()
    left = bench.allocate(dead)
    assert not any(thread.name.startswith("APScheduler") for thread in threading.enumerate())
    assert bench.state(left).state == "active"


def test_a_sweep_that_fails_logs_one_line_and_runs_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ran = threading.Semaphore(0)

    def broken(writer: Writer, **_: object) -> SweepReport:
        ran.release()
        raise LedgerUnavailable("the disk is full", "free some space")

    monkeypatch.setitem(SWEEPS, "crash", broken)
    with (
        caplog.at_level(logging.ERROR, logger="leasebook.sweeps"),
        start_sweeps(bench.writer, interval_s=0.02, names=["crash"]),
    ):
        for _ in range(3):
            assert ran.acquire(timeout=20)
    texts = {record.getMessage() for record in caplog.records}
    assert texts == {"sweep crash failed: the disk is full; free some space"}


def test_a_fault_in_a_sweep_is_one_line_too(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def broken(writer: Writer, **_: object) -> SweepReport:
        raise ValueError("two\nlines")

    run_logged("crash", broken, bench.writer)
    assert caplog.messages == ["sweep crash failed: ValueError: two lines"]


def test_a_schedule_that_cannot_be_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidInput, match="every 0 s"):
        start_sweeps(bench.writer, interval_s=0)
    with pytest.raises(InvalidInput, match="no sweep"):
        start_sweeps(bench.writer, names=["sweep-it-all"])
