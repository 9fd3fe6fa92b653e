"""Reports as files: JSON, CSV, Markdown, a self-contained HTML page, and Parquet.

A report is a document with ``report``, ``headline``, ``generated_at``, ``position``, ``since``,
``until`` and ``rows``. In formats that are flat, what lies inside a row becomes columns of its own
(``granted_seconds.cpu``), in the order in which they first appear; what is missing stays empty.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Final

from ledger.errors import InvalidInput, LeasebookError

Document = Mapping[str, Any]
Table = tuple[list[str], list[list[Any]]]
"""Names of columns, and rows of as many values."""

INT64_MAX: Final = 2**63 - 1
_ABOUT: Final = ("report", "generated_at", "position", "since", "until")


class MissingExtra(LeasebookError):
    """A format needs a package that is not installed."""


def flat(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows as one table: every column that any row has, None where a row lacks it."""
    columns: dict[str, None] = {}
    flattened = []
    for row in rows:
        cells = dict(_cells("", row))
        columns.update(dict.fromkeys(cells))
        flattened.append(cells)
    # A column that is an object in one row and None in another says nothing beside its parts.
    parents = {name.rpartition(".")[0] for name in columns}
    names = [name for name in columns if name not in parents]
    return names, [[cells.get(name) for name in names] for cells in flattened]


def _cells(prefix: str, value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, part in value.items():
        name = f"{prefix}{key}"
        if isinstance(part, Mapping):
            yield from _cells(f"{name}.", part)
        elif isinstance(part, list | tuple):
            yield name, json.dumps(part)
        else:
            yield name, part


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def as_json(document: Document) -> bytes:
    """One JSON document, for people and programs."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def as_csv(document: Document) -> bytes:
    """RFC 4180 with a head line, in UTF-8."""
    import csv

    columns, rows = flat(document["rows"])
    out = StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([[_text(value) for value in row] for row in rows])
    return out.getvalue().encode("utf-8", "replace")


def as_markdown(document: Document) -> bytes:
    """A heading, the headline and a table; numbers stand to the right."""
    columns, rows = flat(document["rows"])
    lines = [f"# {_title(document)}", "", _marked(document["headline"]), ""]
    if rows:
        lines.append(_marked_row(columns))
        lines.append("|" + "|".join("---:" if right else "---" for right in _numeric(rows)) + "|")
        lines += [_marked_row([_text(value) for value in row]) for row in rows]
        lines.append("")
    lines.append(_marked("; ".join(f"{name}: {value}" for name, value in _about(document))))
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def _marked(text: str) -> str:
    """Text that a Markdown table keeps as it is."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())


def _marked_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_marked(cell) for cell in cells) + " |"


_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .7rem; border-bottom: 1px solid #8884; text-align: left; }}
th {{ position: sticky; top: 0; background: Canvas; }}
.n {{ text-align: right; }}
footer {{ margin-top: 1.5rem; color: GrayText; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{headline}</p>
{table}<footer>{about}</footer>
</body>
</html>
"""


def as_html(document: Document) -> bytes:
    """One page with everything in it: nothing is loaded from elsewhere, and nothing in it runs."""
    from html import escape

    columns, rows = flat(document["rows"])
    numeric = _numeric(rows)
    classes = [' class="n"' if right else "" for right in numeric]
    lines = []
    if rows:
        head = "".join(f"<th{c}>{escape(n)}</th>" for n, c in zip(columns, classes, strict=True))
        lines = ["<table>", f"<thead><tr>{head}</tr></thead>", "<tbody>"]
        for row in rows:
            cells = zip(row, classes, strict=True)
            line = "".join(f"<td{c}>{escape(_text(value))}</td>" for value, c in cells)
            lines.append(f"<tr>{line}</tr>")
        lines += ["</tbody>", "</table>", ""]
    page = _PAGE.format(
        title=escape(_title(document)),
        headline=escape(str(document["headline"])),
        table="\n".join(lines),
        about=escape("; ".join(f"{name}: {value}" for name, value in _about(document))),
    )
    return page.encode("utf-8", "replace")


def as_parquet(document: Document) -> bytes:
    """One Parquet file; whole numbers beyond 64 bits become decimals. Raises MissingExtra."""
    try:
        # By name, since it ships no types of its own.
        pyarrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise MissingExtra(
            "Parquet needs pyarrow, which is not installed",
            "install leasebook[parquet], or choose another --format",
        ) from None
    columns, rows = flat(document["rows"])
    data = {}
    for index, name in enumerate(columns):
        data[name] = _column(pyarrow, [row[index] for row in rows])
    about = {name: str(value) for name, value in _about(document)}
    table = pyarrow.table(data).replace_schema_metadata(
        about | {"headline": str(document["headline"])}
    )
    out = BytesIO()
    parquet.write_table(table, out)
    return out.getvalue()


def _column(pyarrow: Any, values: list[Any]) -> Any:
    known = [value for value in values if value is not None]
    if all(isinstance(value, int) and not isinstance(value, bool) for value in known):
        if any(abs(value) > INT64_MAX for value in known):
            from decimal import Decimal

            decimals = [None if value is None else Decimal(value) for value in values]
            return pyarrow.array(decimals, pyarrow.decimal128(38, 0))
        return pyarrow.array(values, pyarrow.int64())
    if all(isinstance(value, int | float) for value in known):
        floats = [None if value is None else float(value) for value in values]
        return pyarrow.array(floats, pyarrow.float64())
    return pyarrow.array([None if value is None else str(value) for value in values])


def _numeric(rows: list[list[Any]]) -> list[bool]:
    """For each column, whether all that it holds are numbers."""
    return [
        all(value is None or isinstance(value, int | float) for value in column)
        for column in zip(*rows, strict=True)
    ]


def _title(document: Document) -> str:
    return str(document["report"]).capitalize()


def _about(document: Document) -> list[tuple[str, Any]]:
    return [(name, document[name]) for name in _ABOUT if document.get(name) is not None]


FORMATS: Final[dict[str, Callable[[Document], bytes]]] = {
    "json": as_json,
    "csv": as_csv,
    "markdown": as_markdown,
    "html": as_html,
    "parquet": as_parquet,
}
"""Format → how a report becomes bytes. A plain table is the terminal's own."""
SUFFIXES: Final = {
    ".json": "json",
    ".csv": "csv",
    ".md": "markdown",
    ".html": "html",
    ".parquet": "parquet",
}
"""How a file's name ends → the format that it then has."""


def render(document: Document, form: str) -> bytes:
    """A report in one of ``FORMATS``. Raises MissingExtra."""
    return FORMATS[form](document)


def write(path: Path, content: bytes) -> None:
    """Put a report into a file, whole or not at all. Raises InvalidInput where that cannot be."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise InvalidInput(
            f"{str(path)!r} cannot be written: {error.strerror}", "give --out another file"
        ) from None
