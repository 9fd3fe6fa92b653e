"""What the sweeps share: their report, looking at holders' processes, and taking back once."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final

from ledger.book import Allocation, Book
from ledger.commands import Claim, Reclaim
from ledger.identity import ProcessIdentity
from ledger.receipts import Receipt
from ledger.writer import Writer
from scheduler.processes.liveness import Observation, observe

SWEEP: Final = "sweep"
"""Whom the record names for what a sweep does."""


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What one pass found and did.

    ``examined`` counts the allocations that it looked at, ``acted`` those that it ended (with
    ``dry_run``: would end). ``details`` says so one by one, JSON-ready, with ``allocation``,
    ``pool``, ``holder``, ``tenant``, ``cause`` and more by the sweep's kind. ``more`` says that the
    pass stopped at its limit and another one is needed. The sweep ``observe`` is about nodes instead:
    it examines them, acts by recording what others use there, and its details name a ``node``.
    """

    name: str
    examined: int = 0
    acted: int = 0
    details: list[dict[str, Any]] = field(default_factory=list)
    dry_run: bool = False
    more: bool = False


class Observer:
    """Looks at each process once in a pass, and dates what it sees in ledger time."""

    def __init__(self, now: int) -> None:
        """``now`` is ledger time (ns) at this moment."""
        self._now = now
        self._began = time.monotonic_ns()
        self._seen: dict[ProcessIdentity, Observation] = {}

    def look(self, process: ProcessIdentity) -> Observation:
        """What is seen of a process, ``at_ns`` in ledger time."""
        seen = self._seen.get(process)
        if seen is None:
            seen = self._seen[process] = observe(process, at_ns=self.now())
        return seen

    def now(self) -> int:
        """Ledger time as it goes on: a moment ago it was read, and elapsed time has been added."""
        return self._now + time.monotonic_ns() - self._began

    def booted_at(self) -> int | None:
        """When this machine booted, in ledger time; None where the system does not tell."""
        boottime = getattr(time, "CLOCK_BOOTTIME", None)
        return None if boottime is None else self.now() - time.clock_gettime_ns(boottime)


def process_bound(
    writer: Writer,
) -> tuple[list[tuple[Allocation, ProcessIdentity]], Observer]:
    """All live and waiting allocations with a process, and an observer for them: the one that they are
    bound to, and of those that wait the one that alone waits for it (their ``asker``).

    The youngest come first: whoever draws on another's allocation is younger than that, and ends
    for a reason of its own before its parent takes it along.
    """
    found, observer = writer.read(lambda book, now: (_bound(book), Observer(now)))
    found.sort(key=lambda pair: -pair[0].position)
    return found, observer


def _bound(book: Book) -> list[tuple[Allocation, ProcessIdentity]]:
    pairs = [(one, one.request.process) for one in book.allocations.values()]
    pairs += [
        (one, one.asker)
        for one in book.allocations.values()
        if one.state == "waiting" and one.asker != one.request.process
    ]
    return [(allocation, process) for allocation, process in pairs if process is not None]


def take_back(
    writer: Writer,
    allocation: Allocation,
    *,
    cause: str,
    evidence: dict[str, Any],
    reason: str,
    enforced: bool = True,
    happened_at: int | None = None,
    asker: ProcessIdentity | None = None,
) -> Receipt | None:
    """End an allocation as it was seen; None where it has changed hands or ended meanwhile.

    The claim is the fencing token that was seen (0 while it waits) and not an operator's, so that
    an allocation that was transferred or granted since the look is not taken from its new holder.
    The command id is made of the same two: however many sweeps see this at once, one takes effect.
    With ``asker`` only a place is given up that still waits for that process alone.
    """
    name = f"sweep-{allocation.id}-{allocation.token}"
    receipt = writer.execute(
        Reclaim(
            command_id=name if asker is None else f"{name}-asker",
            tenant=allocation.tenant,
            allocation=allocation.id,
            # What waits has no token yet; nobody else can have been granted it since.
            claim=Claim(SWEEP, token=allocation.token or None, operator=not allocation.token),
            cause=cause,
            evidence=evidence,
            reason=reason,
            enforced=enforced,
            happened_at=happened_at,
            asker=asker,
        )
    )
    return None if receipt.replayed or receipt.outcome == "refused" else receipt


def detail_of(allocation: Allocation, cause: str, **more: Any) -> dict[str, Any]:
    """One line of a report."""
    return {
        "allocation": allocation.id,
        "pool": allocation.pool,
        "tenant": allocation.tenant,
        "holder": allocation.holder,
        "state": allocation.state,
        "cause": cause,
        **more,
    }
