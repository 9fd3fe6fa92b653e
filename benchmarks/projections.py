"""The projections: how fast they catch up, and what a rebuild beside them costs callers."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, process_time

from benchmarks.bench import Bench, allocate, median_ratio, steady
from benchmarks.folding import _decode, _ordinary_lives
from benchmarks.table import Result
from ledger.snapshots import Snapshots
from ledger.sqlite_driver import connect
from ledger.sqlite_log import SqliteLog
from ledger.writer import Writer
from projections.engine import Engine, views_path

_REBUILD = """
import sys
from pathlib import Path
from ledger.sqlite_log import SqliteLog
from projections.engine import Engine, views_path
import sqlite_utils
path = Path(sys.argv[1])
with SqliteLog.open(path) as log, Engine(log, views_path(path)) as engine:
    engine.catch_up()
    print("ready", flush=True)
    for _ in sys.stdin:
        engine.rebuild()
        print("done", flush=True)
"""


def projections(bench: Bench) -> list[Result]:
    """Catching up from nothing, in processor time; then callers beside a rebuild and without."""
    path = bench.folder / "ours.db"
    _ordinary_lives(path, bench.times(60_000))
    return [_catch_up(bench, path), _rebuild(bench, path)]


def _catch_up(bench: Bench, path: Path) -> Result:
    import sqlite_utils  # noqa: F401 - imported once per process, when tables are first made

    ours, raw = [], []
    with closing(SqliteLog.open(path)) as log, closing(connect(path, read_only=True)) as plain:
        rows = log.head().position
        for turn in range(3 if bench.quick else 7):
            with steady():
                begun = process_time()
                _decode(plain)
                raw.append(rows / (process_time() - begun))
                with Engine(log, bench.folder / f"{turn}.views.db") as engine:
                    begun = process_time()
                    assert engine.catch_up().position == rows
                    ours.append(rows / (process_time() - begun))
    shown = (
        f"processor time, best of {len(ours)}: {max(ours):,.0f}, median {median(ours):,.0f}"
        f" events/s; select and decode {median(raw):,.0f} rows/s, {median_ratio(ours, raw):.2g} of it"
    )
    return Result("projections catch up", shown, median(ours), 40_000, False, unit="events/s")


def _p99(times: list[float]) -> float:
    return quantiles(times, n=100)[98]


def _call(writer: Writer) -> float:
    command = allocate()
    begun = perf_counter()
    writer.execute(command)
    return perf_counter() - begun


def _rebuild(bench: Bench, path: Path) -> Result:
    """Turns of callers, each as long as a rebuild in another process, with one and without."""
    root = Path(__file__).resolve().parents[1]
    child = subprocess.Popen(
        [sys.executable, "-c", _REBUILD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdout.readline()
    alone, beside = [], []
    with closing(Writer(SqliteLog.open(path), snapshots=Snapshots(path))) as writer, steady():
        for _ in range(3 if bench.quick else 9):
            times: list[float] = []
            child.stdin.write("go\n")
            child.stdin.flush()
            while not select.select([child.stdout], [], [], 0)[0]:
                times.append(_call(writer))
            child.stdout.readline()
            beside.append(_p99(times))
            alone.append(_p99([_call(writer) for _ in times]))
    child.stdin.close()
    child.wait()
    shown = f"p99 {median(beside) * 1e3:.2f} ms; without a rebuild {median(alone) * 1e3:.2f} ms"
    ratio = median_ratio(beside, alone)
    assert views_path(path).exists()
    return Result("callers' p99 beside a rebuild", shown, ratio, 2, True)
