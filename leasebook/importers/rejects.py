"""The rejects file: each record that was not understood, with its line, the reason and the original.

It is a CSV with the columns ``line``, ``reason`` and ``text``. It is begun with the first reject, so
a clean import leaves no file.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from leasebook.importers.base import Reject
from ledger.errors import InvalidInput

if TYPE_CHECKING:
    from types import TracebackType

COLUMNS = ("line", "reason", "text")
FIRST_SHOWN = 5


def check_place(path: Path) -> None:
    """Raise InvalidInput where a file stands that holds something else than rejects."""
    head = ",".join(COLUMNS).encode()
    try:
        if not path.is_file():
            return
        with path.open("rb") as file:
            there = file.read(len(head))
    except (OSError, ValueError):
        return  # There is none, or it cannot be written either, which writing will say.
    if there not in (b"", head):
        raise InvalidInput(
            f"the rejects would overwrite {path}, which holds something else",
            "name another --rejects",
        )


class Rejects:
    """Counts rejects, keeps the first few at hand and all of them in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.first: list[Reject] = []
        self._file: IO[str] | None = None
        self._writer: Any = None

    def add(self, reject: Reject) -> None:
        """Keep one. Raises InvalidInput where the file cannot be written."""
        if self._file is None:
            check_place(self.path)
            try:
                self._file = self.path.open("w", encoding="utf-8", newline="")
            except (OSError, ValueError) as error:
                why = (error.strerror if isinstance(error, OSError) else None) or "it is no name"
                raise InvalidInput(
                    f"the rejects cannot be written to {self.path}: {why}", "name another --rejects"
                ) from None
            self._writer = csv.writer(self._file)
            self._writer.writerow(COLUMNS)
        self.count += 1
        if len(self.first) < FIRST_SHOWN:
            self.first.append(reject)
        self._writer.writerow((reject.line, reject.reason, reject.text))

    def close(self) -> None:
        """Write out what is left."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Rejects:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
