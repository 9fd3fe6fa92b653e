"""A trace: requests that came somewhere else, and the tables of text that they are read from.

A table may be gzip, may begin with a byte order mark, and ``-`` is standard input. What cannot be
understood is refused with its line; nothing is passed over.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ledger.amounts import InvalidValue
from ledger.errors import InvalidInput
from ledger.requests import Amounts, Request
from ledger.rules.validity import check_amounts

SECOND = 1_000_000_000
"""Nanoseconds."""
STDIN = Path("-")
DELIMITERS = ",;\t|"
_GZIP = b"\x1f\x8b"


class BadTrace(InvalidValue):
    """A file that is not the trace it should be: which line, and why."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request of a trace: its name, what it asks for, and when it came, began and went (ns).

    Times are None where the trace does not say. What ``ran`` is False of waited until it went and
    never got what it asked for.
    """

    name: str
    request: Request
    arrived_ns: int | None = None
    left_ns: int | None = None
    began_ns: int | None = None
    ran: bool = True
    holder: str = "trace"
    task: str | None = None


def name_of(path: Path) -> str:
    """What a file is called in messages."""
    return "stdin" if path == STDIN else path.name


def rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a table, each with where it begins, such as ``pods.csv line 7``, and its fields.

    The delimiter is the one that makes these columns of the head. Empty lines are no rows. Raises
    BadTrace for a file that cannot be read, a head without the columns, and a row that has another
    number of fields than the head.
    """
    with _opened(path) as file:
        first = file.readline()
        head, delimiter = _head(path, first, columns)
        table = csv.reader(file, delimiter=delimiter)
        before = 0
        for fields in table:
            where = f"{name_of(path)} line {before + 2}"
            reach, before = table.line_num - before, table.line_num
            if not fields:
                continue
            if len(fields) != len(head):
                to = f" (it reaches to line {before + 1})" if reach > 1 else ""
                raise BadTrace(
                    f"{where} has another number of fields than the head{to}",
                    "mend the line or take it out",
                )
            yield where, dict(zip(head, fields, strict=True))


def _head(path: Path, line: str, columns: Sequence[str]) -> tuple[list[str], str]:
    """The names in the first line, and what stands between them."""
    heads = {by: next(csv.reader([line], delimiter=by), []) for by in DELIMITERS}
    delimiter = next((by for by, head in heads.items() if set(columns) <= set(head)), None)
    if delimiter is None:
        head = max(heads.values(), key=len)
        missing = [column for column in columns if column not in head]
        named = ", ".join(name[:40] for name in head[:20])
        raise BadTrace(
            f"{name_of(path)} has no column {', '.join(missing)}",
            f"its first line names {named}" if named else "its first line is empty",
        )
    head = heads[delimiter]
    twice = sorted({column for column in columns if head.count(column) > 1})
    if twice:
        raise BadTrace(f"{name_of(path)} has two columns {twice[0]}", "rename or drop one of them")
    return head, delimiter


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """The text of a file; what goes wrong while it is read is a BadTrace."""
    name = name_of(path)
    try:
        with _bytes_of(path) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
            yield text
    except FileNotFoundError:
        raise BadTrace(f"there is no file {path}", "give its path") from None
    except UnicodeDecodeError:
        raise BadTrace(f"{name} is not UTF-8 text", "convert it, or name another file") from None
    except csv.Error as error:
        raise BadTrace(f"{name} is not a table of text: {error}", "name another file") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadTrace(f"{name} is damaged: {error}", "get the file again") from None
    except OSError as error:
        raise BadTrace(
            f"{path} cannot be read: {error.strerror or error}", "name another file"
        ) from None


@contextmanager
def _bytes_of(path: Path) -> Iterator[IO[bytes]]:
    if path == STDIN:
        if sys.stdin is None:
            raise BadTrace("standard input is closed", "name a file, or pipe one in")
        # A copy, so that the stream itself stays open when the text around it is closed.
        with open(sys.stdin.fileno(), "rb", closefd=False) as file:
            yield from _unpacked(file)
    else:
        with path.open("rb") as file:
            yield from _unpacked(file)


def _unpacked(file: io.BufferedReader) -> Iterator[IO[bytes]]:
    if file.peek(2)[:2] != _GZIP:
        yield file
        return
    with gzip.open(file) as unpacked:
        yield unpacked  # type: ignore[misc]


def whole(where: str, row: dict[str, str], column: str) -> int:
    """A field as a whole number of at most 18 digits. Raises BadTrace."""
    text = row[column]
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BadTrace(
            f"{where}: {column} is {text[:40]!r}, not a whole number",
            "mend the line or take it out",
        )
    return int(text)


def asked(where: str, amounts: Amounts) -> Amounts:
    """What is more than nothing of these amounts. Raises BadTrace where no ledger would take them."""
    more = {resource: amount for resource, amount in amounts.items() if amount}
    if not more:
        raise BadTrace(f"{where} asks for nothing", "take the line out")
    with at(where):
        check_amounts(more)
    return more


@contextmanager
def at(where: str) -> Iterator[None]:
    """What the ledger says of a value, said of the line that it stands in."""
    try:
        yield
    except BadTrace:
        raise
    except InvalidInput as error:
        raise BadTrace(f"{where}: {error.message}", "mend the line or take it out") from None
