"""One caller, batches, many threads and tasks in one process."""

from __future__ import annotations

import asyncio
import threading
from statistics import median
from time import perf_counter

from benchmarks.bench import (
    INSERT,
    Bench,
    allocate,
    execute_all,
    ledger,
    make_batch,
    median_ratio,
    raw,
    release_all,
    rows_of,
    steady,
)
from benchmarks.table import Result
from ledger.commands import AnyCommand
from ledger.writer import Writer

TURN = 100


def by_turn(times: list[float]) -> list[float]:
    """The median of each turn of a hundred."""
    return [median(times[start : start + TURN]) for start in range(0, len(times), TURN)]


def single(bench: Bench) -> list[Result]:
    """One durable allocation after another, each beside one raw one-row commit."""
    count = bench.times(4_000)
    commands: list[AnyCommand] = [allocate() for _ in range(count)]
    first, each = rows_of(commands)
    ours, plain = [], []
    with ledger(bench.folder / "ours.db") as writer, raw(bench.folder / "raw.db") as connection:
        connection.executemany(INSERT, first)

        def do_ours(index: int) -> None:
            begun = perf_counter()
            writer.execute(commands[index])
            ours.append(perf_counter() - begun)

        def do_raw(index: int) -> None:
            row = each[index][0]
            begun = perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(INSERT, row)
            connection.execute("COMMIT")
            plain.append(perf_counter() - begun)

        with steady():
            # Turns of a hundred: short against the moods of a shared disk, long enough for each to
            # find its own code and pages in the processor's caches, as a caller of one does.
            for start in range(0, count, TURN):
                turn = range(start, min(start + TURN, count))
                for do in (do_ours, do_raw) if start % (2 * TURN) else (do_raw, do_ours):
                    for index in turn:
                        do(index)
    a, b = median(ours) * 1e6, median(plain) * 1e6
    shown = f"{a:.0f} µs; raw one-row commit {b:.0f} µs"
    ratio = median_ratio(by_turn(ours), by_turn(plain))
    return [Result("one caller, durable allocate, p50", shown, ratio, 1.5, True, aim=1.3)]


def batch_of_1000(writer: Writer, commands: list[AnyCommand], index: int) -> float:
    """Seconds that one batch took."""
    begun = perf_counter()
    receipt = writer.execute(commands[index])
    took = perf_counter() - begun
    assert receipt.outcome == "granted"
    return took


def batch(bench: Bench, size: int = 1_000) -> list[Result]:
    """Batches of 1,000, each beside one raw ``executemany`` of as many rows."""
    rounds = max(5, bench.times(30))
    commands: list[AnyCommand] = [make_batch(size) for _ in range(rounds)]
    first, each = rows_of(commands)
    ours, plain = [], []
    with ledger(bench.folder / "ours.db") as writer, raw(bench.folder / "raw.db") as connection:
        connection.executemany(INSERT, first)
        for index, rows in enumerate(each):
            with steady():
                ours.append(batch_of_1000(writer, commands, index))
                begun = perf_counter()
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(INSERT, rows)
                connection.execute("COMMIT")
                plain.append(perf_counter() - begun)
            asyncio.run(execute_all(writer, list(release_all(writer))))
    a, b = size / median(ours), size / median(plain)
    shown = f"{a:,.0f} rows/s; raw executemany {b:,.0f} rows/s"
    ratio = median_ratio(plain, ours)
    return [Result("batches of 1,000", shown, ratio, 0.2, False, aim=0.35)]


def _alone(writer: Writer, commands: list[AnyCommand]) -> float:
    begun = perf_counter()
    for command in commands:
        writer.execute(command)
    return perf_counter() - begun


def _by_threads(writer: Writer, commands: list[AnyCommand], callers: int) -> float:
    """Seconds from the moment that all threads stand ready until the last one is done."""
    barrier = threading.Barrier(callers + 1)

    def call(mine: list[AnyCommand]) -> None:
        barrier.wait()
        for command in mine:
            writer.execute(command)

    threads = [
        threading.Thread(target=call, args=(commands[index::callers],)) for index in range(callers)
    ]
    for thread in threads:
        thread.start()
    barrier.wait()
    begun = perf_counter()
    for thread in threads:
        thread.join()
    return perf_counter() - begun


def _by_tasks(writer: Writer, commands: list[AnyCommand], callers: int) -> float:
    async def call(mine: list[AnyCommand]) -> None:
        for command in mine:
            await writer.execute_async(command)

    async def all_of_them() -> float:
        begun = perf_counter()
        await asyncio.gather(*(call(commands[index::callers]) for index in range(callers)))
        return perf_counter() - begun

    return asyncio.run(all_of_them())


def concurrent(bench: Bench, callers: int = 100) -> list[Result]:
    """100 threads, then 100 asyncio tasks, beside one caller; one durable allocation per call."""
    rounds = 3 if bench.quick else 9
    rates: dict[str, list[float]] = {"one": [], "threads": [], "tasks": []}
    with ledger(bench.folder / "ours.db") as writer:
        for _ in range(rounds):
            some: list[AnyCommand] = [allocate() for _ in range(300)]
            with steady():
                rates["one"].append(len(some) / _alone(writer, some))
            for name, measure in (("threads", _by_threads), ("tasks", _by_tasks)):
                many: list[AnyCommand] = [allocate() for _ in range(20 * callers)]
                with steady():
                    rates[name].append(len(many) / measure(writer, many, callers))
                asyncio.run(execute_all(writer, list(release_all(writer))))
    one = median(rates["one"])
    results = []
    for name, what, target in (("threads", "threads", 2.5), ("tasks", "asyncio tasks", 5.0)):
        rate = median(rates[name])
        shown = f"{rate:,.0f}/s; one caller {one:,.0f}/s"
        ratio = median_ratio(rates[name], rates["one"])
        results.append(Result(f"{callers} {what}", shown, ratio, target, False))
    return results
