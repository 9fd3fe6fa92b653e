"""Holds the coverage to its floors: `python tests/coverage_floor.py coverage.json`.

coverage.py knows one number for lines and branches together. Here each has its own, and the parts
that must never be wrong have theirs. A floor only ever rises.
"""

from __future__ import annotations

import json
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

# Percent of all five packages.
OVERALL_LINES = 95.0
OVERALL_BRANCHES = 90.0

# Files whose every line is run by a test: the rules, the book, the writer and the logs.
EVERY_LINE = (
    "ledger/decide.py",
    "ledger/evolve.py",
    "ledger/book.py",
    "ledger/rules/*.py",
    "ledger/writer.py",
    "ledger/memory_log.py",
    "ledger/sqlite_log.py",
)


def percent(covered: int, total: int) -> float:
    """Covered of total, 0 to 100; all of nothing is all."""
    return 100.0 * covered / total if total else 100.0


def failures(measured: dict[str, Any]) -> list[str]:
    """One line for each floor that the report of `coverage json` is below."""
    found = []
    totals = measured["totals"]
    lines = percent(totals["covered_lines"], totals["num_statements"])
    if lines < OVERALL_LINES:
        found.append(f"lines: {lines:.2f} % overall, the floor is {OVERALL_LINES} %")
    branches = percent(totals["covered_branches"], totals["num_branches"])
    if branches < OVERALL_BRANCHES:
        found.append(f"branches: {branches:.2f} % overall, the floor is {OVERALL_BRANCHES} %")
    files = {Path(name).as_posix(): entry for name, entry in measured["files"].items()}
    for pattern in EVERY_LINE:
        matching = sorted(name for name in files if fnmatch(name, pattern))
        if not matching:
            found.append(f"{pattern}: no measured file has this name; correct EVERY_LINE")
        for name in matching:
            missing = files[name]["missing_lines"]
            if missing:
                found.append(f"{name}: every line must be tested, lines {_spans(missing)} are not")
    return found


def _spans(numbers: list[int]) -> str:
    """Line numbers as a reader likes them: 3, 7-9."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def main(path: str) -> int:
    """Print what is below its floor, or the totals; 1 where something is."""
    measured = json.loads(Path(path).read_text())
    below = failures(measured)
    for line in below:
        print(f"coverage: {line}", file=sys.stderr)
    totals = measured["totals"]
    print(
        f"coverage: {percent(totals['covered_lines'], totals['num_statements']):.2f} % of lines, "
        f"{percent(totals['covered_branches'], totals['num_branches']):.2f} % of branches"
    )
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
