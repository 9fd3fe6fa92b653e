"""What differs between two moments: who came, who went, whose share changed, and what became of pools
and queue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ledger.book import Allocation, Pool
from ledger.errors import InvalidInput
from ledger.nodes import Node
from ledger.requests import Amounts, Devices
from ledger.times import rfc3339
from projections.travel import Moment, State, Travel

COMPARED = (
    "state",
    "holder",
    "task",
    "amounts",
    "placements",
    "lease_until",
    "deadline",
    "token",
    "enforced",
    "granted_at",
    "strategy",
    "request",
)
"""What of an allocation that is held at both moments may have changed."""


@dataclass(frozen=True, slots=True)
class Changed:
    """An allocation that is there at both moments; ``fields`` are those of :data:`COMPARED` that
    differ."""

    before: Allocation
    after: Allocation
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gone:
    """An allocation that is there at the first moment only; ``end`` is what became of it."""

    before: Allocation
    end: Allocation


@dataclass(frozen=True, slots=True)
class NodeChange:
    """A node of a pool: None where it was not there. ``fields`` names what differs."""

    name: str
    before: Node | None
    after: Node | None
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PoolChange:
    """A pool whose nodes or settings differ. None where it was not there.

    ``capacity`` and ``in_use`` are resource → (before, after) in base units, where the two differ.
    """

    name: str
    before: Pool | None
    after: Pool | None
    capacity: dict[str, tuple[int, int]]
    in_use: dict[str, tuple[int, int]]
    nodes: tuple[NodeChange, ...]
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """All that differs between two moments.

    ``begun`` and ``ended`` hold capacity at one of the two only. ``joined`` wait at the second only;
    ``left`` waited at the first only, whatever became of them. What came and went in between shows in
    neither state, and so not here.
    """

    before: Moment
    after: Moment
    begun: tuple[Allocation, ...]
    ended: tuple[Gone, ...]
    changed: tuple[Changed, ...]
    pools: tuple[PoolChange, ...]
    joined: tuple[Allocation, ...]
    left: tuple[Gone, ...]

    @property
    def is_empty(self) -> bool:
        """Whether the two moments are alike."""
        parts = (self.begun, self.ended, self.changed, self.pools, self.joined, self.left)
        return not any(parts)


def difference(travel: Travel, first: State, second: State) -> Difference:
    """What differs between two states of one past. Raises InvalidInput where the second is earlier."""
    a, b = first.when, second.when
    if (b.position, b.time) < (a.position, a.time):
        raise InvalidInput(
            f"{rfc3339(b.time)} lies before {rfc3339(a.time)}",
            "give the earlier moment first",
        )
    held = {each.id: each for each in first.held()}, {each.id: each for each in second.held()}
    queue = {each.id: each for each in first.queue()}, {each.id: each for each in second.queue()}

    def gone(each: Allocation) -> Gone:
        now = second.book.allocations.get(each.id)
        return Gone(each, now or travel.end_of(each, a, second))

    return Difference(
        a,
        b,
        tuple(each for name, each in held[1].items() if name not in held[0]),
        tuple(gone(each) for name, each in held[0].items() if name not in held[1]),
        tuple(_changes(held[0], held[1]) + _changes(queue[0], queue[1])),
        tuple(_pools(first.book.pools, second.book.pools)),
        tuple(each for name, each in queue[1].items() if name not in queue[0]),
        tuple(gone(each) for name, each in queue[0].items() if name not in queue[1]),
    )


def _changes(before: Mapping[str, Allocation], after: Mapping[str, Allocation]) -> list[Changed]:
    found = []
    for name, then in before.items():
        now = after.get(name)
        if now is None or now is then:
            continue
        fields = tuple(f for f in COMPARED if _compared(then, f) != _compared(now, f))
        if fields:
            found.append(Changed(then, now, fields))
    return found


def _compared(a: Allocation, field: str) -> object:
    if field == "placements":
        # What else was in use on the node when it was placed is not its own.
        return [(p.node, p.amounts, p.devices) for p in a.placements]
    return getattr(a, field)


def _pools(before: Mapping[str, Pool], after: Mapping[str, Pool]) -> list[PoolChange]:
    found = []
    for name in [*before, *(name for name in after if name not in before)]:
        then, now = before.get(name), after.get(name)
        change = PoolChange(
            name,
            then,
            now,
            _apart(_capacity(then), _capacity(now)),
            _apart(_in_use(then), _in_use(now)),
            tuple(_nodes(then, now)),
            tuple(_settings(then, now)),
        )
        if then is None or now is None or change.nodes or change.fields:
            found.append(change)
    return found


def _settings(then: Pool | None, now: Pool | None) -> list[str]:
    names = ["closed", "policy"]
    if then is None or now is None:
        return names
    return [name for name in names if getattr(then, name) != getattr(now, name)]


def _nodes(then: Pool | None, now: Pool | None) -> list[NodeChange]:
    a = {} if then is None else then.space.nodes
    b = {} if now is None else now.space.nodes
    found = []
    for name in [*a, *(name for name in b if name not in a)]:
        before, after = a.get(name), b.get(name)
        if before is after:
            continue
        fields = _node_fields(before, after)
        if fields or before is None or after is None:
            found.append(NodeChange(name, before, after, fields))
    return found


def _node_fields(before: Node | None, after: Node | None) -> tuple[str, ...]:
    if before is None or after is None:
        return ()
    plain = ("capacity", "labels", "cordoned", "outside", "outside_basis")
    found = [name for name in plain if getattr(before, name) != getattr(after, name)]
    if _apart(before.in_use, after.in_use):
        found.append("in_use")
    if _cards(before) != _cards(after):
        found.append("cards_in_use")
    return tuple(found)


def _cards(node: Node) -> Devices:
    return {resource: used for resource, used in node.cards_in_use.items() if used}


def _apart(before: Amounts, after: Amounts) -> dict[str, tuple[int, int]]:
    pairs = {r: (before.get(r, 0), after.get(r, 0)) for r in [*before, *after]}
    return {resource: pair for resource, pair in pairs.items() if pair[0] != pair[1]}


def _capacity(pool: Pool | None) -> Amounts:
    return {} if pool is None else _summed(node.capacity for node in pool.space.nodes.values())


def _in_use(pool: Pool | None) -> Amounts:
    return {} if pool is None else _summed(node.in_use for node in pool.space.nodes.values())


def _summed(each: Iterable[Amounts]) -> Amounts:
    total: Amounts = {}
    for amounts in each:
        for resource, amount in amounts.items():
            total[resource] = total.get(resource, 0) + amount
    return total
