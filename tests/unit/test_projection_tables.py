"""What single events make of the tables: given events, then rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.commands import (
    Adjust,
    Allocate,
    AnyCommand,
    Claim,
    OpenLedger,
    OpenPool,
    RecordUsage,
    Release,
    ResizePool,
    Transfer,
)
from ledger.memory_log import MemoryLog
from ledger.requests import NodeSpec, Request
from ledger.writer import Writer
from projections.engine import Engine
from tests.integration.test_projections import HandClock, table

SECOND = 1_000_000_000


class Given:
    """A ledger of one pool, its commands carried out ten seconds apart, and its projections."""

    def __init__(self, path: Path) -> None:
        self.log = MemoryLog()
        self.clock = HandClock()
        self.start = self.clock.now
        self.writer = Writer(self.log, clock=self.clock)
        self.engine = Engine(self.log, path)
        self._ids = 0
        self.do(OpenLedger(command_id="ledger", ledger_id="L"))
        self.do(OpenPool(command_id="pool", pool="box", nodes=(NodeSpec("n1", {"cpu": 8}),)))

    def do(self, command: AnyCommand) -> Any:
        receipt = self.writer.execute(command)
        self.clock.now += 10 * SECOND
        return receipt

    def id(self) -> str:
        self._ids += 1
        return f"c{self._ids}"

    def ask(self, cpu: int = 1, **options: Any) -> str:
        more = {n: options.pop(n) for n in ("holder", "task", "tenant") if n in options}
        request = Request({"cpu": cpu}, **{"ttl_ns": 3_600 * SECOND, **options})
        command = Allocate(
            command_id=self.id(), pool="box", request=request, **{"holder": "ann", **more}
        )
        receipt = self.do(command)
        return "" if receipt.allocation is None else str(receipt.allocation.id)

    def release(self, allocation: str, holder: str = "ann") -> None:
        self.do(Release(command_id=self.id(), allocation=allocation, claim=Claim(holder)))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a query says, times as seconds since the ledger was opened."""
        assert self.engine.catch_up().failed == ()
        return [
            tuple(
                (value - self.start) // SECOND
                if isinstance(value, int) and value >= self.start
                else value
                for value in row
            )
            for row in table(self.engine, sql)
        ]


@pytest.fixture
def given(tmp_path: Path) -> Iterator[Given]:
    one = Given(tmp_path / "v.views.db")
    yield one
    one.engine.close()


def test_adjusting_closes_a_span_and_opens_the_next(given: Given) -> None:
    id_ = given.ask(2)
    given.do(Adjust(command_id="a", allocation=id_, claim=Claim("ann"), amounts={"cpu": 5}))
    given.release(id_)
    assert given.rows("SELECT seq, amount, since_at, until_at FROM spans ORDER BY seq") == [
        (0, 2, 20, 30),
        (1, 5, 30, 40),
    ]
    assert given.rows("SELECT at, granted FROM series ORDER BY at") == [(20, 2), (30, 5), (40, 0)]


def test_transfer_keeps_the_amounts_and_counts_for_the_new_holder(given: Given) -> None:
    id_ = given.ask(2, task="t1")
    given.do(Transfer(command_id="t", allocation=id_, claim=Claim("ann"), to_holder="bob"))
    given.release(id_, "bob")
    spans = given.rows("SELECT holder, since_at, until_at FROM spans ORDER BY seq")
    assert spans == [("ann", 20, 30), ("bob", 30, 40)]
    assert given.rows("SELECT at, granted FROM steps ORDER BY at") == [(20, 2), (40, -2)]
    assert given.rows("SELECT holder, ended, granted_seconds FROM holders ORDER BY holder") == [
        ("ann", 0, '{"cpu":20}'),
        ("bob", 1, '{"cpu":20}'),
    ]


def test_what_draws_on_another_allocation_counts_once(given: Given) -> None:
    parent = given.ask(4)
    given.ask(3, parent=parent)
    assert given.rows("SELECT sum(amount) FROM spans") == [(4,)]
    assert given.rows("SELECT amount FROM nested_spans") == [(3,)]
    assert given.rows("SELECT in_use FROM node_resources") == [(4,)]
    assert given.rows("SELECT held FROM tenants WHERE pool = 'box'") == [(4,)]


def test_wait_is_counted_from_the_request_to_the_grant(given: Given) -> None:
    first = given.ask(8)
    second = given.ask(8, holder="bob", wait_ns=600 * SECOND)
    assert given.rows("SELECT id, requested_at FROM queue") == [(second, 30)]
    given.release(first)
    assert given.rows("SELECT * FROM queue") == []
    assert given.rows(
        f"SELECT state, requested_at, granted_at, wait_ns FROM allocations WHERE id = '{second}'"
    ) == [("active", 30, 40, 10 * SECOND)]


def test_unmet_demand_is_summed_by_pool_reason_and_resource(given: Given) -> None:
    given.ask(8)
    given.ask(3)
    given.ask(5, holder="bob")
    assert (
        given.rows("SELECT verb, reason, repeats FROM refusals")
        == [("allocate", "insufficient_capacity", 0)] * 2
    )
    assert given.rows("SELECT pool, reason, resource, amount, requests FROM demand") == [
        ("box", "insufficient_capacity", "cpu", 8, 2)
    ]


def test_measured_use_is_summed_and_stands_in_the_series(given: Given) -> None:
    id_ = given.ask(2, task="t1")
    since = given.start + 20 * SECOND
    given.do(
        RecordUsage(
            command_id="u",
            allocation=id_,
            since=since,
            until=since + 10 * SECOND,
            used={"cpu": 15},
            peak={"cpu": 2},
            gaps_ns=2 * SECOND,
            exit_code=3,
        )
    )
    assert given.rows("SELECT used, peak, measured_ns, exit_code FROM allocations") == [
        ('{"cpu":15}', '{"cpu":2}', 8 * SECOND, 3)
    ]
    assert given.rows("SELECT used_seconds, measured_ns FROM tasks") == [('{"cpu":15}', 8 * SECOND)]
    assert given.rows("SELECT at, used FROM series ORDER BY at") == [(20, 1), (30, 0)]


def test_what_nobody_measured_is_missing_and_not_zero(given: Given) -> None:
    given.ask(2, task="t1")
    assert given.rows("SELECT used, peak, measured_ns FROM allocations") == [(None, None, None)]
    assert given.rows("SELECT used_seconds, measured_ns FROM tasks") == [(None, None)]


def test_capacity_is_kept_over_time(given: Given) -> None:
    given.do(ResizePool(command_id="r", pool="box", nodes=(NodeSpec("n1", {"cpu": 4}),)))
    assert given.rows("SELECT amount, since_at, until_at FROM capacity ORDER BY since_at") == [
        (8, 10, 20),
        (4, 20, None),
    ]
