"""The ending sweep: what was asked to end ends, and its capacity returns when that is so.

An allocation that is ``ending`` returns when its process is gone. When its grace is over, the
process tree gets TERM, a moment, and KILL where that is ours to do. What cannot be stopped from
here is taken back with ``enforced`` false, and the evidence says what was tried.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from ledger.book import Allocation, Book
from ledger.identity import ProcessIdentity
from ledger.writer import Writer
from scheduler.processes.liveness import Liveness, Observation, observe
from scheduler.sweeps.reclaiming import Observer, SweepReport, detail_of, take_back

if TYPE_CHECKING:
    from scheduler.processes.ending import Ended

LIMIT: Final = 20
"""How many allocations one pass ends; each may take as long as its process resists."""

TERM_GRACE_S: Final = 2.0
"""Between TERM and KILL. The holder was asked long before: its grace is over."""

FOREIGN_GRACE_NS: Final = 60_000_000_000
"""How much longer a process that cannot be seen from here has: a sweep that sees it goes first."""

FORCED: Final = "forced"


def ending(
    writer: Writer,
    *,
    limit: int = LIMIT,
    dry_run: bool = False,
    term_grace_s: float = TERM_GRACE_S,
) -> SweepReport:
    """Bring at most ``limit`` endings to their end. Safe to run twice and at once.

    Raises what :meth:`ledger.writer.Writer.execute` raises for failures of the infrastructure.
    """

    def question(book: Book, now: int) -> tuple[list[Allocation], Observer]:
        found = [a for a in book.allocations.values() if a.state == "ending"]
        return found, Observer(now)

    found, observer = writer.read(question)
    found.sort(key=lambda allocation: (allocation.deadline or 0, -allocation.position))
    details: list[dict[str, Any]] = []
    more = False
    for allocation in found:
        process = allocation.request.process
        seen = None if process is None else observer.look(process)
        if not _is_ready(allocation, seen, observer.now()):
            continue
        if len(details) >= limit:
            more = True
            break
        detail = _bring_to_end(writer, observer, allocation, process, dry_run, term_grace_s)
        if detail is not None:
            details.append(detail)
    return SweepReport("ending", len(found), len(details), details, dry_run, more)


def _is_ready(allocation: Allocation, seen: Observation | None, now: int) -> bool:
    """Whether there is something to do now: its process is gone, or its grace is over."""
    if seen is not None and seen.liveness is Liveness.DEAD:
        return True
    deadline = allocation.deadline or 0
    if seen is not None and seen.liveness is Liveness.UNKNOWN:
        deadline += FOREIGN_GRACE_NS
    return deadline <= now


def _bring_to_end(
    writer: Writer,
    observer: Observer,
    allocation: Allocation,
    process: ProcessIdentity | None,
    dry_run: bool,
    term_grace_s: float,
) -> dict[str, Any] | None:
    """End one allocation; its line for the report, or None where another was quicker."""
    cause = allocation.ending_cause or FORCED
    detail = detail_of(allocation, cause)
    if dry_run:
        detail["would"] = _intention(allocation, process, observer)
        return detail
    evidence, reason, enforced = _stop(observer, allocation, process, term_grace_s)
    receipt = take_back(
        writer, allocation, cause=cause, evidence=evidence, reason=reason, enforced=enforced
    )
    if receipt is None:
        return None
    detail.update(evidence=evidence, enforced=enforced, positions=list(receipt.positions))
    return detail


def _end_tree(root: ProcessIdentity, grace_s: float) -> Ended:
    from scheduler.processes.ending import end_tree

    return end_tree([root], grace_s)


def _intention(allocation: Allocation, process: ProcessIdentity | None, observer: Observer) -> str:
    if process is not None:
        liveness = observer.look(process).liveness
        if liveness is Liveness.DEAD:
            return "take back: the process is gone"
        stoppable = allocation.enforced and process.pid not in (1, os.getpid())
        if liveness is Liveness.ALIVE and stoppable:
            return f"end process {process.pid} with all that it started, then take back"
    return "take back unenforced: the holder cannot be stopped from here"


def _stop(
    observer: Observer,
    allocation: Allocation,
    process: ProcessIdentity | None,
    term_grace_s: float,
) -> tuple[dict[str, Any], str, bool]:
    """See to it that the holder is gone: evidence, the reason in words, whether it was enforced."""
    if process is None:
        return {"deadline": allocation.deadline}, "its grace is over; it has no process", False
    seen = observer.look(process)
    evidence: dict[str, Any] = seen.evidence()
    if seen.liveness is Liveness.DEAD:
        return evidence, f"{seen.detail} after it was asked to end", True
    evidence["deadline"] = allocation.deadline
    if seen.liveness is Liveness.UNKNOWN:
        return evidence, f"its grace is over; it cannot be stopped from here: {seen.detail}", False
    if process.pid in (1, os.getpid()):
        # To end init's tree is to end everything, and to end our own is to end this sweep.
        evidence["left"] = [process.pid]
        return (
            evidence,
            f"its grace is over; process {process.pid} is never ended by a sweep",
            False,
        )
    if not allocation.enforced:
        return evidence, "its grace is over; stopping its process is not for the ledger", False
    ended = _end_tree(process, term_grace_s)
    evidence.update(observe(process, at_ns=observer.now()).evidence())
    for what, identities in (
        ("terminated", ended.terminated),
        ("killed", ended.killed),
        ("left", ended.left),
    ):
        evidence[what] = [who.pid for who in identities]
    if ended.left:
        pids = ", ".join(str(pid) for pid in evidence["left"])
        return evidence, f"its grace is over; still running, beyond our reach: {pids}", False
    how = "KILL" if ended.killed else "TERM"
    return evidence, f"its grace was over; its process tree ended at {how}", True
