"""Importing: rows of a Slurm log into an observed pool, by processor time."""

from __future__ import annotations

import gc
import random
from contextlib import closing
from pathlib import Path
from time import process_time

from benchmarks.bench import Bench
from benchmarks.table import Result
from leasebook.__main__ import COLLECT_AFTER_OBJECTS
from leasebook.importers.base import Options
from leasebook.importers.rejects import Rejects
from leasebook.importers.runner import Reading, Runner, Summary
from ledger.snapshots import Snapshots
from ledger.sqlite_log import SqliteLog
from ledger.writer import Writer, begin

_START_S = 1_480_000_000
_HEADER = (
    "JobID|JobIDRaw|Cluster|Partition|QOS|Account|User|Submit|Start|End|Elapsed|ExitCode|State|NNodes"
    "|NCPUS|ReqCPUS|ReqMem|ReqTRES|AllocTRES|Timelimit|NodeList|JobName"
)
_SHAPES = ((1, 1, 4), (1, 8, 24), (1, 16, 64), (2, 24, 96), (4, 64, 128))
"""Nodes, processors and GiB of memory of the jobs."""


def write_log(path: Path, rows: int, seed: int = 7) -> None:
    """A log of as many jobs of forty users, as ``sacct -P`` would write it."""
    from datetime import UTC, datetime

    chance = random.Random(seed)

    def clock(seconds: float) -> str:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")

    with path.open("w", encoding="utf-8") as file:
        file.write(_HEADER + "\n")
        for number in range(rows):
            nodes, cpus, memory = chance.choice(_SHAPES)
            submit = _START_S + number * 3 + chance.randrange(60)
            start = submit + chance.randrange(3_600)
            end = start + chance.randrange(36_000)
            first = chance.randrange(1, 90)
            names = f"n{first:02}" if nodes == 1 else f"n[{first:02}-{first + nodes - 1:02}]"
            state = chance.choice(("COMPLETED", "COMPLETED", "FAILED", "TIMEOUT"))
            tres = f"billing={cpus},cpu={cpus},mem={memory}G,node={nodes}"
            file.write(
                f"{number}|{number}|bench|main|normal|lab{number % 9}|user{number % 40}"
                f"|{clock(submit)}|{clock(start)}|{clock(end)}|01:00:00|0:0|{state}|{nodes}|{cpus}"
                f"|{cpus}|{memory}G|{tres}|{tres}|1-00:00:00|{names}|job{number % 500}\n"
            )


def _import(path: Path, writer: Writer) -> tuple[Summary, float]:
    usual = gc.get_threshold()
    # As in a process of the command line.
    gc.set_threshold(COLLECT_AFTER_OBJECTS)
    try:
        begun = process_time()
        with (
            Reading("sacct", str(path), Options()) as reading,
            Rejects(path.with_suffix(".rejects")) as rejects,
        ):
            summary = Runner(writer, reading, rejects).run()
        return summary, process_time() - begun
    finally:
        gc.set_threshold(*usual)


def importing(bench: Bench) -> list[Result]:
    """Rows per second of processor time: a new log, and the same log once more."""
    path = bench.folder / "jobs.log"
    rows = bench.times(100_000)
    write_log(path, rows)
    ledger = bench.folder / "imported.db"
    writer = Writer(SqliteLog.open(ledger, create=True), snapshots=Snapshots(ledger))
    begin(writer.log, "benchmark", writer)
    with closing(writer):
        first, seconds = _import(path, writer)
        assert (first.new, first.rejects) == (rows, 0)
        again, seconds_again = _import(path, writer)
        assert (again.known, again.events) == (rows, 0)
    rate, rate_again = rows / seconds, rows / seconds_again
    shown = f"{rate:,.0f} rows/s of processor time ({first.events / rows:.1f} events each)"
    return [
        Result("import of a Slurm log", shown, rate, 15_000, False, "rows/s"),
        Result(
            "the same log again",
            f"{rate_again:,.0f} rows/s of processor time, no event",
            rate_again,
            15_000,
            False,
            "rows/s",
        ),
    ]
