"""Reading a whole log: folding it into a book, and verifying it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import orjson

from benchmarks.bench import (
    COLUMNS,
    Bench,
    allocate,
    execute_all,
    ledger,
    median_ratio,
    release_all,
    steady,
)
from benchmarks.table import Result
from ledger.commands import RecordUsage, Renew
from ledger.sqlite_driver import connect, sqlite3
from ledger.sqlite_log import SqliteLog
from ledger.verify import verify as verify_log
from ledger.writer import Writer

_ALL = f"SELECT {COLUMNS} FROM events ORDER BY position"


def _ordinary_lives(path: Path, events: int) -> None:
    """A log of ordinary allocations, four events each: granted, renewed, its usage, released."""
    with ledger(path) as writer:
        while writer.log.head().position < events:
            asyncio.run(execute_all(writer, [allocate() for _ in range(500)]))
            gone = release_all(writer)
            renewals = [
                Renew(command_id=f"n{r.command_id}", allocation=r.allocation, claim=r.claim)
                for r in gone
            ]
            usages = [
                RecordUsage(
                    command_id=f"u{r.command_id}",
                    allocation=r.allocation,
                    since=1,
                    until=60 * 10**9,
                    used={"cpu": 41_000, "memory": 31 * 2**30},
                    peak={"cpu": 950, "memory": 2**29},
                    basis={"cpu": "tree", "memory": "pss"},
                    samples=60,
                    final=True,
                )
                for r in gone
            ]
            for commands in (renewals, usages, gone):
                asyncio.run(execute_all(writer, list(commands)))


def _compare(
    bench: Bench, raw: Callable[[sqlite3.Connection], int], ours: Callable[[SqliteLog], int]
) -> tuple[float, float, float]:
    """Rows per second of both, turn by turn over the same file: ours, raw, and their ratio."""
    path = bench.folder / "ours.db"
    _ordinary_lives(path, bench.times(60_000))
    rates: tuple[list[float], list[float]] = ([], [])
    with closing(SqliteLog.open(path)) as log, closing(connect(path, read_only=True)) as connection:
        rows = log.head().position
        for _ in range(9):
            for kept, do in zip(rates, (partial(ours, log), partial(raw, connection)), strict=True):
                with steady():
                    begun = perf_counter()
                    assert do() == rows
                    kept.append(rows / (perf_counter() - begun))
    return median(rates[0]), median(rates[1]), median_ratio(*rates)


def _decode(connection: sqlite3.Connection) -> int:
    rows = 0
    for row in connection.execute(_ALL):
        orjson.loads(row[11])
        rows += 1
    return rows


def _fold(log: SqliteLog) -> int:
    return Writer(log).read(lambda book, now: book.position)


def fold(bench: Bench) -> list[Result]:
    """Folding all events, beside selecting the rows and decoding their JSON."""
    a, b, ratio = _compare(bench, _decode, _fold)
    shown = f"{a:,.0f} events/s; select and decode {b:,.0f} rows/s"
    return [Result("folding", shown, ratio, 0.3, False)]


def _bytes_of(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _hash(connection: sqlite3.Connection) -> int:
    rows = 0
    for row in connection.execute(_ALL):
        sha256(b"".join(map(_bytes_of, row))).digest()
        rows += 1
    return rows


def _verify(log: SqliteLog) -> int:
    result = verify_log(log)
    assert result.ok
    return result.events


def verify(bench: Bench) -> list[Result]:
    """``verify``, beside selecting all columns and one SHA-256 over the bytes of each row."""
    a, b, ratio = _compare(bench, _hash, _verify)
    shown = f"{a:,.0f} events/s; select and SHA-256 {b:,.0f} rows/s"
    return [Result("verify", shown, ratio, 0.5, False)]
