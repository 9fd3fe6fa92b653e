"""Corners of imported history: amounts over several nodes, moves, corrections, ends before starts."""

from __future__ import annotations

from typing import Any

from ledger.codec import from_row
from ledger.commands import Fact, OpenPool, RecordFacts
from ledger.events import Corrected, Event
from ledger.memory_log import MemoryLog
from ledger.requests import Placement, Request
from ledger.rules.history import Life, amounts_of, frozen
from ledger.writer import Writer, begin
from tests.ledgers import Clock

CPU = Request({"cpu": 4})


class Far:
    """A ledger with an observed pool."""

    def __init__(self) -> None:
        self.writer = Writer(MemoryLog(), clock=Clock())
        begin(self.writer.log, "test-ledger", self.writer)
        self.writer.execute(OpenPool(command_id="p", pool="far", nodes=(), kind="observed"))

    def take(self, **said: Any) -> None:
        one = Fact(**{"key": "k", "holder": "ann", "request": CPU, **said})
        self.writer.execute(RecordFacts(command_id="", pool="far", facts=(one,)))

    def events(self) -> list[Event]:
        first = self.writer.log.rows_of_command("default", "k")
        rows = self.writer.log.rows_of_allocation(str(first[0].allocation))
        return [from_row(row) for row in rows]

    def life(self) -> Life:
        return Life(self.events())


def on(node: str, cpu: int, **cards: int) -> Placement:
    devices = {"gpu": cards} if cards else None
    gpus = {"gpu": sum(cards.values())} if cards else {}
    return Placement(node, {"cpu": cpu, **gpus}, {}, devices)


def test_what_stands_on_several_nodes_amounts_to_their_sum() -> None:
    assert amounts_of((on("a", 1), on("b", 2))) == {"cpu": 3}


def test_a_move_at_or_before_the_start_says_where_it_stood_from_the_start_on() -> None:
    far = Far()
    far.take(began_at=10, placements=(on("a", 4),), moves=((10, (on("b", 4),)),))
    assert far.life().timeline() == [(10, frozen((on("b", 4),)))]


def test_a_request_that_was_later_than_its_start_is_forgotten() -> None:
    far = Far()
    far.take(requested_at=50)
    far.take(began_at=10, ended_at=20)
    life = far.life()
    assert (life.granted_at, life.ended_at) == (10, 20)
    assert life.requested_at is None


def test_other_amounts_of_what_began_are_a_correction() -> None:
    far = Far()
    far.take(began_at=10)
    far.take(began_at=10, request=Request({"cpu": 8}))
    corrections = [e.body for e in far.events() if isinstance(e.body, Corrected)]
    assert [each.facts for each in corrections] == [{"amounts": {"cpu": 8}}]
    assert far.life().amounts == {"cpu": 8}
    before = len(far.events())
    far.take(began_at=10, request=Request({"cpu": 8}))
    assert len(far.events()) == before


def test_a_correction_of_where_it_stood_names_the_cards() -> None:
    far = Far()
    far.take(began_at=10, placements=(on("a", 4, **{"0": 1000}),))
    far.take(began_at=10, placements=(on("a", 4, **{"1": 1000}),))
    (fixed,) = [e.body for e in far.events() if isinstance(e.body, Corrected)]
    assert fixed.facts["placements"][0]["devices"] == {"gpu": {"1": 1000}}
    assert far.life().placements[0].devices == {"gpu": {"1": 1000}}


def test_an_end_that_was_told_before_its_start_is_the_end_of_what_began() -> None:
    far = Far()
    far.take(requested_at=5, ended_at=30, ended_by="timed_out")
    far.take(began_at=10)
    life = far.life()
    assert (life.granted_at, life.ended_at, life.state) == (10, 30, "ended")
