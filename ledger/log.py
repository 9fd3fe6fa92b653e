"""The log: what every store of events must do, whatever it is made of.

A log holds :class:`Row` values at positions 1, 2, 3 … without gaps. It knows nothing of what the
events mean. Everything that decides lives above it; everything that stores lives below this page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

GENESIS = bytes(32)
"""The hash before position 1."""


class Row(NamedTuple):
    """One event as it is stored. The names are the columns of table ``events``."""

    position: int
    at: int
    recorded_at: int
    type: str
    schema: int
    tenant: str
    pool: str | None
    allocation: str | None
    holder: str | None
    task: str | None
    command_id: str | None
    data: str
    metadata: str | None
    digest: bytes
    hash: bytes


COLUMNS = Row._fields


class Head(NamedTuple):
    """Where a log ends: the last position (0 when empty), its hash and its ``recorded_at``."""

    position: int
    hash: bytes
    recorded_at: int


EMPTY = Head(0, GENESIS, 0)


class Transaction(Protocol):
    """The one writer's view while it holds the gate and the write lock."""

    def head(self) -> Head:
        """The last committed event, as this transaction sees it."""
        ...

    def read(self, after: int) -> Iterator[Row]:
        """Rows after a position, in order: what other writers have added."""
        ...

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows whose positions go on from the head without a gap."""
        ...

    def rows_of_command(self, tenant: str, command_id: str) -> list[Row]:
        """As :meth:`Log.rows_of_command`, inside the transaction."""
        ...

    def rows_of_allocation(self, allocation: str) -> list[Row]:
        """As :meth:`Log.rows_of_allocation`, inside the transaction."""
        ...

    def rows_of_commands(self, keys: Iterable[tuple[str, str]]) -> list[Row]:
        """The rows of many commands (tenant, id), without refusals, by position: a join, no loop."""
        ...

    def rows_of_allocations(self, allocations: Iterable[str]) -> list[Row]:
        """The rows of many allocations, by position: a join, no loop."""
        ...

    def erase_metadata(self, position: int) -> None:
        """Drop one row's metadata; allowed only right after its ``redacted`` event was appended."""
        ...


class NoteKeeper(Protocol):
    """Keeps a few bytes for whoever passes the gate next: the clock's last reading."""

    def read_note(self) -> bytes:
        """The note, empty when there is none. Called inside a transaction."""
        ...

    def write_note(self, note: bytes) -> None:
        """Leave a note. Called inside a transaction."""
        ...


class Log(Protocol):
    """A store of events. Implementations: :mod:`ledger.memory_log`, :mod:`ledger.sqlite_log`.

    Every method raises :class:`~ledger.errors.LedgerUnavailable` when the infrastructure fails and
    :class:`~ledger.errors.LedgerCorrupt` when the store is damaged. A transaction that leaves by an
    exception has changed nothing; one that leaves normally is on disk.
    """

    read_only_reason: str | None
    """Why nothing can be written here, or None when it can."""

    @property
    def gate(self) -> NoteKeeper:
        """Where the writers' shared note lies."""
        ...

    def require_writable(self) -> None:
        """Raise :class:`~ledger.errors.LedgerReadOnly`, with why and what to do, where it is not."""
        ...

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Take the writers' gate, then the write lock; commit at the end, durably."""
        ...

    def abandon(self) -> None:
        """Undo a transaction of this thread that an interrupt has left open; else nothing.

        Ctrl-C may strike after the last line of a ``with`` and before its end is called.
        """
        ...

    def head(self) -> Head:
        """The last committed event."""
        ...

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Row]:
        """Committed rows with ``after < position <= upto``, in order, in constant memory."""
        ...

    def rows_of_command(self, tenant: str, command_id: str) -> list[Row]:
        """The rows of a command that took effect, oldest first; empty when the id is unused.

        Rows of type ``refused`` do not use an id up: they count only beside others, as the refused
        items of a batch that had an effect.
        """
        ...

    def rows_of_allocation(self, allocation: str) -> list[Row]:
        """All rows whose ``allocation`` column is this id, oldest first."""
        ...

    def close(self) -> None:
        """Let go of files and locks. Safe to call twice."""
        ...
