"""Receipts: made of a command's own events and the present state, the first time and on every retry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ledger.book import Allocation
from ledger.commands import AllocateBatch, Release, Renew, Withdraw
from ledger.errors import Reason
from ledger.events import Event, Queued, Refused
from ledger.receipts import Present, Receipt, fold_allocation, receipt_for, why_not_granted
from tests.scenario import Scenario


@pytest.fixture
def box() -> Scenario:
    scenario = Scenario()
    scenario.pool(n1={"cpu": 4000})
    return scenario


def present(scenario: Scenario) -> Present:
    """The present state as the writer tells it: from the book, else from the events."""
    return lambda allocation: scenario.book.allocations.get(allocation) or scenario.fold(allocation)


def receipt(scenario: Scenario, own: tuple[Event, ...] | None = None, **how: bool) -> Receipt:
    return receipt_for(scenario.own if own is None else own, present(scenario), **how)


def test_a_grant_has_its_event_its_position_and_its_allocation(box: Scenario) -> None:
    allocation = box.got({"cpu": 1000})
    made = receipt(box)
    assert (made.outcome, made.positions) == ("granted", (int(allocation[1:]),))
    assert made.event == box.own[0]
    assert made.allocation == box.book.allocations[allocation]
    assert (made.reason, made.message, made.replayed) == (None, "", False)
    assert made.refusal is None
    assert made.refusal_id is None


def test_a_reservation_counts_as_granted(box: Scenario) -> None:
    box.got({"cpu": 1000}, reserve_ns=10**10)
    made = receipt(box)
    assert made.outcome == "granted"
    assert made.allocation is not None
    assert made.allocation.state == "reserved"


def test_a_refusal_has_its_reason_its_id_and_no_allocation(box: Scenario) -> None:
    box.refused({"cpu": 9000})
    made = receipt(box)
    assert (made.outcome, made.reason) == ("refused", Reason.EXCEEDS_POOL)
    assert made.refusal_id == f"R{box.own[0].position}"
    assert isinstance(made.refusal, Refused)
    assert (made.message, made.hint) == (made.refusal.message, made.refusal.hint)
    assert made.allocation is None


@pytest.mark.parametrize(
    ("act", "outcome", "state"),
    [
        (lambda s, a: s.on(Renew, a, ttl_ns=10**13), "renewed", "active"),
        (lambda s, a: s.release(a), "released", "ended"),
    ],
)
def test_a_command_on_an_allocation_is_answered_with_its_event_and_the_state_after_it(
    box: Scenario, act: Callable[[Scenario, str], object], outcome: str, state: str
) -> None:
    allocation = box.got({"cpu": 1000})
    act(box, allocation)
    made = receipt(box)
    assert made.outcome == outcome
    assert made.allocation is not None
    assert (made.allocation.id, made.allocation.state) == (allocation, state)


def test_what_changed_nothing_is_answered_with_unchanged(box: Scenario) -> None:
    made = receipt(box, ())
    assert (made.outcome, made.positions, made.event, made.allocation) == (
        "unchanged",
        (),
        None,
        None,
    )


# --- a request that was queued, seen again ---------------------------------------------------------


@pytest.fixture
def queue() -> tuple[Scenario, str, str, tuple[Event, ...]]:
    """A pool that ``h2`` has filled, and ``h1`` waits for: scenario, both ids, the waiting's events."""
    scenario = Scenario()
    scenario.pool(n1={"cpu": 4000})
    full = scenario.got({"cpu": 4000}, holder="h2")
    waits = scenario.waits({"cpu": 1000}, wait=100)
    assert isinstance(scenario.own[0].body, Queued)
    return scenario, full, waits, scenario.own


def test_a_waiting_request_is_waiting_then_granted_then_granted_and_ended(
    queue: tuple[Scenario, str, str, tuple[Event, ...]],
) -> None:
    scenario, full, waits, own = queue
    assert receipt(scenario, own).outcome == "waiting"
    scenario.release(full, "h2")
    granted = receipt(scenario, own, replayed=True)
    assert (granted.outcome, granted.replayed) == ("granted", True)
    assert granted.allocation is not None
    assert granted.allocation.state == "active"
    scenario.release(waits)
    ended = receipt(scenario, own, replayed=True)
    assert ended.outcome == "granted"
    assert ended.allocation is not None
    assert (ended.allocation.state, ended.allocation.ended_by) == ("ended", "released")


def test_a_wait_that_timed_out_is_refused_for_that(
    queue: tuple[Scenario, str, str, tuple[Event, ...]],
) -> None:
    scenario, _, _, own = queue
    scenario.later(200).settle()
    made = receipt(scenario, own, replayed=True)
    assert (made.outcome, made.reason) == ("refused", Reason.WAIT_TIMED_OUT)
    assert made.allocation is not None
    assert made.allocation.ended_by == "timed_out"
    # It was queued, not refused by an event: there is no refusal to look up.
    assert made.refusal_id is None


def test_a_wait_that_was_given_up_is_refused_as_ended_not_as_timed_out(
    queue: tuple[Scenario, str, str, tuple[Event, ...]],
) -> None:
    scenario, _, waits, own = queue
    scenario.on(Withdraw, waits)
    made = receipt(scenario, own, replayed=True)
    assert (made.outcome, made.reason) == ("refused", Reason.ALREADY_ENDED)
    assert "withdrawn" in made.message


def test_a_queued_request_that_was_reserved_and_voided_had_been_granted() -> None:
    scenario = Scenario()
    scenario.pool(n1={"cpu": 4000})
    full = scenario.got({"cpu": 4000}, holder="h2")
    waits = scenario.waits({"cpu": 1000}, reserve_ns=10**12)
    own = scenario.own
    scenario.release(full, "h2")
    scenario.on(Release, waits)
    made = receipt(scenario, own, replayed=True)
    assert made.outcome == "granted"
    assert made.allocation is not None
    assert made.allocation.ended_by == "voided"


def test_only_what_time_ended_counts_as_timed_out() -> None:
    assert why_not_granted("timed_out") is Reason.WAIT_TIMED_OUT
    for cause in ("withdrawn", "crashed", "forced", None):
        assert why_not_granted(cause) is Reason.ALREADY_ENDED


# --- batches -----------------------------------------------------------------------------------------


def batch(
    scenario: Scenario, *cpus: int, atomic: bool = False, wait: float | None = None
) -> Receipt:
    items = [scenario.request({"cpu": cpu}, wait=wait) for cpu in cpus]
    command = AllocateBatch(
        command_id="b", items=tuple(replace(i, command_id="b") for i in items), atomic=atomic
    )
    scenario.when(command)
    return receipt(scenario, batch=True)


@pytest.mark.parametrize(
    ("cpus", "wait", "outcome", "each"),
    [
        ((1000, 1000), None, "granted", ["granted", "granted"]),
        ((1000, 9000), None, "partial", ["granted", "refused"]),
        ((9000, 9000), None, "refused", ["refused", "refused"]),
        ((4000, 1000), 60, "partial", ["granted", "waiting"]),
        ((9000,), None, "refused", ["refused"]),
    ],
)
def test_a_batch_is_what_all_of_its_items_are_or_partial(
    box: Scenario, cpus: tuple[int, ...], wait: float | None, outcome: str, each: list[str]
) -> None:
    made = batch(box, *cpus, wait=wait)
    assert made.outcome == outcome
    assert [r.outcome for r in made.results] == each
    assert made.positions == tuple(p for r in made.results for p in r.positions)


def test_a_batch_of_which_everything_waits_is_waiting(box: Scenario) -> None:
    box.got({"cpu": 4000}, holder="h2")
    assert batch(box, 1000, 1000, wait=60).outcome == "waiting"


def test_an_atomic_batch_that_was_refused_has_one_result_with_the_reason(box: Scenario) -> None:
    made = batch(box, 1000, 3000, 2000, atomic=True)
    assert (made.outcome, made.reason) == ("refused", Reason.INSUFFICIENT_CAPACITY)
    assert len(made.results) == 1
    assert made.results[0].event == made.event
    assert "item 2" in made.message


def test_a_replayed_batch_marks_every_result(box: Scenario) -> None:
    batch(box, 1000, 1000)
    again = receipt(box, batch=True, replayed=True)
    assert again.replayed
    assert [r.replayed for r in again.results] == [True, True]


# --- folding one allocation --------------------------------------------------------------------------


def test_an_ended_allocation_is_folded_from_its_own_events(box: Scenario) -> None:
    allocation = box.got({"cpu": 1000}, task="t")
    box.on(Renew, allocation, ttl_ns=10**13)
    before = box.book.allocations[allocation]
    box.release(allocation)
    own = [e for e in box.events if e.allocation == allocation]
    folded = fold_allocation(own)
    assert folded == replace(before, state="ended", ended_at=box.now, ended_by="released")
    assert fold_allocation([]) is None
    states: list[Allocation | None] = [fold_allocation(own[:n]) for n in range(1, len(own))]
    assert [s.state for s in states if s is not None] == ["active"] * (len(own) - 1)
