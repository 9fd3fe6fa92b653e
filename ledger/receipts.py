"""Receipts: what a command came to, made from its own events, the first time and on every retry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache

from ledger.advance import advance
from ledger.book import Allocation
from ledger.errors import Reason
from ledger.events import Event, Refused
from ledger.quick import dataclass, maker
from ledger.rules.history import Outcome
from ledger.rules.prospects import Prospect

Present = Callable[[str], Allocation | None]
"""Allocation id → its present state, ended ones included; None where there is none."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The outcome of one command (design, rule 4).

    ``outcome`` is ``granted``, ``waiting`` or ``refused`` for a request; for a batch it is what all of
    its items came to, or ``partial``;
    for facts ``recorded``;
    the type of its event for every other command (``released``, ``renewed``, …), and ``unchanged``
    where all was so already. ``allocation`` is the present state, ``event`` the fact itself.
    ``positions`` are those of the command's own events. ``prospect`` is what can be told of a
    request that waits.
    """

    outcome: str
    positions: tuple[int, ...] = ()
    event: Event | None = None
    allocation: Allocation | None = None
    reason: Reason | None = None
    message: str = ""
    hint: str = ""
    prospect: Prospect | None = None
    replayed: bool = False
    results: tuple[Receipt, ...] = ()

    @property
    def ahead(self) -> int | None:
        """How many are served before it, where it waits."""
        return None if self.prospect is None else self.prospect.ahead

    @property
    def refusal(self) -> Refused | None:
        """The refusal's facts, where it was refused by an event."""
        body = None if self.event is None else self.event.body
        return body if isinstance(body, Refused) else None

    @property
    def refusal_id(self) -> str | None:
        """``R`` + the position of the refusal."""
        refused = self.refusal is not None and self.event is not None
        return f"R{self.event.position}" if refused and self.event is not None else None


_receipt = maker(Receipt)


def fold_allocation(events: Iterable[Event]) -> Allocation | None:
    """One allocation's state from its own events, oldest first."""
    allocation: Allocation | None = None
    for event in events:
        allocation = advance(allocation, event)
    return allocation


def receipt_for(
    own: Sequence[Event], present: Present, *, batch: bool = False, replayed: bool = False
) -> Receipt:
    """The receipt of a command from its own events. ``batch``: one result per item, in order."""
    if batch and own and own[0].type == "refused" and len(own) == 1:
        whole = _single(own[0], present, replayed)
        return Receipt(
            "refused",
            whole.positions,
            own[0],
            None,
            whole.reason,
            whole.message,
            whole.hint,
            replayed=replayed,
            results=(whole,),
        )
    if batch:
        results = tuple(_single(event, present, replayed) for event in own)
        outcomes = {result.outcome for result in results}
        outcome = outcomes.pop() if len(outcomes) == 1 else "partial"
        positions = tuple(p for result in results for p in result.positions)
        return Receipt(outcome, positions, replayed=replayed, results=results)
    if not own:
        return Receipt("unchanged", replayed=replayed)
    return _single(own[0], present, replayed)


def receipt_for_facts(own: Sequence[Event], outcomes: Sequence[Outcome]) -> Receipt:
    """The receipt of recorded facts: ``recorded``, or ``unchanged``, and a result for each.

    A result's outcome is the fact's (:class:`~ledger.rules.history.Outcome`), its message the state
    of the fact's allocation, and its hint ``elsewhere`` where that is recorded in another pool.
    """
    return Receipt(
        "recorded" if own else "unchanged",
        tuple([event.position for event in own]),
        results=tuple([_of_fact(outcome) for outcome in outcomes]),
    )


@cache
def _of_fact(outcome: Outcome) -> Receipt:
    return Receipt(
        outcome.what, message=outcome.state, hint="elsewhere" if outcome.elsewhere else ""
    )


def _single(event: Event, present: Present, replayed: bool) -> Receipt:
    body = event.body
    positions = (event.position,)
    if isinstance(body, Refused):
        reason = Reason(body.reason)
        return Receipt(
            "refused", positions, event, None, reason, body.message, body.hint, replayed=replayed
        )
    allocation = None if event.allocation is None else present(event.allocation)
    outcome = event.type
    if event.type in ("allocated", "reserved"):
        outcome = "granted"
    elif event.type == "queued":
        outcome = _of_waiting(allocation)
        if outcome == "refused":
            assert allocation is not None
            return Receipt(
                outcome,
                positions,
                event,
                allocation,
                why_not_granted(allocation.ended_by),
                f"{allocation.id} left the queue without a grant: {allocation.ended_by}",
                "ask again under a new command id",
                replayed=replayed,
            )
    return _receipt(outcome, positions, event, allocation, replayed=replayed)


def why_not_granted(ended_by: str | None) -> Reason:
    """The reason to give for a request that left the queue without a grant."""
    return Reason.WAIT_TIMED_OUT if ended_by == "timed_out" else Reason.ALREADY_ENDED


def _of_waiting(allocation: Allocation | None) -> str:
    """What became of a request that was queued."""
    if allocation is None or allocation.state == "waiting":
        return "waiting"
    return "granted" if allocation.granted_at is not None or allocation.token else "refused"
