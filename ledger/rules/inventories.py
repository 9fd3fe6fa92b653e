"""Inventories: which nodes an observed pool had from a time on, imported in any order.

An inventory is recorded once, by the time it speaks of. Its events stand at that time, and what it
changes is said again at the times of the later ones that are known, so that those hold as they did: the
book ends with the newest, and who goes by ``at`` and then by position has every moment right. A complete
inventory names all nodes there were; of what a partial one does not name it says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ledger.book import Pool
from ledger.commands import RecordFacts
from ledger.events import Cause, Event, NodeJoined, NodeLeft, PoolResized
from ledger.requests import NodeSpec
from ledger.rules.answers import Draft

Changes = dict[str, NodeSpec | None]
"""Node → what it has from a time on; None: it has left."""


def inventory_keys(pool: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """What the inventories of a pool are recorded under: complete ones, and partial ones."""
    return ("", f"nodes:{pool}"), ("", f"nodes:{pool}:part")


class Course:
    """What inventories say of a pool's nodes over time (ns UTC).

    ``times`` are those of the inventories, and whether each was complete.
    """

    def __init__(self, told: Iterable[Event] = ()) -> None:
        """Take in the events of inventories, in the order of their positions."""
        self.times: dict[int, bool] = {}
        self.nodes: dict[str, list[tuple[int, NodeSpec | None]]] = {}
        for event in told:
            assert event.cause is not None
            self.times[event.at] = not event.cause.command_id.endswith(":part")
            body = event.body
            if isinstance(body, PoolResized):
                for spec in body.nodes:
                    self._tell(event.at, spec.name, spec)
            elif isinstance(body, NodeJoined):
                self._tell(event.at, body.node.name, body.node)
            elif isinstance(body, NodeLeft):
                self._tell(event.at, body.node, None)

    def _tell(self, at: int, name: str, spec: NodeSpec | None) -> None:
        """Who speaks last is right from its time on."""
        before = [each for each in self.nodes.get(name, ()) if each[0] < at]
        last = before[-1][1] if before else None
        self.nodes[name] = [*before, (at, spec if spec is None else _joined(last, spec))]

    def of(self, name: str, at: int) -> NodeSpec | None:
        """What a node had at a time; None where it was not there, or nothing is told of it yet."""
        found = None
        for since, spec in self.nodes.get(name, ()):
            if since > at:
                break
            found = spec
        return found

    def says(self, name: str, at: int) -> bool:
        """Whether something is told of a node at just this time."""
        return any(since == at for since, _ in self.nodes.get(name, ()))


def _joined(before: NodeSpec | None, spec: NodeSpec) -> NodeSpec:
    if before is None:
        return spec
    labels = before.labels if spec.labels is None else spec.labels
    return NodeSpec(spec.name, {**before.capacity, **spec.capacity}, labels)


def _has(spec: NodeSpec | None) -> Mapping[str, int] | None:
    return None if spec is None else spec.capacity


def record_nodes(draft: Draft, pool: Pool, command: RecordFacts, told: Sequence[Event]) -> None:
    """Draft what an inventory adds to those of the pool that were ``told`` before."""
    course = Course(told)
    dated = command.nodes_at is not None
    at = command.nodes_at if command.nodes_at is not None else draft.now
    if dated and at in course.times:
        return
    changes = _changes(pool, command, course, at)
    if not changes and not dated:
        return
    # That there was one is worth a word even where it changes nothing: others may come before it.
    first = command.nodes[0]
    changes = changes or {first.name: _joined(course.of(first.name, at), first)}
    plan: dict[int, Changes] = {at: changes}
    for name, spec in changes.items():
        _restate(plan, course, name, spec, at)
    _write(draft, pool, plan, {**course.times, at: command.nodes_complete})


def _changes(pool: Pool, command: RecordFacts, course: Course, at: int) -> Changes:
    """What is otherwise from the inventory's time on than it was known to be."""
    changes: Changes = {}
    there = pool.space.nodes
    newest = at > max(course.times, default=at - 1)
    for spec in command.nodes:
        known = course.of(spec.name, at)
        capacity = _has(known)
        if command.nodes_at is None:
            capacity = there[spec.name].capacity if spec.name in there else None
        partial = command.nodes_at is not None and not command.nodes_complete
        if partial or capacity != spec.capacity:
            changes[spec.name] = _joined(known, spec)
    if command.nodes_complete:
        named = {spec.name for spec in command.nodes}
        for name in [*course.nodes, *there]:
            gone = course.of(name, at) is not None or (newest and name in there)
            if name not in named and gone:
                changes[name] = None
    return changes


def _restate(
    plan: dict[int, Changes], course: Course, name: str, spec: NodeSpec | None, at: int
) -> None:
    """Let later inventories say again what they said of a node that is otherwise from ``at`` on."""
    now = spec
    for time in sorted(course.times):
        if time <= at:
            continue
        if not course.says(name, time) and not course.times[time]:
            continue
        then = course.of(name, time)
        if course.says(name, time) or _has(then) != _has(now):
            plan.setdefault(time, {})[name] = then
            now = then


def _write(
    draft: Draft, pool: Pool, plan: dict[int, Changes], complete: Mapping[int, bool]
) -> None:
    there = set(pool.space.nodes)
    whole, part = inventory_keys(pool.name)
    for at in sorted(plan):
        bodies: list[Any] = []
        resized: list[NodeSpec] = []
        left: list[NodeLeft] = []
        for name, spec in plan[at].items():
            if spec is None:
                if name not in there:
                    # It has left since: who goes by times has to hear that it had done so before.
                    bodies.append(NodeJoined(NodeSpec(name, {})))
                there.discard(name)
                left.append(NodeLeft(name))
            elif name in there:
                resized.append(spec)
            else:
                there.add(name)
                bodies.append(NodeJoined(spec))
        if resized:
            bodies.append(PoolResized(tuple(resized)))
        cause = Cause((whole if complete[at] else part)[1], "")
        for body in [*bodies, *left]:
            draft.add(body, tenant="", pool=pool.name, cause=cause, at=at)
