"""Utilization of a real ledger: the projections' sums against those that the events themselves give."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import leasebook
from ledger.commands import Adjust, Claim, Renew, Transfer
from projections import views_file
from projections.engine import Engine
from reports.efficiency import efficiency_by
from reports.utilization import utilization
from tests.ledgers import SECOND, Ledger

CORES = 8


@contextmanager
def a_ledger() -> Iterator[Ledger]:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder), "sqlite")
        ledger.pool(n1={"cpu": CORES * 1000}, n2={"cpu": CORES * 1000})
        try:
            yield ledger
        finally:
            ledger.close()


def rows_of(ledger: Ledger, *by: str) -> list[dict[str, Any]]:
    """The report as of the ledger's present time, with nothing written that is only due."""
    now = ledger.clock.reading.wall
    with Engine(ledger.writer.log, ledger.path.with_name("ledger.db.views.db")) as engine:
        assert engine.catch_up().failed == ()
        with closing(engine.connect()) as views:
            return utilization(views, by, now=now).rows


def granted_by_events(ledger: Ledger) -> dict[str, int]:
    """What was granted altogether, base units × seconds, as the efficiency report has it."""
    rows = efficiency_by(ledger.events(), "pool", now=ledger.clock.reading.wall)
    return rows[0].granted_seconds if rows else {}


step = st.one_of(
    st.tuples(st.just("ask"), st.integers(1, 6), st.sampled_from([5, 40, 400])),
    st.tuples(st.just("nest"), st.integers(0, 9), st.integers(1, 2)),
    st.tuples(st.just("adjust"), st.integers(0, 9), st.integers(1, 5)),
    st.tuples(st.just("transfer"), st.integers(0, 9), st.sampled_from(["h2", "h3"])),
    st.tuples(st.just("renew"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("release"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("wait"), st.integers(1, 30), st.just(0)),
)


def _do(
    ledger: Ledger, held: list[str], holders: dict[str, str], one: tuple[str, int, Any]
) -> None:
    what, number, value = one
    if what == "wait":
        ledger.clock.run(number)
        return
    if what == "ask":
        receipt = ledger.ask(number * 1000, ttl=value, wait=60)
        if receipt.allocation is not None:
            held.append(receipt.allocation.id)
            holders[held[-1]] = "h1"
        return
    if not held:
        return
    allocation = held[number % len(held)]
    claim = Claim(holders[allocation])
    if what == "nest":
        receipt = ledger.ask(value * 500, ttl=20, parent=allocation, holder=holders[allocation])
        if receipt.allocation is not None:
            held.append(receipt.allocation.id)
            holders[held[-1]] = holders[allocation]
        return
    about: dict[str, Any] = {
        "command_id": ledger.next_id(),
        "allocation": allocation,
        "claim": claim,
    }
    if what == "adjust":
        ledger.do(Adjust(**about, amounts={"cpu": value * 1000}))
    elif what == "renew":
        ledger.do(Renew(**about, ttl_ns=50 * SECOND))
    elif what == "release":
        ledger.release(allocation, holders[allocation])
    elif ledger.do(Transfer(**about, to_holder=value)).outcome != "refused":
        holders[allocation] = value


@settings(max_examples=40)
@given(st.lists(step, max_size=25))
def test_tables_and_events_come_to_the_same_and_lateness_changes_nothing(
    steps: list[tuple[str, int, Any]],
) -> None:
    with a_ledger() as ledger:
        ledger.clock.run(1)
        held: list[str] = []
        holders: dict[str, str] = {}
        for one in steps:
            _do(ledger, held, holders, one)
        unwritten = {by: rows_of(ledger, by) for by in ("hour", "holder", "pool", "allocation")}
        ledger.writer.settle()
        written = {by: rows_of(ledger, by) for by in unwritten}
        if not any(each.type == "allocated" for each in ledger.events()[-3:]):
            # What waited may have been granted at this very moment; else nothing has changed.
            assert unwritten == written
        (row,) = written["pool"]
        assert row["granted_seconds"].get("cpu", 0) == granted_by_events(ledger).get("cpu", 0)
        assert row["over_capacity"] == {}
        assert row["granted_seconds"].get("cpu", 0) <= row["capacity_seconds"]["cpu"]
        for by in ("holder", "allocation"):
            total = sum(each["granted_seconds"].get("cpu", 0) for each in written[by])
            # Each row is rounded down to whole units.
            lost = row["granted_seconds"].get("cpu", 0) - total
            assert 0 <= lost <= len(written[by]), by


def test_what_draws_on_another_and_what_is_due_is_counted_once() -> None:
    with a_ledger() as ledger:
        parent = ledger.got(4000, ttl=100)
        ledger.got(2000, ttl=50, parent=parent)
        ledger.clock.run(60)
        ledger.got(1000, holder="h2")
        ledger.clock.run(100)
        (row,) = rows_of(ledger, "pool")
        # Commits are a nanosecond apart at least, and rows are rounded down.
        assert row["granted_seconds"]["cpu"] in (500_000 - 1, 500_000)
        assert (row["allocations_started"], row["allocations_ended"]) == (2, 1)
        whole = 2 * CORES * 1000 * 160
        assert row["capacity_seconds"]["cpu"] in (whole - 1, whole)


def test_who_may_only_read_gets_the_report_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with leasebook.open(tmp_path / "l.db") as book:
        book.open_pool("box", capacity={"cpu": 8})
        book.allocate({"cpu": 2}, pool="box", holder="h")
    whole = views_file.open_views

    def unwritable(path: Path, **options: Any) -> Any:
        if path.parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        return whole(path, **options)

    monkeypatch.setattr(views_file, "open_views", unwritable)
    with leasebook.open(tmp_path / "l.db") as book:
        (row,) = book.report("utilization", by="pool")
    assert row["pool"] == "box" and row["allocations_started"] == 1
