"""The command: measure what is asked for, print the table, write ``docs/benchmarks.md``."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    callers,
    cli,
    decisions,
    folding,
    history,
    importing,
    processes,
    projections,
    queueing,
    simulating,
    travel,
)
from benchmarks.bench import Bench
from benchmarks.table import Result, as_page, as_text

BENCHMARKS: dict[str, Callable[[Bench], list[Result]]] = {
    "single": callers.single,
    "batch": callers.batch,
    "concurrent": callers.concurrent,
    "processes": processes.fairness,
    "history": history.history,
    "travel": travel.travel,
    "fold": folding.fold,
    "verify": folding.verify,
    "cli": cli.command_line,
    "queue": queueing.queue,
    "decisions": decisions.decisions,
    "simulating": simulating.simulating,
    "importing": importing.importing,
    "projections": projections.projections,
}
PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def main() -> int:
    """Run the benchmarks that are named, or all of them; only a full, unhurried run is written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work; writes nothing")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write")
    parser.add_argument(
        "--dir", help="where to put the ledgers (on the disk that is to be measured)"
    )
    options = parser.parse_args()
    unknown = set(options.names) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    results = []
    with tempfile.TemporaryDirectory(prefix="leasebook-bench-", dir=options.dir) as folder:
        for name, run in BENCHMARKS.items():
            if options.names and name not in options.names:
                continue
            begun = time.monotonic()
            inner = Path(folder) / name
            inner.mkdir()
            found = run(Bench(inner, quick=options.quick))
            print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
            results += found
        print("\n" + as_text(results))
        if not options.quick and not options.names:
            options.out.write_text(as_page(results, Path(folder)), encoding="utf-8")
            print(f"\nwritten: {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
