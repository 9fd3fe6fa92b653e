"""The log as JSON Lines: one event a line, every column, enough to compute the chain again.

``data`` and ``metadata`` stand in the line byte for byte as they are stored (canonical JSON: sorted
keys, no spaces, integers only), ``digest`` and ``hash`` in hexadecimal, times as integers in
nanoseconds UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson

from ledger.errors import LedgerCorrupt
from ledger.log import Row

Write = Callable[[bytes], Any]


def line_of(row: Row) -> bytes:
    """One event as a line, its end included."""
    document = row._asdict()
    document["data"] = _verbatim(row.data)
    document["metadata"] = None if row.metadata is None else _verbatim(row.metadata)
    document["digest"], document["hash"] = row.digest.hex(), row.hash.hex()
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def _verbatim(text: str) -> Any:
    """Stored JSON as it is; what a damaged row holds instead comes as text."""
    try:
        orjson.loads(text)
    except ValueError:
        return text
    return orjson.Fragment(text) if "\n" not in text else orjson.loads(text)


def write_lines(lines: Iterable[bytes], write: Write) -> None:
    """Write lines in chunks, so that a compressor is not called for each.

    Where making them fails, what was made until then is written before that leaves.
    """
    chunk: list[bytes] = []
    size = 0
    try:
        for line in lines:
            chunk.append(line)
            size += len(line)
            if size >= 1 << 18:
                whole, chunk, size = b"".join(chunk), [], 0
                write(whole)
    except LedgerCorrupt:
        write(b"".join(chunk))
        raise
    if chunk:
        write(b"".join(chunk))


def lines_of(rows: Iterable[Row]) -> Iterator[bytes]:
    """Events as lines."""
    return map(line_of, rows)
