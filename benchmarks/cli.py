"""The command line, as a hook calls it: one whole process per command."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.bench import POOL, Bench, ledger, median_ratio
from benchmarks.table import Result

NAME = "`leasebook allocate … --json`, whole process"
_PYDANTIC = (sys.executable, "-c", "import sqlite3; from pydantic import BaseModel")


def _took(command: tuple[str, ...], environment: dict[str, str]) -> float:
    begun = perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    took = perf_counter() - begun
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return took


def command_line(bench: Bench) -> list[Result]:
    """An allocation from a new process, beside a process that only imports sqlite3 and pydantic.

    Both find their modules compiled: the compiled files go to a folder of the benchmark's own, also
    where the environment forbids writing them.
    """
    if find_spec("leasebook.__main__") is None:
        return [Result(NAME, "there is no command line yet", None, 1.0, True)]
    path = bench.folder / "ours.db"
    with ledger(path):
        pass
    environment = {
        key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"
    }
    environment["PYTHONPYCACHEPREFIX"] = str(bench.folder / "compiled")
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    verb = ("allocate", POOL, "cpu=1", "--json", "--ledger", str(path))
    ours = (sys.executable, "-m", "leasebook", *verb)
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(max(8, bench.times(40))):
        for kept, command in zip(times, (ours, _PYDANTIC), strict=True):
            took = _took(command, environment)
            if turn >= 2:
                kept.append(took)
    a, b = (median(each) * 1e3 for each in times)
    shown = f"{a:.0f} ms; `import sqlite3; from pydantic import BaseModel` {b:.0f} ms"
    return [Result(NAME, shown, median_ratio(*times), 1.0, True)]
