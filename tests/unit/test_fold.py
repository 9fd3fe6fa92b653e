"""Folding rows into a book comes to the same as evolving it by each event."""

from __future__ import annotations

import pytest

from ledger.book import Book
from ledger.codec import from_row, to_row
from ledger.commands import Allocate, Claim, OpenLedger, OpenPool, RecordUsage, Release
from ledger.errors import LedgerCorrupt
from ledger.evolve import evolve
from ledger.fields import dump
from ledger.fold import PASSED_OVER, fold
from ledger.log import GENESIS, Row
from ledger.requests import NodeSpec, Request
from ledger.step import take_step


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
