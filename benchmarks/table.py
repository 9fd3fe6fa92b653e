"""What was measured against its target, as text and as the page ``docs/benchmarks.md``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import describe

NOTES = Path(__file__).with_name("notes.md")

_HEAD = """# Benchmarks

How fast the ledger is, beside plain SQLite doing the same writes. Made by `python -m benchmarks`
(`make bench`); every figure is a median. *Raw* is SQLite through the same driver, with the same
table, indexes, triggers, row bytes and durability (WAL, `synchronous=FULL`), in a file of its own,
interleaved with the ledger in the same run. Ratios travel between machines, absolute figures do not.
"""


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table. ``value`` is compared with ``target``; ``at_most`` says which way.

    ``value`` None means that it could not be measured; ``shown`` then says why.
    """

    name: str
    shown: str
    value: float | None
    target: float
    at_most: bool
    unit: str = "×"
    aim: float | None = None

    @property
    def verdict(self) -> str:
        """``met``, ``aim met``, ``missed`` or ``not measured``."""
        if self.value is None:
            return "not measured"
        if not self._reaches(self.target):
            return "**missed**"
        return "aim met" if self.aim is not None and self._reaches(self.aim) else "met"

    def _reaches(self, bound: float) -> bool:
        assert self.value is not None
        return self.value <= bound if self.at_most else self.value >= bound

    def cells(self) -> tuple[str, ...]:
        """The line's cells: what, figures, result, target, verdict."""
        sign = "≤" if self.at_most else "≥"
        value = "–" if self.value is None else f"{self.value:.3g} {self.unit}"
        aim = "" if self.aim is None else f" (aim {self.aim:g})"
        return (
            self.name,
            self.shown,
            value,
            f"{sign} {self.target:g} {self.unit}{aim}",
            self.verdict,
        )


_TITLES = ("what", "figures", "result", "target", "verdict")


def as_text(results: list[Result]) -> str:
    """The table for a terminal."""
    lines = [_TITLES, *(result.cells() for result in results)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_TITLES))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def as_page(results: list[Result], folder: Path) -> str:
    """The page: the machine, the table, the notes."""
    lines = [_HEAD, "## The machine\n"]
    lines += [f"- {name}: {value}" for name, value in describe(folder).items()]
    lines += [f"- Measured: {datetime.now(UTC):%Y-%m-%d}", "", "## The table\n"]
    lines.append("| " + " | ".join(_TITLES) + " |")
    lines.append("|" + "---|" * len(_TITLES))
    lines += ["| " + " | ".join(result.cells()) + " |" for result in results]
    return "\n".join([*lines, "", NOTES.read_text(encoding="utf-8")])
