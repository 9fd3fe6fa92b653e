"""The projections of real ledgers: they agree with the book, in whatever pieces they were caught up."""

from __future__ import annotations

import contextlib
import json
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import orjson
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ledger.book import LIVE, Book
from ledger.clock import Reading
from ledger.codec import from_row
from ledger.commands import FinishTask, RecordUsage, SeeHolder, StartTask
from ledger.errors import LeasebookError
from ledger.evolve import evolve
from ledger.memory_log import MemoryLog
from ledger.sqlite_log import SqliteLog
from ledger.writer import Writer
from projections.engine import Engine, views_path
from tests.unit.command_maker import PROCESS, SECOND, TENANTS, CommandMaker

STEPS = 120


class HandClock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_790_000_000 * SECOND

    def __call__(self) -> Reading:
        return Reading(self.now, self.now, self.now, "boot")


def live_through(log: Any, seed: int, steps: int = STEPS) -> None:
    """A random history on a log, through a real writer."""
    clock = HandClock()
    writer = Writer(log, clock=clock)
    maker, random = CommandMaker(seed), Random(seed)
    opening = maker.opening()
    for number in range(steps):
        clock.now += maker.wait()
        if number < len(opening):
            writer.execute(opening[number])
            continue
        book = writer.read(lambda book, now: book.fork())
        with contextlib.suppress(LeasebookError):
            writer.execute(maker.next(book))
        if random.random() < 0.25:
            with contextlib.suppress(LeasebookError):
                writer.execute(_aside(maker, random, book, clock.now))


def _aside(maker: CommandMaker, random: Random, book: Book, now: int) -> Any:
    """What is told about holders, tasks and use."""
    tenant = random.choice(TENANTS)
    what = random.randrange(5)
    if what == 0:
        return StartTask(command_id=maker.id(), tenant=tenant, task="t1", by="ann")
    if what == 1:
        return FinishTask(command_id=maker.id(), tenant=tenant, task="t1", by="ann", outcome="done")
    if what == 2:
        return SeeHolder(command_id=maker.id(), tenant=tenant, holder="h1", process=PROCESS)
    held = [a for a in book.allocations.values() if a.state == "active"]
    if not held:
        return StartTask(command_id=maker.id(), tenant=tenant, task="t2", by="bob")
    one = random.choice(held)
    return RecordUsage(
        command_id=maker.id(),
        tenant=one.tenant,
        allocation=one.id,
        since=now - SECOND,
        until=now,
        used={"cpu": random.randrange(5)},
        peak={"cpu": random.randrange(5)},
        exit_code=random.choice((None, 0, 1)),
    )


def book_of(log: Any) -> Book:
    """The book that the log's events add up to."""
    book = Book()
    for row in log.read():
        evolve(book, from_row(row))
    return book


def table(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    with closing(engine.connect()) as connection:
        return [tuple(row) for row in connection.execute(sql)]


def contents(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in all tables of the projections, in order."""
    tables = [name for status in engine.status() for name in status.tables]
    return {name: sorted(table(engine, f"SELECT * FROM {name}"), key=repr) for name in tables}


def assert_as_the_book(engine: Engine, book: Book) -> None:
    """Allocations, nodes, cards, queue, tenants, tasks: as the book has them."""
    live = {
        row[0]: row[1:]
        for row in table(
            engine,
            "SELECT id, state, tenant, holder, task, pool, amounts, placements, token, granted_at,"
            " max_age_until, strategy, gang, parent, requested_at"
            " FROM allocations WHERE state <> 'ended'",
        )
    }
    assert live.keys() == book.allocations.keys()
    ends = {
        row[0]: row[1:]
        for row in table(engine, "SELECT id, expires_at, deadline_at FROM allocations")
    }
    for id_, a in book.allocations.items():
        state, tenant, holder, task, pool, amounts, placements, *rest = live[id_]
        assert (state, tenant, holder, task, pool) == (
            a.state,
            a.tenant,
            a.holder,
            a.task,
            a.pool,
        )
        assert orjson.loads(amounts) == a.amounts
        if a.state in LIVE:
            nodes = [(p["node"], p["amounts"]) for p in orjson.loads(placements)]
            assert nodes == [(p.node, p.amounts) for p in a.placements]
            strategy = a.strategy
        else:
            strategy = None
        assert rest == [
            a.token,
            a.granted_at,
            a.max_age_until,
            strategy,
            a.gang,
            a.request.parent,
            a.requested_at,
        ], id_
        assert ends[id_] == (
            a.deadline if a.state == "reserved" else a.lease_until,
            a.deadline,
        ), (id_, a)
    _assert_pools(engine, book)
    _assert_who(engine, book)


def _assert_pools(engine: Engine, book: Book) -> None:
    in_use, outside, spent, capacity = {}, {}, {}, {}
    for pool, node, resource, size, used, gone, others in table(
        engine,
        "SELECT pool, node, resource, capacity, in_use, spent, outside FROM node_resources",
    ):
        key = (pool, node, resource)
        capacity[key], in_use[key], spent[key], outside[key] = size, used, gone, others
    open_now: Counter[tuple[str, str, str]] = Counter()
    for row in table(
        engine, "SELECT pool, node, resource, amount FROM spans WHERE until_at IS NULL"
    ):
        open_now[row[0], row[1], row[2]] += row[3]
    cards = {
        tuple(row[:4]): row[4]
        for row in table(
            engine, "SELECT pool, node, resource, card, in_use FROM devices WHERE in_use > 0"
        )
    }
    expected_cards = {}
    for pool in book.pools.values():
        for node in pool.space.nodes.values():
            for resource in {*node.capacity, *node.in_use, *node.outside}:
                key = (pool.name, node.name, resource)
                assert in_use.get(key, 0) == node.in_use.get(resource, 0), key
                gone = pool.spent.get(node.name, {}).get(resource, 0)
                assert spent.get(key, 0) == gone, key
                assert open_now[key] == node.in_use.get(resource, 0) - gone, key
                assert outside.get(key, 0) == node.outside.get(resource, 0), key
                assert capacity.get(key) == node.capacity.get(resource), key
            for resource, shares in node.cards_in_use.items():
                for card, amount in shares.items():
                    expected_cards[pool.name, node.name, resource, card] = amount
    assert cards == expected_cards
    nodes = {tuple(row): None for row in table(engine, "SELECT pool, node, cordoned FROM nodes")}
    assert set(nodes) == {
        (pool.name, node.name, int(node.cordoned))
        for pool in book.pools.values()
        for node in pool.space.nodes.values()
    }
    present: dict[tuple[str, str, str], int] = {}
    for row in table(
        engine, "SELECT pool, node, resource, amount FROM capacity WHERE until_at IS NULL"
    ):
        assert row[:3] not in present
        present[row[0], row[1], row[2]] = row[3]
    assert present == {key: size for key, size in capacity.items() if size is not None}


def _assert_who(engine: Engine, book: Book) -> None:
    waiting = [
        a.id
        for a in sorted(book.allocations.values(), key=lambda a: a.position)
        if a.state == "waiting"
    ]
    found = table(engine, "SELECT id, until_at, kept_node FROM queue ORDER BY position")
    assert [row[0] for row in found] == waiting
    for id_, until, kept in found:
        assert until == book.allocations[id_].deadline
        assert kept == (",".join(book.allocations[id_].claims) or None)
    held: dict[tuple[str, str, str], int] = {}
    everywhere: Counter[tuple[str, str]] = Counter()
    for pool in book.pools.values():
        for (tenant, holder), amounts in pool.held.items():
            if holder is None:
                for resource, amount in amounts.items():
                    held[tenant, pool.name, resource] = amount
                    everywhere[tenant, resource] += amount
    found_held = {
        tuple(row[:3]): row[3]
        for row in table(engine, "SELECT tenant, pool, resource, held FROM tenants WHERE held <> 0")
    }
    assert found_held == {
        **{key: amount for key, amount in held.items() if amount},
        **{(t, "", r): amount for (t, r), amount in everywhere.items() if amount},
    }
    quotas: dict[tuple[str, str | None, str | None], dict[str, int]] = defaultdict(dict)
    for tenant, holder, pool_name, resource, quota in table(
        engine, "SELECT tenant, holder, pool, resource, quota FROM quotas"
    ):
        quotas[tenant, holder or None, pool_name or None][resource] = quota
    assert quotas == book.quotas
    started = {
        (row[0], row[1]): row[2]
        for row in table(
            engine,
            "SELECT tenant, task, started_at FROM tasks"
            " WHERE started_at IS NOT NULL AND finished_at IS NULL",
        )
    }
    assert started == book.tasks
    live = Counter((a.tenant, a.holder) for a in book.allocations.values() if a.state in LIVE)
    assert live == Counter(
        {
            (row[0], row[1]): row[2]
            for row in table(engine, "SELECT tenant, holder, live FROM holders WHERE live")
        }
    )


def assert_consistent(engine: Engine) -> None:
    """The tables agree among themselves: steps with spans, counts with allocations."""
    sums: Counter[tuple[str, ...]] = Counter()
    for *key, granted in table(
        engine,
        "SELECT pool, node, resource, sum(granted) FROM steps GROUP BY pool, node, resource",
    ):
        sums[tuple(key)] += granted
    for *key, amount in table(
        engine,
        "SELECT pool, node, resource, sum(amount) FROM spans WHERE until_at IS NULL"
        " GROUP BY pool, node, resource",
    ):
        sums[tuple(key)] -= amount
    assert not any(sums.values())
    assert not table(engine, "SELECT * FROM series WHERE granted < 0")
    assert not table(engine, "SELECT * FROM spans WHERE until_at < since_at")
    assert not table(
        engine,
        "SELECT pool, node, resource, sum(used) FROM steps GROUP BY 1, 2, 3 HAVING sum(used) <> 0",
    )
    for column in ("holder", "task"):
        counted = table(
            engine,
            f"SELECT tenant, {column}, allocations, waiting, live, ended, wait_ns FROM {column}s"
            " WHERE allocations > 0 ORDER BY 1, 2",
        )
        assert counted == table(
            engine,
            f"SELECT tenant, {column}, count(*), sum(state = 'waiting'),"
            " sum(state IN ('active', 'reserved', 'ending')), sum(state = 'ended'),"
            " coalesce(sum(wait_ns), 0) FROM allocations"
            f" WHERE {column} IS NOT NULL GROUP BY tenant, {column} ORDER BY 1, 2",
        )
        assert _sums_kept(engine, column) == _sums_of_spans(engine, column)


def _sums_kept(engine: Engine, column: str) -> dict[tuple[str, ...], int]:
    """(tenant, party, resource) → what was granted in spans that have ended, as its row keeps it."""
    rows = table(engine, f"SELECT tenant, {column}, granted_seconds FROM {column}s")
    return {
        (tenant, name, resource): amount
        for tenant, name, kept in rows
        for resource, amount in json.loads(kept).items()
        if amount
    }


def _sums_of_spans(engine: Engine, column: str) -> dict[tuple[str, ...], int]:
    """The same, added up anew."""
    rows = table(
        engine,
        f"SELECT a.tenant, s.{column}, s.resource, sum(s.amount * (s.until_at - s.since_at)"
        " / 1000000000) FROM spans AS s JOIN allocations AS a ON a.id = s.allocation"
        f" WHERE s.until_at IS NOT NULL AND s.{column} IS NOT NULL GROUP BY 1, 2, 3",
    )
    return {tuple(key): amount for *key, amount in rows if amount}


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # A seed does not get simpler by being smaller.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(seed=st.integers(0, 2**32))
def test_any_history_comes_to_what_the_book_says_in_whatever_pieces(
    tmp_path_factory: Any, seed: int
) -> None:
    folder: Path = tmp_path_factory.mktemp("history")
    random = Random(seed)
    with SqliteLog.open(folder / "a.db", create=True) as log:
        live_through(log, seed)
        book = book_of(log)
        with Engine(log, folder / "whole.views.db") as whole:
            whole.catch_up()
            assert_as_the_book(whole, book)
            assert_consistent(whole)
            with Engine(log, folder / "pieces.views.db") as pieces:
                position = 0
                while position < book.position:
                    position += random.choice((1, 2, 5, 30))
                    if random.random() < 0.3:
                        with Engine(log, pieces.path) as another:
                            another.catch_up(position)
                    else:
                        pieces.catch_up(position)
                assert contents(pieces) == contents(whole)
                assert pieces.check() is None
                pieces.rebuild()
                assert contents(pieces) == contents(whole)


def test_projections_of_a_log_in_memory_are_the_same(tmp_path: Path) -> None:
    log = MemoryLog()
    live_through(log, 7)
    with Engine(log, views_path(tmp_path / "m.db")) as engine:
        progress = engine.catch_up()
        assert progress.position == log.head().position
        assert_as_the_book(engine, book_of(log))
