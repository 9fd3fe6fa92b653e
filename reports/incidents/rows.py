"""The events of a bundle as lines of JSON, one for each row of the log, column by column.

``data`` and ``metadata`` are the stored texts themselves, so that their digests can be checked. The
digest and the hash of a row are not repeated: they are worked out, or stand in the list of digests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ledger.chain import digest_of, metadata_hash
from ledger.log import COLUMNS, Head, Row
from reports.incidents.container import BadBundle

_STORED: Final = COLUMNS[:13]
_INTEGERS: Final = frozenset({"position", "at", "recorded_at", "schema"})
_NEEDED: Final = _INTEGERS | {"type", "tenant", "data"}
METADATA_HASH: Final = "metadata_sha256"
"""The key of the hash that stands for metadata which is not in the bundle."""


def line_of(row: Row, metadata_sha256: bytes | None = None) -> bytes:
    """A row as a line; ``metadata_sha256`` where it had metadata that is not in the row."""
    plain: dict[str, Any] = {n: v for n, v in zip(_STORED, row[:13], strict=True) if v is not None}
    if metadata_sha256 is not None:
        plain[METADATA_HASH] = metadata_sha256.hex()
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def row_of(line: bytes, hash_: bytes = bytes(32), digest: bytes | None = None) -> Row:
    """The row of a line, with a digest worked out from its content where none is given.

    Raises BadBundle for a line that is no row.
    """
    try:
        plain = json.loads(line)
        withheld = plain.pop(METADATA_HASH, None)
        values = [plain.pop(name, None) for name in _STORED]
        fits = not plain and all(map(_fits, _STORED, values))
        if fits and digest is None:
            known = None if withheld is None else bytes.fromhex(withheld)
            fits = known is None or (len(known) == 32 and values[12] is None)
            digest = digest_of(*[*values[:12], known or metadata_hash(values[12])])
    except Exception as error:
        # Whatever a line that is none makes of the parser: it comes from outside.
        raise BadBundle(f"the bundle has a line that is no event: {type(error).__name__}") from None
    if not fits:
        raise BadBundle("the bundle has a line that is no event: its columns are not the log's")
    return Row._make([*values, digest, hash_])


def _fits(name: str, value: Any) -> bool:
    if value is None:
        return name not in _NEEDED
    if name in _INTEGERS:
        return type(value) is int and abs(value) < 2**63
    return type(value) is str


class BundleLog:
    """The events of a checked bundle as a readable log, which begins after position ``base``."""

    def __init__(self, base: int, lines: Sequence[bytes], hashes: Sequence[tuple[bytes, bytes]]):
        """``hashes`` are digest and hash of each line's event."""
        self.base = base
        self._lines = lines
        self._hashes = hashes
        self._by_allocation: dict[str, list[int]] | None = None

    def _row(self, index: int) -> Row:
        digest, hash_ = self._hashes[index]
        return row_of(self._lines[index], hash_, digest)

    def head(self) -> Head:
        """The bundle's last event."""
        row = self._row(len(self._lines) - 1)
        return Head(row.position, row.hash, row.recorded_at)

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Row]:
        """Rows with ``after < position <= upto``, as far as the bundle has them."""
        first = max(after - self.base, 0)
        count = len(self._lines)
        last = count if upto is None else min(upto - self.base, count)
        for index in range(first, last):
            yield self._row(index)

    def rows_of_allocation(self, allocation: str) -> list[Row]:
        """The bundle's rows of one allocation, oldest first."""
        if self._by_allocation is None:
            self._by_allocation = {}
            for index, row in enumerate(self.read()):
                if row.allocation is not None:
                    self._by_allocation.setdefault(row.allocation, []).append(index)
        return [self._row(index) for index in self._by_allocation.get(allocation, ())]
