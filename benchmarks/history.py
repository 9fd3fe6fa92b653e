"""A long history: what a million events in the log cost a caller, and an opening."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter, time_ns

from benchmarks.bench import Bench, allocate, make_batch, median_ratio, set_up, steady
from benchmarks.callers import TURN, by_turn
from benchmarks.table import Result
from ledger.clock import Reading
from ledger.snapshots import Snapshots
from ledger.sqlite_log import SqliteLog
from ledger.writer import CHECKPOINT_EVERY, Writer

LIVE = 1_000


class _Clock:
    """A clock that is set by hand, so that a history can be made in less time than it tells of."""

    def __init__(self, wall_ns: int) -> None:
        self.wall_ns = wall_ns

    def __call__(self) -> Reading:
        return Reading(self.wall_ns, self.wall_ns, self.wall_ns, "made by hand")


def build(path: Path, events: int) -> None:
    """A ledger of about so many events: batches that expire, and 1,000 allocations that live on.

    Its last snapshot is nearly as old as one can be, which is the worst case for an opening.
    """
    second = 10**9
    clock = _Clock(time_ns() - 86_400 * second)
    writer = Writer(SqliteLog.open(path, create=True), clock=clock, snapshots=Snapshots(path))
    set_up(writer)
    with closing(writer):
        position = 0
        while position < events - 3 * LIVE:
            clock.wall_ns += second
            position = writer.execute(make_batch(1_000, ttl_ns=second // 2)).positions[-1]
        clock.wall_ns += second
        writer.execute(make_batch(LIVE, ttl_ns=7 * 86_400 * second))
        while _since_checkpoint(writer) < CHECKPOINT_EVERY - 200:
            clock.wall_ns += second
            writer.execute(make_batch(50, ttl_ns=second // 2))


def _since_checkpoint(writer: Writer) -> int:
    return writer.read(lambda book, now: book.position - book.checkpoint)


def _opened(path: Path) -> tuple[float, int, int]:
    """Seconds to the first answer; how many events there are, and how many live allocations."""
    begun = perf_counter()
    writer = Writer(SqliteLog.open(path), snapshots=Snapshots(path))
    events, live = writer.read(lambda book, now: (book.position, len(book.allocations)))
    took = perf_counter() - begun
    writer.close()
    return took, events, live


def history(bench: Bench) -> list[Result]:
    """The same callers on a short and on a long log, turn by turn; then openings of the long one."""
    paths = [bench.folder / "short.db", bench.folder / "long.db"]
    sizes = [10_000, 100_000 if bench.quick else 1_000_000]
    for path, size in zip(paths, sizes, strict=True):
        build(path, size)
    opened = [_opened(paths[1]) for _ in range(9)]
    took = median(each[0] for each in opened) * 1e3
    _, events, live = opened[-1]
    times: list[list[float]] = [[], []]
    writers = [Writer(SqliteLog.open(path), snapshots=Snapshots(path)) for path in paths]
    with steady():
        for turn in range(bench.times(30)):
            for which in (0, 1) if turn % 2 else (1, 0):
                times[which] += [_one(writers[which].execute) for _ in range(TURN)]
    for writer in writers:
        writer.close()
    short, long = (median(each) * 1e6 for each in times)
    return [
        Result(
            f"p50 with {events:,} events, beside {sizes[0]:,}",
            f"{long:.0f} µs; short log {short:.0f} µs",
            median_ratio(by_turn(times[1]), by_turn(times[0])),
            1.2,
            True,
        ),
        Result(
            f"opening that ledger, {live:,} live allocations",
            f"to the first answer, {CHECKPOINT_EVERY - 200:,} events after the last snapshot",
            took,
            150,
            True,
            unit="ms",
        ),
    ]


def _one(execute: Callable[..., object]) -> float:
    command = allocate()
    begun = perf_counter()
    execute(command)
    return perf_counter() - begun
