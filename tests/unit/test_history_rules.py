"""What facts about allocations elsewhere come to: said whole or in pieces, once or again."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.commands import Allocate, Fact, OpenPool, RecordFacts
from ledger.errors import InvalidInput, Reason
from ledger.events import Event, UsageRecorded
from ledger.memory_log import MemoryLog
from ledger.receipts import Receipt
from ledger.requests import NodeSpec, Placement, Request
from ledger.rules.history import Life, frozen
from ledger.writer import Writer, begin
from tests.ledgers import SECOND, Clock, check_whole, together

CPU = Request({"cpu": 4000})
ON_N1 = (Placement("n1", {"cpu": 4000}, {}),)
ON_N2 = (Placement("n2", {"cpu": 4000}, {}),)


class Book:
    """A ledger with an observed pool, and what is recorded in it."""

    def __init__(self) -> None:
        self.writer = Writer(MemoryLog(), clock=Clock())
        begin(self.writer.log, "test-ledger", self.writer)
        self.writer.execute(OpenPool(command_id="p", pool="far", nodes=(), kind="observed"))
        self.begun = self.writer.log.head().position

    def take(self, *facts: Fact, **options: Any) -> Receipt:
        options = {"pool": "far", **options}
        return self.writer.execute(RecordFacts(command_id="", facts=facts, **options))

    def events(self) -> list[Event]:
        from ledger.codec import from_row

        return [from_row(row) for row in self.writer.log.read(self.begun)]

    def said(self) -> list[tuple[str, int]]:
        return [(event.type, event.at) for event in self.events()]

    def life(self, key: str = "k", tenant: str = "default") -> Life:
        first = self.writer.log.rows_of_command(tenant, key)
        return Life(e for e in self.events() if e.allocation == first[0].allocation)


def fact(key: str = "k", **said: Any) -> Fact:
    return Fact(key=key, **{"holder": "ann", "request": CPU, **said})


def usage(since: int, until: int) -> UsageRecorded:
    return UsageRecorded(since, until, {"cpu": 3}, {"memory": 5}, {"cpu": "sacct"}, final=True)


# --- given, when, then ---------------------------------------------------------------------------


def test_a_whole_fact_is_a_grant_and_its_end_at_their_own_times() -> None:
    book = Book()
    whole = fact(
        requested_at=5,
        began_at=10,
        ended_at=30,
        placements=ON_N1,
        task="t",
        metadata={"state": "OK"},
    )
    receipt = book.take(whole)
    assert book.said() == [("allocated", 10), ("released", 30)]
    granted, released = book.events()
    assert granted.body.queued_at == 5  # type: ignore[union-attr]
    assert (granted.holder, granted.task, granted.pool, granted.tenant) == (
        "ann",
        "t",
        "far",
        "default",
    )
    assert granted.cause is not None and granted.cause.command_id == "k"
    assert (granted.metadata, released.metadata) == (None, {"state": "OK"})
    assert granted.recorded_at == released.recorded_at > 30
    assert receipt.outcome == "recorded"
    assert [(one.outcome, one.message) for one in receipt.results] == [("new", "ended")]


def test_what_is_known_is_not_recorded_again() -> None:
    book = Book()
    whole = fact(requested_at=5, began_at=10, ended_at=30, placements=ON_N1, usage=usage(10, 30))
    book.take(whole)
    head = book.writer.log.head()
    receipt = book.take(whole, whole)
    assert receipt.outcome == "unchanged"
    assert [one.outcome for one in receipt.results] == ["known", "known"]
    assert book.writer.log.head() == head


@pytest.mark.parametrize(
    ("cause", "type_"),
    [
        ("released", "released"),
        ("expired", "expired"),
        ("forced", "reclaimed"),
        ("crashed", "reclaimed"),
        ("preempted", "reclaimed"),
    ],
)
def test_each_ending_has_its_event_and_keeps_its_cause(cause: str, type_: str) -> None:
    book = Book()
    book.take(fact(began_at=10, ended_at=30, ended_by=cause))
    assert book.said()[-1] == (type_, 30)
    assert book.life().ended_by == cause


def test_what_never_began_is_queued_and_withdrawn_and_never_granted() -> None:
    book = Book()
    receipt = book.take(fact(requested_at=5, ended_at=9, ended_by="withdrawn"))
    assert book.said() == [("queued", 5), ("withdrawn", 9)]
    assert book.life().granted_at is None
    assert receipt.results[0].message == "ended"


def test_a_newer_dump_adds_only_what_is_new() -> None:
    book = Book()
    assert book.take(fact(requested_at=5)).results[0].message == "waiting"
    running = fact(requested_at=5, began_at=10, placements=ON_N1, seen_until=20)
    assert book.take(running).results[0].message == "open"
    assert book.take(running).outcome == "unchanged"
    later = fact(requested_at=5, began_at=10, placements=ON_N1, seen_until=25)
    assert [one.outcome for one in book.take(later).results] == ["added"]
    done = fact(requested_at=5, began_at=10, ended_at=30, placements=ON_N1)
    assert book.take(done).results[0].message == "ended"
    assert book.said() == [("queued", 5), ("allocated", 10), ("renewed", 25), ("released", 30)]
    assert len({event.allocation for event in book.events()}) == 1
    # The older dumps, once more, say nothing that is not known.
    assert book.take(running, later, done).outcome == "unchanged"


def test_a_contradiction_is_a_correction_and_the_old_file_does_not_turn_it_back() -> None:
    book = Book()
    first = fact(began_at=10, ended_at=30, placements=ON_N1)
    other = fact(began_at=12, ended_at=33, ended_by="expired", placements=ON_N2)
    book.take(first)
    assert [one.outcome for one in book.take(other).results] == ["corrected"]
    correction = book.events()[-1]
    assert correction.body.facts == {  # type: ignore[union-attr]
        "granted_at": 12,
        "ended_at": 33,
        "ended_by": "expired",
        "placements": [{"node": "n2", "amounts": {"cpu": 4000}, "in_use": {}}],
    }
    assert correction.body.corrects == book.events()[0].position  # type: ignore[union-attr]
    assert book.take(first).outcome == "unchanged"
    assert book.take(other).outcome == "unchanged"
    life = book.life()
    assert (life.granted_at, life.ended_at, life.ended_by) == (12, 33, "expired")
    assert frozen(life.placements) == frozen(ON_N2)


def test_an_end_before_its_start_in_the_record_is_completed_when_the_start_comes() -> None:
    book = Book()
    book.take(fact(ended_at=30))
    assert book.said()[0] == ("allocated", 30) and book.life().is_since_before
    book.take(fact(began_at=10, requested_at=5, placements=ON_N1))
    life = book.life()
    assert (life.requested_at, life.granted_at, life.ended_at) == (5, 10, 30)
    assert not life.is_since_before
    assert frozen(life.placements) == frozen(ON_N1)


def test_a_start_after_a_recorded_withdrawal_says_that_it_held_after_all() -> None:
    book = Book()
    book.take(fact(requested_at=5, ended_at=30, ended_by="withdrawn"))
    book.take(fact(began_at=10, ended_at=30, ended_by="released"))
    life = book.life()
    assert (life.requested_at, life.granted_at, life.ended_at) == (5, 10, 30)
    assert (life.ended_by, life.state) == ("released", "ended")


def test_a_move_changes_where_it_is_without_ending_it() -> None:
    book = Book()
    book.take(fact(began_at=10, placements=ON_N1, moves=((20, ON_N2),), ended_at=30))
    assert book.said() == [("allocated", 10), ("adjusted", 20), ("released", 30)]
    assert book.life().timeline() == [(10, frozen(ON_N1)), (20, frozen(ON_N2))]


def test_pieces_within_one_command_make_one_allocation() -> None:
    book = Book()
    receipt = book.take(
        fact(began_at=10, placements=ON_N1), fact("other", began_at=1), fact(ended_at=30)
    )
    assert [one.outcome for one in receipt.results] == ["new", "new", "added"]
    assert book.life().ended_at == 30
    assert len({event.allocation for event in book.events()}) == 2


def test_pieces_in_two_commands_of_one_transaction_make_one_allocation() -> None:
    book = Book()
    nodes = (NodeSpec("n", {"cpu": 9000}),)
    asked = Request({"cpu": 1000}, ttl_ns=SECOND)
    start, managed, allocated, end = together(
        book.writer,
        RecordFacts(command_id="", pool="far", facts=(fact(began_at=10, placements=ON_N1),)),
        OpenPool(command_id="m", pool="mine", nodes=nodes),
        Allocate(command_id="a", pool="mine", holder="h", request=asked),
        RecordFacts(command_id="", pool="far", facts=(fact(ended_at=30), fact("x", began_at=1))),
    )
    assert (start.outcome, managed.outcome) == ("recorded", "pool_opened")
    assert allocated.outcome == "granted"
    assert [one.outcome for one in end.results] == ["added", "new"]
    assert len({event.recorded_at for event in book.events()}) == 1
    assert (book.life().granted_at, book.life().ended_at) == (10, 30)
    check_whole(book.writer)


def test_the_same_key_of_two_tenants_is_two_allocations() -> None:
    book = Book()
    book.take(fact(began_at=1, tenant="a"), fact(began_at=2, tenant="b"))
    assert book.life(tenant="a").granted_at == 1
    assert book.life(tenant="b").granted_at == 2


def test_a_fact_known_in_another_pool_stays_there_and_says_so() -> None:
    book = Book()
    book.writer.execute(OpenPool(command_id="q", pool="near", nodes=(), kind="observed"))
    book.take(fact(began_at=10))
    receipt = book.take(fact(began_at=10, ended_at=20), pool="near")
    assert [(one.outcome, one.hint) for one in receipt.results] == [("added", "elsewhere")]
    assert {event.pool for event in book.events() if event.allocation} == {"far"}


# --- what is refused -----------------------------------------------------------------------------


def test_a_managed_pool_and_a_missing_one_are_refused_with_the_reason() -> None:
    book = Book()
    nodes = (NodeSpec("n", {"cpu": 1000}),)
    book.writer.execute(OpenPool(command_id="m", pool="mine", nodes=nodes))
    receipt = book.take(fact(began_at=1), pool="mine")
    assert receipt.outcome == "refused"
    assert "managed" in receipt.message
    assert book.take(fact(began_at=1), pool="none").reason == Reason.NO_SUCH_POOL


def test_a_key_that_a_command_of_a_managed_pool_has_used_is_refused() -> None:
    book = Book()
    nodes = (NodeSpec("n", {"cpu": 9000}),)
    book.writer.execute(OpenPool(command_id="m", pool="mine", nodes=nodes))
    asked = Request({"cpu": 1000}, ttl_ns=SECOND)
    book.writer.execute(Allocate(command_id="k", pool="mine", holder="h", request=asked))
    assert book.take(fact(began_at=1)).reason == Reason.COMMAND_ID_REUSED
    check_whole(book.writer)


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"began_at": 10, "ended_at": 9},
        {"began_at": 2**63},
        {"began_at": 1.5},
        {"began_at": 1, "holder": ""},
        {"began_at": 1, "task": "x" * 201},
        {"began_at": 1, "request": Request({"cpu": -1})},
        {"began_at": 1, "request": Request({"CPU": 1})},
        {"began_at": 1, "placements": (Placement("", {"cpu": 1}, {}),)},
        {"began_at": 1, "metadata": {"x": "y" * 20_000}},
    ],
)
def test_a_fact_that_cannot_be_written_down_is_bad_input_and_nothing_is_recorded(
    bad: dict[str, Any],
) -> None:
    book = Book()
    with pytest.raises(InvalidInput):
        book.take(fact("good", began_at=1), fact(**bad))
    assert book.events() == []


# --- inventories ---------------------------------------------------------------------------------


def test_an_inventory_adds_resizes_and_removes_nodes_once_at_its_time() -> None:
    book = Book()
    one, two = NodeSpec("n1", {"cpu": 1000}), NodeSpec("n2", {"cpu": 1000})
    book.take(nodes=(one,), nodes_at=10, nodes_complete=True)
    book.take(nodes=(NodeSpec("n1", {"cpu": 3000}), two), nodes_at=20, nodes_complete=True)
    assert book.said() == [("node_joined", 10), ("node_joined", 20), ("pool_resized", 20)]
    book.take(nodes=(two,), nodes_at=30, nodes_complete=True)
    assert book.said()[3:] == [("node_left", 30)]
    assert book.take(nodes=(one,), nodes_at=10, nodes_complete=True).outcome == "unchanged"


# --- pieces --------------------------------------------------------------------------------------


@st.composite
def wholes(draw: Any) -> Fact:
    """A fact that says all there is to say of one allocation."""
    times = sorted(draw(st.lists(st.integers(0, 50), min_size=6, max_size=6)))
    asked, began, moved, moved_again, seen, ended = times
    if draw(st.integers(0, 4)) == 0:
        gone = draw(st.booleans())
        return fact(
            requested_at=asked,
            ended_at=ended if gone else None,
            ended_by="withdrawn" if gone else "released",
        )
    moves: tuple[Any, ...] = ()
    if moved > began and draw(st.booleans()):
        moves = ((moved, ON_N2),)
        if moved_again > moved:
            moves += ((moved_again, ON_N1),)
    is_over = draw(st.booleans())
    begins = draw(st.booleans())
    return fact(
        requested_at=draw(st.sampled_from([None, asked])),
        began_at=began if begins else None,
        seen_from=began if not begins or draw(st.booleans()) else None,
        seen_until=seen,
        placements=ON_N1,
        moves=moves,
        usage=draw(st.sampled_from([None, usage(began, seen)])),
        ended_at=ended if is_over else None,
        ended_by=draw(st.sampled_from(["released", "forced"])) if is_over else "released",
        task=draw(st.sampled_from([None, "t"])),
    )


GROUPS = (
    ("requested_at",),
    ("began_at", "placements"),
    ("seen_from", "placements"),
    ("seen_until",),
    ("ended_at", "ended_by"),
    ("moves",),
    ("usage",),
    ("task", "seen_until"),
)


def pieces_of(draw: Any, whole: Fact) -> list[Fact]:
    """Facts that together say what a whole one does: some of its groups each, repeated, shuffled."""
    default = {f.name: f.default for f in fields(Fact)}
    said = [g for g in GROUPS if getattr(whole, g[0]) not in (None, ())]
    parts = [draw(st.integers(0, 3)) for _ in said]
    pieces = []
    for part in set(parts):
        names = {name for g, p in zip(said, parts, strict=True) if p == part for name in g}
        pieces.append(
            fact(**{n: getattr(whole, n) for n in names if getattr(whole, n) != default[n]})
        )
    again = draw(st.lists(st.sampled_from(pieces), max_size=3))
    return list(draw(st.permutations([*pieces, *again])))


def final(life: Life) -> tuple[Any, ...]:
    held = max(life.held_until or 0, life.granted_at or 0) if life.state == "open" else None
    return (
        life.requested_at,
        life.granted_at,
        life.is_since_before,
        life.ended_at,
        life.ended_by,
        held,
        life.holder,
        life.task,
        life.timeline(),
        sorted(life.usages, key=repr),
    )


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_facts_in_pieces_in_any_order_come_to_the_same_record_as_the_whole(data: Any) -> None:
    whole = data.draw(wholes())
    pieces = pieces_of(data.draw, whole)
    given_whole, given_pieces = Book(), Book()
    given_whole.take(whole)
    if data.draw(st.booleans()):
        given_pieces.take(*pieces)
    else:
        for piece in pieces:
            given_pieces.take(piece)
    assert final(given_pieces.life()) == final(given_whole.life())
    head = given_pieces.writer.log.head()
    assert given_pieces.take(*pieces).outcome == "unchanged"
    assert given_pieces.take(whole).outcome == "unchanged"
    assert given_pieces.writer.log.head() == head
    check_whole(given_pieces.writer)
