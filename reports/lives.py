"""The lives of allocations as the projection tables tell them: who held how much, where, how long.

They are read as a stream, one allocation at a time, so a million of them take no more memory than one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from ledger.requests import Amounts
from projections.travel_history import UNPLACED

__all__ = ["UNPLACED", "Held", "Life", "end_of", "lives"]

_COLUMNS: Final = (
    "a.id, a.pool, a.tenant, a.holder, a.task, a.strategy, a.priority, a.kind, a.state, "
    "a.requested_at, a.granted_at, a.expires_at, a.ended_at, a.amounts, "
    "s.seq, s.node, s.resource, s.amount, s.since_at, s.until_at, s.holder, s.task"
)
_FIRST_OF_SPAN: Final = 14
_ROWS: Final = (
    f"SELECT {_COLUMNS} FROM allocations a LEFT JOIN spans s ON s.allocation = a.id "
    # What was reserved took capacity before it was granted.
    "WHERE a.parent IS NULL AND (a.granted_at IS NULL OR a.granted_at < :until OR EXISTS "
    "(SELECT 1 FROM spans r WHERE r.allocation = a.id AND r.since_at < :until)) "
    "AND (a.ended_at IS NULL OR a.ended_at >= :since) "
    "ORDER BY a.id, s.seq, s.node"
)


@dataclass(frozen=True, slots=True)
class Held:
    """What one allocation held in one stretch of time (``[since, until)``): amounts per node.

    ``holder`` and ``task`` are those of that time: an allocation can change hands.
    """

    since: int
    until: int
    holder: str | None
    task: str | None
    nodes: dict[str, Amounts]


@dataclass(frozen=True, slots=True)
class Life:
    """One allocation that began. ``key`` names the groups that it belongs to for all of its life.

    ``until`` is when it stopped holding, or until when it is taken to; ``ended`` is None where it has
    not ended; ``open`` says that nobody knows its end.
    """

    key: dict[str, str | None]
    began: int
    ended: int | None
    until: int
    waited_ns: int
    open: bool
    held: list[Held]


def end_of(
    kind: str, state: str, expires: int | None, ended: int | None, horizon: int
) -> tuple[int | None, int, bool]:
    """(ended, until, open) of an allocation, judged at ``horizon`` (ns UTC).

    A managed lease that is over has ended at its end, though nobody wrote it down yet. An observed
    allocation without an end holds until ``expires``, when it was last known to, and stays open.
    """
    if ended is not None:
        return ended, ended, False
    if kind == "managed":
        if expires is not None and expires <= horizon and state in ("active", "reserved"):
            return expires, expires, False
        return None, horizon, False
    return None, horizon if expires is None else expires, True


def lives(views: Any, since: int, until: int, now: int) -> Iterator[Life]:
    """Every outermost allocation that began and may touch a window of time, in no useful order.

    ``views`` is a connection to the views file; times are ns UTC. What is open holds until the
    earlier of ``until`` and ``now``.
    """
    horizon = min(until, now)
    rows = views.execute(_ROWS, {"since": since, "until": until})
    for _, group in groupby(rows, key=itemgetter(0)):
        life = _life(list(group), horizon)
        if life is not None:
            yield life


def _life(rows: list[tuple[Any, ...]], horizon: int) -> Life | None:
    identity, pool, tenant, holder, task, strategy, priority, kind, state = rows[0][:9]
    requested, granted, expires, ended, amounts = rows[0][9:_FIRST_OF_SPAN]
    spans = [row[_FIRST_OF_SPAN:] for row in rows if row[_FIRST_OF_SPAN] is not None]
    # What is only reserved takes capacity already, though it was not granted yet.
    begins = [span[4] for span in spans] + ([] if granted is None else [granted])
    if not begins:
        return None
    began = min(begins)
    ended, until, is_open = end_of(kind, state, expires, ended, horizon)
    until = max(until, began)
    key = {
        "pool": pool,
        "tenant": tenant,
        "strategy": strategy,
        "priority": priority,
        "allocation": identity,
    }
    waited = 0 if requested is None else max(0, began - requested)
    held = _held(spans, until) or [Held(began, until, holder, task, _somewhere(amounts))]
    return Life(key, began, ended, until, waited, is_open, held)


def _somewhere(amounts: str | None) -> dict[str, Amounts]:
    """What was held where no record says on which node."""
    found: Amounts = {} if amounts is None else json.loads(amounts)
    return {UNPLACED: found} if found else {}


def _held(spans: list[tuple[Any, ...]], until: int) -> list[Held]:
    """The stretches of an allocation from its rows of ``spans``, in order."""
    found: list[Held] = []
    current: int | None = None
    for seq, node, resource, amount, since, end, holder, task in spans:
        if seq != current:
            current = seq
            last = until if end is None else min(end, until)
            found.append(Held(since, last, holder, task, {}))
        amounts = found[-1].nodes.setdefault(node or UNPLACED, {})
        amounts[resource] = amounts.get(resource, 0) + amount
    return found
