"""Time travel: the whole fleet at any moment of a long history."""

from __future__ import annotations

from contextlib import closing
from random import Random
from statistics import median
from time import perf_counter, process_time

from benchmarks.bench import Bench, steady
from benchmarks.history import LIVE, build
from benchmarks.table import Result
from ledger.snapshots import Snapshots
from ledger.sqlite_log import SqliteLog
from projections.past import Past
from projections.travel import Travel

MOMENTS = 100
SEED = 7


def travel(bench: Bench) -> list[Result]:
    """States at random times and positions of a long log, each folded from its nearest snapshot.

    A state is whole: pools, who held what, who waited, and what was found out since. The ledger's
    last thousand allocations live on; in the rest of it there are up to as many at any moment.
    """
    path = bench.folder / "long.db"
    build(path, 100_000 if bench.quick else 1_000_000)
    with closing(SqliteLog.open(path, read_only=True)) as log:
        head = log.head()
        times, sizes, spent = _ask(Travel(Past(log, Snapshots(path))), Random(SEED), bench)
    views = Snapshots(path).path
    shown = (
        f"of {head.position:,} events, {len(times)} random moments, up to {max(sizes):,} allocations;"
        f" median {median(times) * 1e3:.0f} ms, processor time at most {max(spent) * 1e3:.0f} ms;"
        f" snapshots take {views.stat().st_size / 2**20:.1f} MiB"
    )
    return [Result("the fleet at any moment", shown, max(times) * 1e3, 300, True, unit="ms")]


def _ask(asked: Travel, random: Random, bench: Bench) -> tuple[list[float], list[int], list[float]]:
    """Seconds, allocations that were held or waited, and processor seconds, of each moment.

    Each is asked for twice and the better one counts: other programs on the machine are not what is
    measured. Nothing is kept from one to the next.
    """
    head = asked.head()
    first = asked.past.recorded_at(1)
    moments = [("position", head.position), ("position", head.position - LIVE)]
    for _ in range(bench.times(MOMENTS)):
        moments.append(("time", random.randint(first, head.time)))
        moments.append(("position", random.randint(1, head.position)))
    times, sizes, spent = [], [], []
    with steady():
        for kind, value in moments:
            took = []
            for _ in range(2):
                begun, begun_work = perf_counter(), process_time()
                state = asked.state(asked.moment(kind, value))
                found = len(state.held()) + len(state.queue())
                took.append((perf_counter() - begun, process_time() - begun_work))
            sizes.append(found)
            times.append(min(each[0] for each in took))
            spent.append(min(each[1] for each in took))
    return times, sizes, spent
