"""Rows of a table of text, with their lines: what is broken costs no more than the line it stands in.

A field may reach over several lines in quotation marks, so one such mark too many would make one field
of all that follows. A row of several lines is therefore one only if it is written as the rules for
them say and has all its columns; else its first line is told as broken, and the next begins a row.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from leasebook.importers.base import Reject


class Row(NamedTuple):
    """The values of a row, and the number of the line in which it begins."""

    line: int
    values: list[str]


class Rows:
    """Goes through lines with their numbers. ``width`` is how many columns there are; 0 where that is
    not known yet."""

    def __init__(self, lines: Iterator[tuple[int, str]], delimiter: str) -> None:
        self.width = 0
        self._lines = lines
        self._delimiter = delimiter
        self._again: deque[tuple[int, str]] = deque()
        self._taken: list[tuple[int, str]] = []
        self._reader = csv.reader(self._feed(), delimiter=delimiter)

    def next(self) -> Row | Reject | None:
        """The next row, or the next line that is none; None at the end. Empty lines are left out."""
        while True:
            self._taken.clear()
            try:
                values = next(self._reader)
            except StopIteration:
                return None
            except csv.Error as error:
                return self._broken(f"not readable: {error}")
            if not values:
                continue
            if self.width and len(values) != self.width:
                return self._broken(f"{len(values)} columns where {self.width} were expected")
            if len(self._taken) > 1 and not self._is_whole():
                return self._broken("a quotation mark opens what is not closed as it should be")
            return Row(self._taken[0][0], values)

    def _feed(self) -> Iterator[str]:
        while True:
            numbered = self._again.popleft() if self._again else next(self._lines, None)
            if numbered is None:
                return
            self._taken.append(numbered)
            yield f"{numbered[1]}\n"

    def _is_whole(self) -> bool:
        """Whether the lines at hand are one row by the strict rules too."""
        lines = [f"{text}\n" for _, text in self._taken]
        try:
            return len(list(csv.reader(lines, delimiter=self._delimiter, strict=True))) == 1
        except csv.Error:
            return False

    def _broken(self, why: str) -> Reject:
        """Give up the first line at hand, and begin again behind it."""
        (line, text), *rest = self._taken
        if rest:
            self._again.extendleft(reversed(rest))
            why = f"{why} (its row would reach to line {rest[-1][0]})"
        # The reader may be in the middle of a field, or at its end.
        self._reader = csv.reader(self._feed(), delimiter=self._delimiter)
        return Reject(line, why, text)
