"""A log in memory: for tests, what-if runs and simulations. Nothing survives the process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType

import orjson

from ledger.batches import refused_beside
from ledger.errors import LedgerCorrupt, LedgerUnavailable
from ledger.gate import PATIENCE_S
from ledger.locks import OwnedLock
from ledger.log import EMPTY, Head, Row


class MemoryGate:
    """Carries the note that a gate file would carry."""

    def __init__(self) -> None:
        self._note = b""

    def read_note(self) -> bytes:
        """The last note, empty when there is none."""
        return self._note

    def write_note(self, note: bytes) -> None:
        """Leave a note for the next holder."""
        self._note = note


class MemoryLog:
    """A :class:`~ledger.log.Log` made of lists. Threads may share it."""

    read_only_reason: str | None = None

    def __init__(self, rows: Iterable[Row] = (), *, patience_s: float = PATIENCE_S) -> None:
        """A log that begins with ``rows`` (positions 1, 2, 3 …), empty by default."""
        self.gate = MemoryGate()
        self._patience_s = patience_s
        self._lock = OwnedLock()
        # Rows beyond ``_committed`` belong to the transaction that is open.
        self._rows: list[Row] = []
        self._committed = 0
        self._by_command: dict[tuple[str, str], list[int]] = {}
        self._by_allocation: dict[str, list[int]] = {}
        with self.transaction() as transaction:
            transaction.append(rows)

    def require_writable(self) -> None:
        """As :meth:`ledger.log.Log.require_writable`; it always is."""

    def transaction(self) -> _MemoryTransaction:
        """As :meth:`ledger.log.Log.transaction`."""
        return _MemoryTransaction(self, self._lock, self._patience_s)

    def head(self) -> Head:
        """As :meth:`ledger.log.Log.head`."""
        return self._head_at(self._committed)

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Row]:
        """As :meth:`ledger.log.Log.read`."""
        position = max(after, 0)
        while position < self._committed and (upto is None or position < upto):
            yield self._rows[position]
            position += 1

    def rows_of_command(self, tenant: str, command_id: str) -> list[Row]:
        """As :meth:`ledger.log.Log.rows_of_command`."""
        return self._rows_of_command(tenant, command_id, self._committed)

    def rows_of_allocation(self, allocation: str) -> list[Row]:
        """As :meth:`ledger.log.Log.rows_of_allocation`."""
        return self._rows_of_allocation(allocation, self._committed)

    def abandon(self) -> None:
        """As :meth:`ledger.log.Log.abandon`."""
        if self._lock.is_mine():
            self._drop_tail()
            self._lock.release()

    def close(self) -> None:
        """Nothing to let go of."""

    def _head_at(self, count: int) -> Head:
        if not count:
            return EMPTY
        row = self._rows[count - 1]
        return Head(row.position, row.hash, row.recorded_at)

    def _rows_of_command(self, tenant: str, command_id: str, count: int) -> list[Row]:
        found = list(self._by_command.get((tenant, command_id), ()))
        rows = [self._rows[position - 1] for position in found if position <= count]
        effective = [row for row in rows if row.type != "refused"]
        window = refused_beside(effective)
        if window is None:
            return effective
        return [
            row
            for row in rows
            if row.type != "refused"
            or (
                window[0] <= row.position <= window[1]
                and row.recorded_at == effective[0].recorded_at
            )
        ]

    def _rows_of_allocation(self, allocation: str, count: int) -> list[Row]:
        found = list(self._by_allocation.get(allocation, ()))
        return [self._rows[position - 1] for position in found if position <= count]

    def _add(self, row: Row) -> None:
        if row.position != len(self._rows) + 1:
            raise LedgerCorrupt(
                f"position {row.position} is not the next one; {len(self._rows) + 1} is",
                "nothing was recorded; this is a fault in the program, please report it",
                position=row.position,
            )
        self._rows.append(row)
        if row.command_id is not None:
            key = (row.tenant, row.command_id)
            self._by_command.setdefault(key, []).append(row.position)
        if row.allocation is not None:
            self._by_allocation.setdefault(row.allocation, []).append(row.position)

    def _drop_tail(self) -> None:
        while len(self._rows) > self._committed:
            row = self._rows.pop()
            if row.command_id is not None:
                self._by_command[row.tenant, row.command_id].pop()
            if row.allocation is not None:
                self._by_allocation[row.allocation].pop()


class _MemoryTransaction:
    """One open transaction on a :class:`MemoryLog`, and the context that commits it."""

    def __init__(self, log: MemoryLog, lock: OwnedLock, patience_s: float) -> None:
        self._log = log
        self._lock = lock
        self._patience_s = patience_s
        self._erased: dict[int, Row] = {}

    def __enter__(self) -> _MemoryTransaction:
        if self._lock.is_mine() or not self._lock.take(self._patience_s):
            raise LedgerUnavailable(
                f"another thread has kept the log in memory for over {self._patience_s:g} s",
                "end that thread's transaction, then try again",
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        log = self._log
        try:
            if kind is not None:
                log._drop_tail()
                return
            for position, row in self._erased.items():
                log._rows[position - 1] = row
            log._committed = len(log._rows)
        finally:
            if self._lock.is_mine():
                self._lock.release()

    def head(self) -> Head:
        """As :meth:`ledger.log.Transaction.head`."""
        return self._log._head_at(len(self._log._rows))

    def read(self, after: int) -> Iterator[Row]:
        """As :meth:`ledger.log.Transaction.read`."""
        position = max(after, 0)
        while position < len(self._log._rows):
            position += 1
            yield self._erased.get(position) or self._log._rows[position - 1]

    def append(self, rows: Iterable[Row]) -> None:
        """As :meth:`ledger.log.Transaction.append`."""
        for row in rows:
            self._log._add(row)

    def rows_of_command(self, tenant: str, command_id: str) -> list[Row]:
        """As :meth:`ledger.log.Transaction.rows_of_command`."""
        rows = self._log._rows_of_command(tenant, command_id, len(self._log._rows))
        return [self._erased.get(row.position, row) for row in rows]

    def rows_of_allocation(self, allocation: str) -> list[Row]:
        """As :meth:`ledger.log.Transaction.rows_of_allocation`."""
        rows = self._log._rows_of_allocation(allocation, len(self._log._rows))
        return [self._erased.get(row.position, row) for row in rows]

    def rows_of_commands(self, keys: Iterable[tuple[str, str]]) -> list[Row]:
        """As :meth:`ledger.log.Transaction.rows_of_commands`."""
        found = [row for key in set(keys) for row in self.rows_of_command(*key)]
        return sorted(row for row in found if row.type != "refused")

    def rows_of_allocations(self, allocations: Iterable[str]) -> list[Row]:
        """As :meth:`ledger.log.Transaction.rows_of_allocations`."""
        return sorted(row for one in set(allocations) for row in self.rows_of_allocation(one))

    def erase_metadata(self, position: int) -> None:
        """As :meth:`ledger.log.Transaction.erase_metadata`."""
        last = self._log._rows[-1] if self._log._rows else None
        if (
            last is None
            or last.type != "redacted"
            or orjson.loads(last.data).get("position") != position
            or not 0 < position <= len(self._log._rows)
        ):
            raise LedgerCorrupt(
                "metadata can be dropped only right after its redaction was recorded",
                "nothing was recorded; this is a fault in the program, please report it",
                position=position,
            )
        self._erased[position] = self._log._rows[position - 1]._replace(metadata=None)
