"""What notices add to a life: many tell of one thing, late, twice and in any order.

A record that contradicts another is believed for being the later one (:mod:`ledger.rules.history`). A
notice is not: it was true when it was made, and which file told of it first means nothing. So what is
known is a function of the notices alone. The earliest start and the earliest end count. Without a
start, it began where and when it was first seen. A move counts from its time on, of two at one instant
the greater, and so do two places of one start. It was seen until the latest of all sightings.
"""

from __future__ import annotations

from typing import Any

from ledger.events import Corrected, Renewed
from ledger.rules.history import (
    IMPORT,
    OTHERWISE,
    UNKNOWN,
    Life,
    Notice,
    Said,
    beginning,
    claim,
    ended_as,
    frozen,
    merge,
    moved,
    plain,
    time_of,
)


def merge_notice(life: Life, notice: Notice, position: int) -> Said:
    """What a notice adds to what is recorded under its key, as :func:`~ledger.rules.history.merge`."""
    if life.granted_at is None:
        return merge(life, notice, position)
    truth: dict[str, Any] = {}
    _claim_start(life, truth, notice)
    claim(life, truth, "holder", None if notice.holder == UNKNOWN else notice.holder)
    claim(life, truth, "task", notice.task)
    said: Said = []
    for at, placed in sorted(notice.moves, key=time_of):
        known = life.moves.get(at)
        if known is None or frozen(placed) > frozen(known):
            said.append((moved(life.amounts_before(at), placed), at))
    ended = notice.ended_at
    if ended is not None and life.ended_at is None:
        holder = life.holder if notice.holder == UNKNOWN else notice.holder
        said.append((ended_as(notice, holder, ended, notice.ended_by), ended))
    elif ended is not None and ended < (life.ended_at or 0):
        claim(life, truth, "ended_at", ended)
    seen = notice.seen_until
    if seen is not None and (life.held_until is None or seen > life.held_until):
        said.append((Renewed(seen), seen))
    if truth:
        said.append((Corrected(life.start or life.first, OTHERWISE, IMPORT, truth), None))
    return said


def _claim_start(life: Life, truth: dict[str, Any], notice: Notice) -> None:
    began, granted = notice.began_at, life.granted_at
    assert granted is not None
    if began is None:
        if life.is_since_before:
            _claim_sight(life, truth, notice, granted)
        return
    if life.is_since_before:
        truth["granted_at"] = began
    elif began < granted:
        claim(life, truth, "granted_at", began)
    placed = frozen(notice.placements)
    known = frozen(life.placements)
    greater = began == granted and placed > known and ("placements", placed) not in life.said
    if placed and placed != known and (truth or greater):
        truth["placements"] = [plain(one) for one in notice.placements]


def _claim_sight(life: Life, truth: dict[str, Any], notice: Notice, granted: int) -> None:
    """It held at a time already, and it stood there: where it did at its earliest, it stood first."""
    start = beginning(notice)
    assert start is not None
    if start < granted:
        truth["granted_at"] = truth["granted_before"] = start
    if not notice.placements:
        return
    at = start if notice.seen_from is None else notice.seen_from
    placed = frozen(notice.placements)
    earlier = life.placed_at is None or at < life.placed_at
    if earlier or (at == life.placed_at and placed > frozen(life.placements)):
        # Said even of the same place: that it was there so early keeps out what comes between.
        truth["placements"] = [plain(one) for one in notice.placements]
        truth.setdefault("granted_before", at)
