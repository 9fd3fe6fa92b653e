"""Selecting: which events concern an allocation, a holder, a task, a tenant or a pool.

Some concern it without naming it in a column: a holder's renewal of all its leases, a transfer away
from it, time given back to every lease, a correction or redaction of one of its events. So each
filter remembers what it has met.
"""

from __future__ import annotations

from typing import Any

from ledger.log import Row
from reports.audit.entries import BEGINS, ENDS, Asked, data_of

_COLUMNS = ("holder", "task", "tenant", "pool")
_BY = frozenset(
    {"released", "reclaimed", "ending", "withdrawn", "adjusted", "shared", "redacted", "corrected"}
    | {"alert_cleared", "task_started", "task_finished", "transferred"}
)
"""Types that say who did it, in ``by``."""
_INDIRECT = frozenset({"renewed", "transferred", "time_extended", "corrected", "redacted"}) | {
    "alert_raised",
    "alert_cleared",
}


class Filter:
    """One filter, such as holder h1, going through a log from its beginning."""

    def __init__(self, name: str, value: str) -> None:
        """``name`` is a column, among them ``allocation``."""
        self.name = name
        self.value = value
        self._allocations: set[str] = set()
        self._live: set[str] = set()
        self._positions: set[int] = set()
        self._alerts: set[str] = set()

    def concerns(self, row: Row) -> bool:
        """Whether a row concerns it. To be asked of every row, in order."""
        if getattr(row, self.name) == self.value:
            self._keep(row)
            found = True
        else:
            looks = row.type in _INDIRECT or (self.name == "holder" and row.type in _BY)
            found = looks and self._indirectly(row, data_of(row))
        if found:
            self._positions.add(row.position)
        return found

    def _keep(self, row: Row) -> None:
        """Remember an allocation of its own, and whether it is still held or waits."""
        if row.allocation is None or row.type == "refused":
            return
        if row.type in BEGINS or row.type == "transferred":
            self._allocations.add(row.allocation)
            self._live.add(row.allocation)
        elif row.type in ENDS:
            self._live.discard(row.allocation)

    def _indirectly(self, row: Row, data: dict[str, Any]) -> bool:
        if row.type == "time_extended":
            return bool(self._live)
        if row.type in ("corrected", "redacted"):
            target = data.get("corrects" if row.type == "corrected" else "position")
            return target in self._positions or self._did(data)
        if row.type == "renewed" and row.allocation is None:
            return not self._allocations.isdisjoint(data.get("allocations", ()))
        if row.type == "transferred" and row.allocation in self._allocations:
            # Out of these hands, or on to another task: what follows is no longer its own.
            self._allocations.discard(row.allocation)
            self._live.discard(row.allocation)
            return True
        if row.type in ("alert_raised", "alert_cleared"):
            return self._alerted(row, data)
        if self.name != "holder":
            return False
        return self._did(data) or data.get("from_holder") == self.value or self._shares(data)

    def _did(self, data: dict[str, Any]) -> bool:
        return self.name == "holder" and data.get("by") == self.value

    def _shares(self, data: dict[str, Any]) -> bool:
        return self.value in data.get("with_holders", ())

    def _alerted(self, row: Row, data: dict[str, Any]) -> bool:
        if self.name == "tenant":
            # An alert may name the holders of several tenants.
            return False
        details = data.get("details")
        named = details if isinstance(details, dict) else {}
        holders = named.get("holders", ())
        mine = self.name == "holder" and self.value in (
            holders if isinstance(holders, list) else [holders, named.get("holder")]
        )
        if mine or named.get("closed_by") in self._allocations:
            self._alerts.add(str(data.get("alert")))
            return True
        return data.get("alert") in self._alerts or self._did(data)


class RefusalFilter:
    """One refusal and the counts of its repeats."""

    def __init__(self, position: int) -> None:
        self._position = position
        self._found: set[int] = set()

    def concerns(self, row: Row) -> bool:
        """Whether a row is the refusal, counts its repeats, or says something about it."""
        if row.position == self._position:
            found = row.type == "refused"
        elif row.type == "refused":
            found = data_of(row).get("repeats_of") == self._position
        else:
            target = {"corrected": "corrects", "redacted": "position"}.get(row.type)
            found = target is not None and data_of(row).get(target) in self._found
        if found:
            self._found.add(row.position)
        return found


def filters_of(asked: Asked) -> list[Filter | RefusalFilter]:
    """The filters of what was asked, but for type and time."""
    found: list[Filter | RefusalFilter] = []
    if asked.subject is not None and asked.subject.startswith("R"):
        found.append(RefusalFilter(int(asked.subject[1:])))
    elif asked.subject is not None:
        found.append(Filter("allocation", asked.subject))
    for name in _COLUMNS:
        value = getattr(asked, name)
        if value is not None:
            found.append(Filter(name, value))
    return found
