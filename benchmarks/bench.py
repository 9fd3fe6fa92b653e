"""What every benchmark stands on: ledgers to measure, plain SQLite beside them, and commands."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ledger.commands import Allocate, AllocateBatch, AnyCommand, Claim, OpenPool, Release
from ledger.log import Row
from ledger.memory_log import MemoryLog
from ledger.requests import NodeSpec, Request
from ledger.snapshots import Snapshots
from ledger.sqlite_driver import connect, sqlite3
from ledger.sqlite_log import SqliteLog
from ledger.writer import Writer, begin

COLUMNS = ", ".join(Row._fields)
INSERT = f"INSERT INTO events ({COLUMNS}) VALUES ({', '.join('?' * len(Row._fields))})"
POOL = "pool"
TTL_NS = 900 * 10**9
_NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a benchmark puts its files, and whether it is to be quick."""

    folder: Path
    quick: bool = False

    def times(self, full: int) -> int:
        """How often to do something: ``full`` times, or a tenth of it."""
        return max(1, full // 10) if self.quick else full


def allocate(ttl_ns: int = TTL_NS) -> Allocate:
    """An ordinary request: one core and a GiB, for one of 50 holders and 500 tasks."""
    number = next(_NUMBERS)
    return Allocate(
        command_id=f"c{number:09}",
        pool=POOL,
        holder=f"agent-{number % 50}",
        task=f"task-{number % 500}",
        request=Request({"cpu": 1000, "memory": 2**30}, ttl_ns=ttl_ns),
    )


def make_batch(size: int, ttl_ns: int = TTL_NS) -> AllocateBatch:
    """A batch of ordinary requests."""
    items = tuple(allocate(ttl_ns) for _ in range(size))
    return AllocateBatch(command_id=f"b{next(_NUMBERS):09}", items=items)


def release_all(writer: Writer) -> list[Release]:
    """Commands that give back everything that is held."""
    held = writer.read(lambda book, now: [(a.id, a.holder) for a in book.allocations.values()])
    return [
        Release(command_id=f"r{next(_NUMBERS):09}", allocation=a, claim=Claim(holder))
        for a, holder in held
    ]


async def execute_all(writer: Writer, commands: list[Any]) -> None:
    """Carry out many commands, a thousand at a time."""
    import asyncio

    for start in range(0, len(commands), 1_000):
        some = commands[start : start + 1_000]
        await asyncio.gather(*(writer.execute_async(command) for command in some))


def set_up(writer: Writer) -> None:
    """Open the ledger and a pool that has room for everything."""
    begin(writer.log, "benchmark", writer)
    node = NodeSpec("node", {"cpu": 10**12, "memory": 2**60})
    writer.execute(OpenPool(command_id="open-pool", pool=POOL, nodes=(node,)))


@contextmanager
def ledger(path: Path) -> Iterator[Writer]:
    """A new durable ledger with its pool, and snapshots beside it."""
    writer = Writer(SqliteLog.open(path, create=True), snapshots=Snapshots(path))
    set_up(writer)
    with closing(writer):
        yield writer


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """Plain SQLite on an empty file of the same tables, indexes, triggers, pragmas, durability."""
    SqliteLog.open(path, create=True).close()
    connection = connect(path)
    connection.execute("PRAGMA synchronous = FULL").close()
    connection.execute("PRAGMA secure_delete = ON").fetchall()
    mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    assert mode == "wal", f"the raw file has journal mode {mode}"
    with closing(connection):
        yield connection


def rows_of(
    commands: list[AnyCommand],
) -> tuple[list[tuple[Any, ...]], list[list[tuple[Any, ...]]]]:
    """The rows that set a ledger up, and those of each command: the bytes that raw SQLite writes."""
    log = MemoryLog()
    writer = Writer(log)
    set_up(writer)
    first = [tuple(row) for row in log.read()]
    each = []
    for command in commands:
        position = log.head().position
        writer.execute(command)
        # What the ledger adds by itself now and then is left out, so positions are made to fit.
        each.append([tuple(row) for row in log.read(position) if row.type != "checkpointed"])
    position = len(first)
    for rows in each:
        for index, row in enumerate(rows):
            position += 1
            rows[index] = (position, *row[1:])
    return first, each


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of what each turn of the two came to, one beside the other.

    On a machine whose speed changes from one second to the next, neighbours in time can be compared
    where medians of the whole run cannot.
    """
    return median(a / b for a, b in zip(ours, theirs, strict=True))


@contextmanager
def steady() -> Iterator[None]:
    """Start from a collected heap, so that what ran before does not weigh on what is measured."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
