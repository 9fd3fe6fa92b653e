"""One allocation's life: the row of table ``allocations``, and what each kind of fact makes of it."""

from __future__ import annotations

from typing import Any

from projections.tables.base import LIVE, STORED_MAX, Seen, Span, as_json, from_json

LIFE_COLUMNS = {
    "id": "TEXT",
    "pool": "TEXT",
    "kind": "TEXT",
    "tenant": "TEXT",
    "holder": "TEXT",
    "task": "TEXT",
    "priority": "TEXT",
    "strategy": "TEXT",
    "state": "TEXT",
    "amounts": "TEXT",
    "parent": "TEXT",
    "gang": "TEXT",
    "requested_at": "INTEGER",
    "granted_at": "INTEGER",
    "expires_at": "INTEGER",
    "deadline_at": "INTEGER",
    "max_age_until": "INTEGER",
    "ended_at": "INTEGER",
    "ended_by": "TEXT",
    "ending_cause": "TEXT",
    "since_before": "INTEGER",
    "wait_ns": "INTEGER",
    "nodes": "INTEGER",
    "placements": "TEXT",
    "moves": "TEXT",
    "queued_recorded_at": "INTEGER",
    "granted_recorded_at": "INTEGER",
    "ended_recorded_at": "INTEGER",
    "first_position": "INTEGER",
    "last_position": "INTEGER",
    "token": "INTEGER",
    "exit_code": "INTEGER",
    "used": "TEXT",
    "peak": "TEXT",
    "measured_ns": "INTEGER",
    "corrections": "INTEGER",
    "unapplied": "INTEGER",
    "seq": "INTEGER",
}
LIFE_JSON = ("amounts", "placements", "moves", "used", "peak")

_NAMES = tuple(name for name in LIFE_COLUMNS if name != "nodes")
_JSON_INDEXES = tuple(i for i, name in enumerate(LIFE_COLUMNS) if name in LIFE_JSON)
_NODES = tuple(LIFE_COLUMNS).index("nodes")

UNKNOWN = "unknown"
"""The holder of an observed allocation whose source does not name one."""

_PLAIN = frozenset(
    {
        "requested_at",
        "granted_at",
        "ended_at",
        "expires_at",
        "ended_by",
        "holder",
        "task",
        "exit_code",
    }
)


class Life:
    """An allocation as its events tell it; attributes are the columns, JSON ones decoded.

    ``spans`` are its open ones, in observed pools all of them; ``seq`` numbers the next. ``moves`` (of
    observed pools only) are [at, amounts, placements] in order of time, the first one the grant.
    ``since_before``: it held at ``granted_at`` already, and when it began is not known; such a one,
    and one of which nobody said when it was asked for, has no wait. ``unapplied`` counts facts of
    corrections that no column here stands for.
    """

    __slots__ = (*_NAMES, "spans")

    id: str
    pool: str
    kind: str
    tenant: str
    holder: str
    task: str | None
    priority: str
    strategy: str | None
    state: str
    amounts: dict[str, int]
    parent: str | None
    gang: str | None
    requested_at: int | None
    granted_at: int | None
    expires_at: int | None
    deadline_at: int | None
    max_age_until: int | None
    ended_at: int | None
    ended_by: str | None
    ending_cause: str | None
    since_before: int
    wait_ns: int | None
    placements: list[dict[str, Any]] | None
    moves: list[list[Any]] | None
    queued_recorded_at: int | None
    granted_recorded_at: int | None
    ended_recorded_at: int | None
    first_position: int
    last_position: int
    token: int
    exit_code: int | None
    used: dict[str, int] | None
    peak: dict[str, int] | None
    measured_ns: int | None
    corrections: int
    unapplied: int
    seq: int
    spans: list[Span]

    @classmethod
    def begun(cls, e: Seen, kind: str, requested_at: int | None) -> Life:
        """A life that begins with this event."""
        assert e.allocation is not None and e.pool is not None and e.holder is not None
        life = cls.__new__(cls)
        life.id, life.pool, life.kind, life.tenant = e.allocation, e.pool, kind, e.tenant
        life.holder, life.task = e.holder, e.task
        life.asks(e.data["request"])
        life.strategy = life.gang = life.ended_by = life.ending_cause = None
        life.state = ""
        life.requested_at = requested_at
        life.granted_at = life.expires_at = life.deadline_at = life.max_age_until = None
        life.ended_at = life.wait_ns = life.placements = life.moves = None
        life.queued_recorded_at = life.granted_recorded_at = life.ended_recorded_at = None
        life.first_position = life.last_position = e.position
        life.token = life.corrections = life.unapplied = life.seq = life.since_before = 0
        life.exit_code = life.used = life.peak = life.measured_ns = None
        life.spans = []
        return life

    def asks(self, request: dict[str, Any]) -> None:
        """What was asked for, as the log says it."""
        self.priority = request.get("priority", "normal")
        self.parent = request.get("parent")

    @classmethod
    def from_row(cls, values: tuple[Any, ...]) -> Life:
        """The inverse of :meth:`row`; its spans have to be added."""
        life = cls.__new__(cls)
        for name, value in zip(LIFE_COLUMNS, values, strict=True):
            if name != "nodes":
                setattr(life, name, from_json(value) if name in LIFE_JSON else value)
        life.spans = []
        return life

    def row(self) -> tuple[Any, ...]:
        """The row of table ``allocations``."""
        placements = self.placements
        # Written out, since it is made for every allocation in every chunk.
        # fmt: off
        return (
            self.id, self.pool, self.kind, self.tenant, self.holder, self.task, self.priority,
            self.strategy, self.state, as_json(self.amounts), self.parent, self.gang,
            self.requested_at, self.granted_at, self.expires_at, self.deadline_at,
            self.max_age_until, self.ended_at, self.ended_by, self.ending_cause, self.since_before,
            self.wait_ns,
            None if placements is None else len(placements), as_json(placements),
            as_json(self.moves), self.queued_recorded_at, self.granted_recorded_at,
            self.ended_recorded_at, self.first_position, self.last_position, self.token,
            self.exit_code, as_json(self.used), as_json(self.peak), self.measured_ns,
            self.corrections, self.unapplied, self.seq,
        )
        # fmt: on

    def placements_now(self) -> list[dict[str, Any]] | None:
        """The placements that are held now, None where nothing is."""
        return self.placements if self.state in LIVE else None

    def measure(self, data: dict[str, Any]) -> None:
        """Add what was measured: sums of use, the highest peak, the time that was watched."""
        used = self.used = {} if self.used is None else self.used
        for resource, amount in data["used"].items():
            used[resource] = used.get(resource, 0) + amount
        peak = self.peak = {} if self.peak is None else self.peak
        for resource, amount in data["peak"].items():
            peak[resource] = max(peak.get(resource, 0), amount)
        watched = max(0, data["until"] - data["since"] - data.get("gaps_ns", 0))
        self.measured_ns = min((self.measured_ns or 0) + watched, STORED_MAX)
        if data.get("exit_code") is not None:
            self.exit_code = data["exit_code"]

    def shift(self, since: int, by_ns: int) -> bool:
        """Time was given back: what ends after ``since`` gains by it. Whether anything changed."""
        lease = self.expires_at if self.state != "reserved" else None
        deadline = self.deadline_at
        moved = False
        if lease is not None and lease > since:
            self.expires_at, moved = lease + by_ns, True
        if deadline is not None and deadline > since:
            self.deadline_at, moved = deadline + by_ns, True
            if self.state == "reserved":
                self.expires_at = self.deadline_at
        if moved and self.max_age_until is not None:
            self.max_age_until += by_ns
        return moved

    # --- of observed pools -----------------------------------------------------------------------

    def heard_of(self) -> list[int]:
        """The times (ns UTC) at which something is known of it."""
        said = (self.requested_at, self.granted_at, self.expires_at, self.ended_at)
        return [at for at in said if at is not None] + [move[0] for move in self.moves or ()]

    def move(self, at: int, amounts: dict[str, int], placements: list[dict[str, Any]]) -> None:
        """It had these amounts there from ``at`` on; what was told of that instant before is gone."""
        moves = self.moves or [[self.granted_at, self.amounts, self.placements]]
        first, rest = moves[0], [each for each in moves[1:] if each[0] != at]
        self.moves = [first, *sorted([*rest, [at, amounts, placements]], key=lambda each: each[0])]
        self.amounts, self.placements = self.moves[-1][1], self.moves[-1][2]

    def count_wait(self) -> None:
        """How long it waited, where that is known."""
        asked, granted = self.requested_at, self.granted_at
        known = asked is not None and granted is not None and not self.since_before
        self.wait_ns = max(0, granted - asked) if known else None  # type: ignore[operator]

    def rename(self, e: Seen) -> bool:
        """Take over a holder or task that a later record of it names. Whether there was one."""
        renamed = False
        if self.holder == UNKNOWN and e.holder not in (None, UNKNOWN):
            assert e.holder is not None
            self.holder, renamed = e.holder, True
        if self.task is None and e.task is not None:
            self.task, renamed = e.task, True
        return renamed

    def correct(self, facts: dict[str, Any]) -> None:
        """Take over what was really so. What no column stands for is counted, not guessed at."""
        for name, value in facts.items():
            if name in _PLAIN:
                setattr(self, name, value)
            elif name == "placements":
                amounts: dict[str, int] = {}
                for placement in value:
                    for resource, amount in placement["amounts"].items():
                        amounts[resource] = amounts.get(resource, 0) + amount
                self._begin_with(amounts, value)
            elif name == "amounts":
                self._begin_with(value, None)
            elif name != "granted_before":
                self.unapplied += 1
        if "granted_at" in facts:
            self.since_before = 0
        if facts.get("granted_before") is not None:
            self.since_before = 1
        if self.moves:
            self.moves[0][0] = self.granted_at
        self.count_wait()
        if self.ended_at is not None:
            self.state = "ended"
        elif self.state == "ended":
            self.state = "waiting" if self.granted_at is None else "active"
            self.ended_by = self.ended_recorded_at = None

    def _begin_with(self, amounts: dict[str, int], placements: list[dict[str, Any]] | None) -> None:
        """It had this at its start; where it moved later, it has what it had then."""
        if self.moves:
            self.moves[0][1] = amounts
            if placements is not None:
                self.moves[0][2] = placements
            return
        self.amounts = amounts
        if placements is not None:
            self.placements = placements


def _placed(life: Life, amounts: dict[str, int], placements: Any) -> list[dict[str, Any]]:
    """Where amounts lie; what was observed somewhere unknown lies on node ``''``."""
    if not placements and amounts and life.kind == "observed":
        return [{"node": "", "amounts": amounts}]
    return placements or []


def _of_placements(
    life: Life, seq: int, placements: list[dict[str, Any]], since: int, until: int | None
) -> list[Span]:
    """One span for each node and resource; two shares on one node are one."""
    found: dict[tuple[str, str], Span] = {}
    for placement in placements:
        node = placement["node"]
        for resource, amount in placement["amounts"].items():
            span = found.get((node, resource))
            if span is None:
                found[node, resource] = Span(
                    seq, node, resource, amount, since, until, life.holder, life.task
                )
            else:
                span.amount += amount
    return list(found.values())


def open_spans(life: Life, at: int) -> list[Span]:
    """The spans that its present placements begin at ``at``."""
    placed = _placed(life, life.amounts, life.placements)
    return _of_placements(life, life.seq, placed, at, None)


def redrawn(life: Life) -> list[Span]:
    """All spans of an observed allocation, from its moves, between its grant and its end."""
    if life.granted_at is None or life.placements is None:
        return []
    moves = life.moves or [[life.granted_at, life.amounts, life.placements]]
    begun, ended = life.granted_at, life.ended_at
    spans: list[Span] = []
    before: list[Span] = []
    seq = 0
    for index, (at, amounts, placements) in enumerate(moves):
        since = max(at, begun)
        until = moves[index + 1][0] if index + 1 < len(moves) else None
        if ended is not None and (until is None or until > ended):
            until = max(ended, begun)
        last = index + 1 == len(moves)
        if until is not None and until <= since and not (last and not spans):
            # Nothing of it lies between the grant and the end.
            continue
        end = None if until is None else max(until, since)
        drawn = _of_placements(life, seq, _placed(life, amounts, placements), since, end)
        if spans and _goes_on(before, drawn):
            # It was told to have gone where it was already.
            for span in before:
                span.until = end
            continue
        spans += drawn
        before = drawn
        seq += 1
    return spans


def _goes_on(before: list[Span], after: list[Span]) -> bool:
    """Whether the second spans say of a later time what the first say of an earlier one."""
    return [(s.node, s.resource, s.amount) for s in before] == [
        (s.node, s.resource, s.amount) for s in after
    ]
