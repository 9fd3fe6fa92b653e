"""What-if as it is asked: a window of a log, some changes, and the comparison that answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ledger.book import Allocation, Book
from ledger.codec import from_row
from ledger.errors import InvalidInput
from ledger.events import Event, NodeJoined, PoolOpened
from ledger.fields import dump, load
from ledger.receipts import fold_allocation
from projections.past import Past
from projections.sentences import sentence
from reports.whatif.actions import read_window
from reports.whatif.changes import Changes
from reports.whatif.measures import SECOND_NS, Fate, Measures
from reports.whatif.replay import Replay, Replayed
from reports.whatif.sameness import Comparison

FATES_MAX = 10_000
"""The most differing fates that an answer lists; more are counted."""

_ALWAYS = (
    "every recorded request is asked again at its time, whatever its holder would have done"
    " after another answer",
    "what was granted is held as long as in the record, counted from its grant; what was never"
    " released in the record is held until its lease ends",
    "what is still held, or still waits, when the window ends is left as it is",
)


@dataclass(frozen=True, slots=True)
class Differing:
    """One request that fared otherwise: its recorded id (``R`` + position where it was refused), the
    simulated one, and both fates; ``simulated`` is None where it was not asked at all."""

    recorded_id: str
    simulated_id: str | None
    recorded: Fate
    simulated: Fate | None


@dataclass(slots=True)
class Answer:
    """What would have been. ``exact``: every event came out the same in every column.

    ``same`` events did before the first that differed; ``parted_at`` is the position from which fates
    differ. ``first`` is the recorded and the simulated event where they part, else the first that are
    not written the same.
    """

    begins: int
    ends: int
    since: int
    until: int
    exact: bool
    same: int
    parted_at: int | None
    first: tuple[Event | None, Event | None] | None
    recorded: Measures
    simulated: Measures
    fates: list[Differing]
    assumptions: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The answer, JSON-ready; times in ns UTC are left to the caller to show."""
        first = self.first or (None, None)
        return {
            "first_position": self.begins,
            "last_position": self.ends,
            "since_ns": self.since,
            "until_ns": self.until,
            "exact": self.exact,
            "same_events": self.same,
            "parted_at": self.parted_at,
            "first_difference": None
            if self.first is None
            else {
                "recorded": None if first[0] is None else sentence(first[0]),
                "simulated": None if first[1] is None else sentence(first[1]),
            },
            "recorded": self.recorded.to_json(),
            "simulated": self.simulated.to_json(),
            "differing": len(self.fates),
            "fates": [_fate_json(each) for each in self.fates[:FATES_MAX]],
            "assumptions": self.assumptions,
        }


def ask(
    past: Past,
    changes: Changes,
    since: int | None = None,
    upto: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Answer:
    """Decide the events of positions ``since`` to ``upto`` again, as the changes would have it.

    A commit that the window begins or ends in the middle of counts whole. Raises InvalidInput for an
    empty window, a pool that is not there, or a change that cannot be.
    """
    head = past.log.head().position
    first = _commit_begins(past, max(past.first + 1, since or 0))
    last = head if upto is None else min(upto, head)
    events = [from_row(row) for row in past.log.read(first - 1, last)]
    if events:
        for row in past.log.read(last):
            if row.recorded_at != events[-1].recorded_at:
                break
            events.append(from_row(row))
    if not events:
        raise InvalidInput("nothing was recorded in this window", "choose a longer one")
    start = past.book_at(first - 1)
    window = read_window(events, start)
    _check(changes, start, events)
    replay = Replay(load(dump(start)), window, changes, lambda name: _from_log(past, name))
    done = replay.run(progress)
    compared = replay.compared
    bounds = (events[0].recorded_at, events[-1].recorded_at)
    recorded, simulated = Measures(*bounds), Measures(*bounds)
    recorded.begin(start)
    changed = load(dump(start))
    changes.put_into(changed)
    simulated.begin(changed)
    recorded.take(events)
    simulated.take(done.events)
    fates = _differing(recorded, simulated, done) if compared.parted else []
    return Answer(
        events[0].position,
        events[-1].position,
        *bounds,
        compared.differs is None,
        compared.same,
        compared.parted_at,
        compared.first or compared.differs,
        recorded,
        simulated,
        fates,
        _assumptions(changes, done, compared),
        done.events,
    )


def _commit_begins(past: Past, position: int) -> int:
    """The first position of the commit that a position belongs to."""
    row = past.row(position)
    while row is not None and position > past.first + 1:
        before = past.row(position - 1)
        if before is None or before.recorded_at != row.recorded_at:
            break
        position -= 1
    return position


def _from_log(past: Past, name: str) -> Allocation | None:
    return fold_allocation(from_row(row) for row in past.log.rows_of_allocation(name))


def _check(changes: Changes, start: Book, events: list[Event]) -> None:
    pools = set(start.pools) | {e.pool for e in events if e.type == "pool_opened" and e.pool}
    for name in {changes.pool, *(pool for pool, _ in changes.sizes)} - {None}:
        if name not in pools:
            known = ", ".join(sorted(pools)[:8]) or "none"
            raise InvalidInput(f"there is no pool {name!r} in this window", f"there are: {known}")
    nodes = {(pool.name, node) for pool in start.pools.values() for node in pool.space.nodes}
    for event in events:
        body = event.body
        specs = body.nodes if isinstance(body, PoolOpened) else ()
        specs = (body.node,) if isinstance(body, NodeJoined) else specs
        nodes |= {(event.pool or "", spec.name) for spec in specs}
    for pool, node in changes.sizes:
        if (pool, node) not in nodes:
            raise InvalidInput(
                f"pool {pool} has no node {node!r}", f"see `leasebook pool show {pool}`"
            )


def _differing(recorded: Measures, simulated: Measures, done: Replayed) -> list[Differing]:
    found = []
    for key, before in recorded.fates.items():
        name = done.ids.get(key)
        if name is None and key.startswith("R"):
            # It was refused here too, or is not asked again: no other fate.
            continue
        after = None if name is None else simulated.fates.get(name)
        if after is None or _essence(before) != _essence(after):
            found.append(Differing(key, name, before, after))
    return found


def _essence(fate: Fate) -> tuple[Any, ...]:
    return fate.state, fate.granted_at, fate.ended_at, fate.nodes


def _fate_json(each: Differing) -> dict[str, Any]:
    def one(fate: Fate | None) -> dict[str, Any] | None:
        if fate is None:
            return None
        held = None
        if fate.granted_at is not None and fate.ended_at is not None:
            held = (fate.ended_at - fate.granted_at) / SECOND_NS
        return {
            "state": fate.state,
            "wait_s": None if fate.wait_ns is None else fate.wait_ns / SECOND_NS,
            "held_s": held,
            "nodes": list(fate.nodes),
        }

    return {
        "id": each.recorded_id,
        "simulated_id": each.simulated_id,
        "holder": each.recorded.holder,
        "task": each.recorded.task,
        "pool": each.recorded.pool,
        "recorded": one(each.recorded),
        "simulated": one(each.simulated),
    }


def _assumptions(changes: Changes, done: Replayed, compared: Comparison) -> list[str]:
    said = list(_ALWAYS) if changes else []
    left = done.left
    if changes.policy.get("strategy") is not None and changes.keep_strategies:
        said.append("a request that named a strategy of its own keeps it")
    if changes.nodes < 0:
        said.append("a node that is taken away while it is in use takes nothing new from the start")
    if left.guessed:
        said.append(
            "what was held here and not in the record, or longer, is held for the median time of its"
            f" task, else of its holder, else of its pool (so often: {left.guessed})"
        )
    if left.retries:
        said.append(
            "a request that only asks again for what was given already here counts as the same one"
            f" (so often: {left.retries})"
        )
    if left.repeats:
        said.append(f"repeats of refusals that are none here are left out ({left.repeats})")
    if left.pointless:
        said.append(
            "commands about what is not held here, or has ended already, are left out"
            f" ({left.pointless})"
        )
    if left.unknown and changes:
        said.append(
            "refused commands whose content is not in the record, such as an adjust, stay refused"
            f" ({left.unknown})"
        )
    if left.invalid:
        said.append(f"commands that make no sense here are left out ({left.invalid})")
    return said


__all__ = ["Answer", "Changes", "Differing", "ask"]
