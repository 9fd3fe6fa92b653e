"""Folding rows into a book comes to the same as evolving it by each event."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.accounts import REMINDERS_SPARE
from ledger.advance import ASKED_FOR_CAUSE
from ledger.book import Book
from ledger.codec import fact_of, from_row, to_row
from ledger.commands import (
    Allocate,
    Claim,
    OpenLedger,
    OpenPool,
    RecordUsage,
    Release,
    RenewHolder,
)
from ledger.errors import LedgerCorrupt
from ledger.events import AnyBody, Cause, Event
from ledger.evolve import evolve
from ledger.fields import dump
from ledger.fold import PASSED_OVER, fold
from ledger.log import GENESIS, Row
from ledger.quick import replace
from ledger.requests import NodeSpec, Request
from ledger.rules.leases import next_due
from ledger.step import take_step
from tests.ledgers import Ledger
from tests.scenario import SECOND, Scenario
from tests.unit.storage_examples import BODIES
from tests.unit.test_whatif_writers import history


def rows_with_usage() -> list[Row]:
    book = Book()
    commands = (
        OpenLedger(command_id="1", ledger_id="x"),
        OpenPool(command_id="2", pool="p", nodes=(NodeSpec("n", {"cpu": 4000}),)),
        Allocate(command_id="3", pool="p", holder="h", request=Request({"cpu": 1}, ttl_ns=10**9)),
        RecordUsage(
            command_id="4", allocation="A3", since=1, until=2, used={"cpu": 1}, peak={"cpu": 1}
        ),
        Release(command_id="5", allocation="A3", claim=Claim("h")),
    )
    rows: list[Row] = []
    for now, command in enumerate(commands, start=1_000):
        for event in take_step(book, command, now).events:
            rows.append(to_row(event, rows[-1].hash if rows else GENESIS))
    return rows


def test_a_fold_that_passes_usage_over_comes_to_the_same_book() -> None:
    rows = rows_with_usage()
    assert {row.type for row in rows} >= PASSED_OVER
    evolved, folded = Book(), Book()
    for count, row in enumerate(rows, start=1):
        evolve(evolved, from_row(row))
        assert fold(folded, rows[count - 1 : count]) == row
        assert dump(folded) == dump(evolved)


def test_a_fold_of_nothing_leaves_the_book_as_it_is() -> None:
    book = Book()
    assert fold(book, []) is None
    assert dump(book) == dump(Book())


def test_a_usage_row_that_does_not_follow_is_damage_like_any_other() -> None:
    rows = rows_with_usage()
    usage = next(row for row in rows if row.type in PASSED_OVER)
    with pytest.raises(LedgerCorrupt, match="does not follow"):
        fold(Book(), [usage])


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.TYPE)
@pytest.mark.parametrize("cause", [None, Cause("c", "ab" * 32), Cause("c", "ab" * 32, 1, 3)])
def test_a_fact_is_the_event_without_what_no_book_goes_by(
    body: AnyBody, cause: Cause | None
) -> None:
    event = Event(1, 2, 3, "t", "p", "A1", "h", "k", cause, body, {"note": "x"})
    row = to_row(event, GENESIS)
    kept = from_row(row) == event and body.TYPE in ASKED_FOR_CAUSE
    fact = fact_of(row)
    assert fact == (event if kept else replace(event, cause=None, metadata=None))


@given(seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_fold_of_anything_comes_to_the_same_as_evolving_by_whole_events(
    tmp_path: Path, seed: int
) -> None:
    with closing(Ledger(tmp_path, "memory")) as ledger:
        history(ledger, seed, 60, 0)
        rows = list(ledger.writer.log.read())
    evolved, folded = Book(), Book()
    for row in rows:
        evolve(evolved, from_row(row))
        fold(folded, [row])
    assert dump(folded) == dump(evolved)


def test_a_row_that_is_no_event_is_damage_in_a_fold_as_anywhere() -> None:
    rows = rows_with_usage()
    torn = rows[2]._replace(data=rows[2].data.replace('"digest"', '"digests"'))
    with pytest.raises(LedgerCorrupt, match=r"event 3 .* cannot be read"):
        fold(Book(), [*rows[:2], torn])


def test_reminders_of_renewed_leases_do_not_pile_up() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 100})
    # While this one is due before them, reminders that are out of date are not met at the top.
    early = s.got({"cpu": 1}, holder="early", ttl=900)
    for _ in range(20):
        s.got({"cpu": 1}, ttl=1_000)
    for number in range(100):
        s.when(RenewHolder(command_id=f"r{number}", holder="h1", ttl_ns=(2_000 + number) * SECOND))
    assert len(s.book.due) <= 2 * 20 + REMINDERS_SPARE + 20
    assert next_due(s.book) == s.book.allocations[early].lease_until
