"""The crash sweep: takes back what processes hold that are provably dead.

Only the process that the allocation is bound to is judged, and only from where it can be seen:
another host or pid namespace is left alone. A waiting request whose process died is withdrawn, and so
is one for which only a process waited that died: nobody is there to take what it would be granted.
"""

from __future__ import annotations

from typing import Any, Final

from ledger.book import Allocation
from ledger.identity import ProcessIdentity
from ledger.writer import Writer
from scheduler.processes.liveness import Liveness, Observation
from scheduler.sweeps.reclaiming import (
    Observer,
    SweepReport,
    detail_of,
    process_bound,
    take_back,
)

LIMIT: Final = 500
"""How many allocations one pass takes back; each is a commit."""

CRASHED: Final = "crashed"


def crash(writer: Writer, *, limit: int = LIMIT, dry_run: bool = False) -> SweepReport:
    """Take back at most ``limit`` allocations whose process is dead. Safe to run twice and at once.

    All process-bound allocations are looked at, so that many live ones hide no dead one. Raises
    what :meth:`ledger.writer.Writer.execute` raises for failures of the infrastructure.
    """
    bound, observer = process_bound(writer)
    dead = []
    for allocation, process in bound:
        seen = observer.look(process)
        if seen.liveness is Liveness.DEAD:
            dead.append((allocation, process, seen))
    details = []
    for allocation, process, seen in dead[:limit]:
        asker = None if process == allocation.request.process else process
        detail = _reclaim(writer, observer, allocation, seen, dry_run, asker)
        if detail is not None:
            details.append(detail)
    return SweepReport("crash", len(bound), len(details), details, dry_run, len(dead) > limit)


def _reclaim(
    writer: Writer,
    observer: Observer,
    allocation: Allocation,
    seen: Observation,
    dry_run: bool,
    asker: ProcessIdentity | None,
) -> dict[str, Any] | None:
    cause = allocation.ending_cause or CRASHED
    evidence: dict[str, Any] = seen.evidence()
    happened_at = _died_by(observer, allocation, seen)
    if happened_at < seen.at_ns:
        evidence["booted_at"] = happened_at
    detail = detail_of(allocation, cause, evidence=evidence)
    if not dry_run:
        receipt = take_back(
            writer,
            allocation,
            cause=cause,
            evidence=evidence,
            reason=in_words(seen, "the holder was" if asker is None else "it was asked for by"),
            happened_at=happened_at,
            asker=asker,
        )
        if receipt is None:
            return None
        detail["positions"] = list(receipt.positions)
    return detail


def _died_by(observer: Observer, allocation: Allocation, seen: Observation) -> int:
    """The latest instant at which the process can have died, in ledger time.

    That is when it was seen dead; or, for a process of an earlier boot, when the machine booted,
    unless it was granted (out of the queue) after that.
    """
    booted_at = observer.booted_at() if seen.how == "boot_id" else None
    if booted_at is None:
        return seen.at_ns
    return min(seen.at_ns, max(booted_at, allocation.granted_at or allocation.requested_at))


def in_words(seen: Observation, whose: str = "the holder was") -> str:
    """An observation as one line."""
    who = seen.identity
    return (
        f"{seen.detail}; {whose} process {who.pid}, started at {who.start_time},"
        f" on {who.host}, boot {who.boot_id or 'unknown'}"
    )
