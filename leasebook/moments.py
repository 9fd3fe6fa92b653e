"""The moments of a ledger or of an incident bundle, as every door asks for them: ``at``, ``diff``,
``replay``.

Times and positions come in as a caller says them; JSON documents go out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from leasebook.mapping import (
    Json,
    allocation_out,
    event_out,
    node_out,
    placement_out,
    pool_out,
)
from leasebook.when import parse_when, rfc3339
from ledger.amounts import format_amounts
from ledger.book import Allocation, Book, Pool
from ledger.errors import InvalidInput, Reason, Refused
from ledger.nodes import Node
from projections.difference import Changed, Difference, Gone, NodeChange, PoolChange, difference
from projections.sentences import sentence
from projections.travel import Moment, State, Travel
from projections.travel_corrections import Correction
from projections.travel_history import Observed, unknown_capacity, unsaid
from projections.travel_replay import Frame, PoolPicture, Replay

When = str | int
"""``"06:49"``, ``"2026-11-22T06:49:00Z"``, ``"30m-ago"``, ``"now"``; a position (``1234``,
``"#1234"``). A datetime does as well: it is in the caller's zone unless it names one."""

_REST_NS = 999
"""Times are shown and read in microseconds, and events are written at nanoseconds: a time that was
shown reads back as the end of its microsecond, so that what it was shown for had happened."""


class Moments:
    """Asks a :class:`~projections.travel.Travel`. ``now`` (ns UTC) is what ``30m-ago`` counts from."""

    def __init__(self, travel: Travel, now: int) -> None:
        self.travel = travel
        self.now = now

    def parsed(self, when: When | datetime) -> tuple[str, int]:
        """``("position", p)`` or ``("time", ns UTC)``. Raises InvalidInput."""
        kind, value = self._read(when)
        if kind == "time" and value % 1000 == 0 and value <= self.now:
            value = min(value + _REST_NS, self.now)
        return kind, value

    def _read(self, when: When | datetime) -> tuple[str, int]:
        if isinstance(when, bool) or not isinstance(when, str | int | datetime):
            raise InvalidInput(
                f"{str(when)[:40]!r} is not a time", "give a text, a position or a datetime"
            )
        if isinstance(when, int):
            return "position", when
        if isinstance(when, datetime):
            since = when.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
            return "time", (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
        return parse_when(when, self.now)

    def moment(self, when: When | datetime) -> Moment:
        """The moment. Raises InvalidInput for no time, one before the beginning, or a future one."""
        return self.travel.moment(*self.parsed(when))

    def state(
        self,
        when: When | datetime,
        as_known_at: When | datetime | None = None,
        pool: str | None = None,
    ) -> State:
        """The fleet at a moment. Raises InvalidInput, and Refused (``no_such_pool``)."""
        known = None if as_known_at is None else self.moment(as_known_at)
        state = self.travel.state(self.moment(when), known)
        if pool is not None and pool not in state.book.pools:
            raise Refused(
                f"there was no pool {pool[:60]!r} at {rfc3339(state.when.time)}",
                "leave --pool out to see those that there were",
                reason=Reason.NO_SUCH_POOL,
            )
        return state

    def at(
        self,
        when: When | datetime,
        *,
        as_known_at: When | datetime | None = None,
        pool: str | None = None,
    ) -> dict[str, Any]:
        """The contract's document of a moment."""
        return state_out(self.state(when, as_known_at, pool), pool)

    def difference(self, first: When | datetime, second: When | datetime) -> Difference:
        """What differs between two moments. Raises InvalidInput where the second is the earlier."""
        return difference(self.travel, self.state(first), self.state(second))

    def diff(
        self, first: When | datetime, second: When | datetime, *, pool: str | None = None
    ) -> dict[str, Any]:
        """What differs between two moments, as a document.

        Raises InvalidInput, and Refused (``no_such_pool``) where there was none at either moment.
        """
        before, after = self.state(first), self.state(second)
        found = difference(self.travel, before, after)
        if pool is not None and pool not in before.book.pools and pool not in after.book.pools:
            raise Refused(
                f"there was no pool {pool[:60]!r} at {rfc3339(before.when.time)} nor at"
                f" {rfc3339(after.when.time)}",
                "leave --pool out to see those that there were",
                reason=Reason.NO_SUCH_POOL,
            )
        return difference_out(found, pool)

    def replay(
        self, since: When | datetime, until: When | datetime, *, pool: str | None = None
    ) -> Replay:
        """The events after ``since`` up to and with ``until``, each with the state after it.

        Where both are positions, the event at ``since`` is played too, and all comes in the order of
        the record. Raises InvalidInput, and Refused (``no_such_pool``).
        """
        kinds = self.parsed(since)[0], self.parsed(until)[0]
        begin, end = self.moment(since), self.moment(until)
        if (end.position, end.time) < (begin.position, begin.time):
            raise InvalidInput(
                f"{rfc3339(end.time)} lies before {rfc3339(begin.time)}",
                "give the earlier moment as --from",
            )
        if kinds[0] == "position" and begin.position > self.travel.past.first:
            earlier = begin.position - 1
            begin = Moment(earlier, self.travel.past.recorded_at(earlier))
        if pool is not None and pool not in self.travel.state(end).book.pools:
            raise Refused(
                f"there is no pool {pool[:60]!r} at {rfc3339(end.time)}",
                "see `leasebook pool list`",
                reason=Reason.NO_SUCH_POOL,
            )
        by_time = kinds != ("position", "position")
        return Replay(self.travel, begin, end, pool=pool, by_time=by_time)


def moment_out(moment: Moment) -> Json:
    """A moment."""
    return {"position": moment.position, "time": rfc3339(moment.time)}


def correction_out(c: Correction) -> Json:
    """Something that was found out about a moment after it."""
    return {
        "allocation": c.allocation,
        "pool": c.pool,
        "holder": c.holder,
        "task": c.task,
        "believed": c.believed,
        "found": c.found,
        "ended_at": rfc3339(c.ended_at),
        "ended_by": c.ended_by,
        "position": c.position,
        "found_at": rfc3339(c.found_at),
        "counted": c.counted,
    }


def _shown(a: Allocation) -> Json:
    """An allocation; of an observed pool with ``seen_until``, when it was last known to hold."""
    out = allocation_out(a)
    if isinstance(a, Observed) and a.state != "waiting":
        out["seen_until"], out["expires_at"] = out["expires_at"], None
    return out


def state_out(state: State, pool: str | None = None) -> Json:
    """A state as the contract shows it."""
    return {
        **moment_out(state.when),
        "known_at": moment_out(state.known),
        "pools": [
            _pool_out(state.book, each)
            for each in state.book.pools.values()
            if pool in (None, each.name)
        ],
        "allocations": [_shown(a) for a in state.held(pool)],
        "queue": [_shown(a) for a in state.queue(pool)],
        "corrections": [correction_out(c) for c in state.corrections if pool in (None, c.pool)],
    }


def _pool_out(book: Book, pool: Pool) -> Json:
    """A pool; capacity that nobody gave is left out, and named in ``capacity_unknown``."""
    out = pool_out(book, pool)
    out["nodes"] = [_node_out(pool.kind, node) for node in pool.space.nodes.values()]
    _leave_out(out, unknown_capacity(pool))
    return out


def _node_out(kind: str, node: Node) -> Json:
    out = node_out(node)
    _leave_out(out, unsaid(kind, node))
    return out


def _leave_out(out: Json, unknown: Collection[str]) -> None:
    if not unknown:
        return
    out["capacity_unknown"] = sorted(unknown)
    for part in (out["capacity"], out["free"], out["base_units"]["capacity"]):
        for resource in unknown:
            part.pop(resource, None)
    over = {r: v for r, v in out.pop("over_committed", {}).items() if r not in unknown}
    if over:
        out["over_committed"] = over


# --- differences ---------------------------------------------------------------------------------


def difference_out(d: Difference, pool: str | None = None) -> Json:
    """A difference. Applied to the first moment's document it gives the second's."""

    def mine(a: Allocation) -> bool:
        return pool in (None, a.pool)

    return {
        "from": moment_out(d.before),
        "until": moment_out(d.after),
        "allocations": {
            "begun": [_shown(a) for a in d.begun if mine(a)],
            "ended": [_gone_out(g) for g in d.ended if mine(g.before)],
            "changed": [c for c in map(_changed_out, d.changed) if c and pool in (None, c["pool"])],
        },
        "pools": [_pool_change_out(p) for p in d.pools if pool in (None, p.name)],
        "queue": {
            "joined": [_shown(a) for a in d.joined if mine(a)],
            "left": [_gone_out(g) for g in d.left if mine(g.before)],
        },
    }


def _gone_out(gone: Gone) -> Json:
    """What is there no more: as it was, and what became of it."""
    end = gone.end
    now = {"ended_at": rfc3339(end.ended_at), "ended_by": end.ended_by, "became": end.state}
    return {**_shown(gone.before), **now}


def _changed_out(change: Changed) -> Json | None:
    """What of an allocation's document differs; None where nothing of it shows there."""
    before, after = _shown(change.before), _shown(change.after)
    names = [name for name in after if before.get(name) != after[name]]
    if not names:
        return None
    return {
        "id": change.after.id,
        "pool": change.after.pool,
        "holder": change.after.holder,
        "before": {name: before.get(name) for name in names},
        "after": {name: after[name] for name in names},
    }


def _pool_change_out(change: PoolChange) -> Json:
    before, after = change.before, change.after
    what = "opened" if before is None else "gone" if after is None else "changed"
    pool = after or before
    kind = "managed" if pool is None else pool.kind
    return {
        "name": change.name,
        "what": what,
        "capacity": _pairs_out(change.capacity),
        "in_use": _pairs_out(change.in_use),
        "base_units": {"capacity": change.capacity, "in_use": change.in_use},
        "settings": {name: _setting_pair(change, name) for name in change.fields},
        "nodes": [_node_change_out(kind, node) for node in change.nodes],
    }


def _setting_pair(change: PoolChange, name: str) -> list[Any]:
    from leasebook.policies import policy_out

    def shown(pool: Pool | None) -> Any:
        if pool is None:
            return None
        return policy_out(pool.policy) if name == "policy" else getattr(pool, name)

    return [shown(change.before), shown(change.after)]


def _node_change_out(kind: str, change: NodeChange) -> Json:
    before = None if change.before is None else _node_out(kind, change.before)
    after = None if change.after is None else _node_out(kind, change.after)
    what = "joined" if before is None else "left" if after is None else "changed"
    return {"name": change.name, "what": what, "before": before, "after": after}


def _pairs_out(pairs: Mapping[str, tuple[int, int]]) -> Json:
    """Resource → [before, after] in canonical text."""
    before = format_amounts({r: pair[0] for r, pair in pairs.items()})
    after = format_amounts({r: pair[1] for r, pair in pairs.items()})
    return {resource: [before[resource], after[resource]] for resource in pairs}


# --- replays -------------------------------------------------------------------------------------


def frame_out(frame: Frame) -> Json:
    """One event of a replay, in words too, and the state after it.

    Nodes are named where something is in use on them or they take nothing new.
    """
    return {
        "at": rfc3339(frame.at),
        "event": event_out(frame.event),
        "text": sentence(frame.event),
        "state": {
            "position": frame.event.position,
            "time": rfc3339(frame.at),
            "pools": [_picture_out(pool) for pool in frame.pools],
            "allocation": None if frame.allocation is None else _shown(frame.allocation),
            "queue": [
                {
                    "id": a.id,
                    "pool": a.pool,
                    "holder": a.holder,
                    "task": a.task,
                    "amounts": format_amounts(a.amounts),
                    "placements": [placement_out(p) for p in a.placements],
                }
                for a in frame.queue
            ],
        },
    }


def _picture_out(pool: PoolPicture) -> Json:
    used = {r: pool.in_use.get(r, 0) for r in [*pool.capacity, *pool.in_use]}
    capacity = {r: amount for r, amount in pool.capacity.items() if r not in pool.unknown}
    return {
        "name": pool.name,
        "kind": pool.kind,
        "capacity": format_amounts(capacity),
        "capacity_unknown": sorted(pool.unknown),
        "in_use": format_amounts(used),
        "base_units": {"capacity": capacity, "in_use": used},
        "held": pool.held,
        "waiting": pool.waiting,
        "nodes": [
            {"name": n.name, "in_use": format_amounts(n.in_use), "cordoned": n.cordoned}
            for n in pool.nodes
            if n.cordoned or any(n.in_use.values())
        ],
    }
