"""Several processes that write one file: does each get its share?"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import mean

from benchmarks.bench import POOL, Bench, ledger
from benchmarks.table import Result
from ledger.commands import Allocate
from ledger.requests import Request
from ledger.sqlite_log import SqliteLog
from ledger.writer import Writer


def _work(
    path: Path, number: int, ready: Barrier, seconds: float, counts: SimpleQueue[int]
) -> None:
    """Allocate as fast as it goes for some seconds once all are ready; tell how often it went."""
    writer = Writer(SqliteLog.open(path))
    writer.read(lambda book, now: book.position)
    ready.wait()
    done = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        writer.execute(
            Allocate(
                command_id=f"p{number}-{done}",
                pool=POOL,
                holder=f"process-{number}",
                request=Request({"cpu": 1000}, ttl_ns=900 * 10**9),
            )
        )
        done += 1
    counts.put(done)
    writer.close()


def _share(bench: Bench, processes: int) -> Result:
    seconds = 2.0 if bench.quick else 8.0
    path = bench.folder / f"{processes}.db"
    with ledger(path):
        pass
    context = multiprocessing.get_context("spawn")
    counts: SimpleQueue[int] = context.SimpleQueue()
    ready = context.Barrier(processes)
    workers = [
        context.Process(target=_work, args=(path, number, ready, seconds, counts))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    done = [counts.get() for _ in workers]
    for worker in workers:
        worker.join()
    shown = (
        f"slowest {min(done)}, mean {mean(done):.0f}, fastest {max(done)} commits in {seconds:g} s"
    )
    return Result(
        f"{processes} processes on one file, slowest ÷ mean",
        shown,
        min(done) / mean(done),
        1 / 3,
        False,
    )


def fairness(bench: Bench) -> list[Result]:
    """8 and 16 processes, each allocating as fast as it can."""
    return [_share(bench, 8), _share(bench, 16)]
