"""The book as plain data, over a numbered and explicit list of fields.

Two uses: the digest that ``checkpointed`` events carry, so that a rebuild proves itself or names
where it parts; and snapshots, which are read back into a book. What is derived from these fields
(totals, indexes, reminders) is left out and made again.
"""

from __future__ import annotations

from hashlib import sha256
from operator import attrgetter
from typing import Any

from ledger.accounts import join_line
from ledger.book import LIVE, Allocation, Book, Pool
from ledger.canonical import checked_json, loads
from ledger.codec import (
    decode_placement,
    decode_process,
    decode_request,
    encode_placement,
    encode_process,
    encode_request,
)
from ledger.mix import Mix
from ledger.nodes import Node, cards_of
from ledger.policy import SETTINGS, Policy
from ledger.spaces import Space

FIELDS = 1
"""The number of this list. Another list gets another number; old digests keep theirs."""

_POLICY = tuple(sorted(SETTINGS))
_PLAIN = (
    "id",
    "position",
    "state",
    "tenant",
    "holder",
    "task",
    "pool",
    "requested_at",
    "amounts",
    "token",
    "granted_at",
    "lease_until",
    "max_age_until",
    "deadline",
    "strategy",
    "gang",
    "ending_cause",
    "enforced",
    "claim",
    "command",
)
_values_of = attrgetter(*_PLAIN)


def _allocation(a: Allocation) -> dict[str, Any]:
    plain = dict(zip(_PLAIN, _values_of(a), strict=True))
    plain["request"] = encode_request(a.request)
    plain["placements"] = [encode_placement(p) for p in a.placements]
    if len(a.claims) > 1:
        # Left out where one node or none is kept, as it always was.
        plain["claims"] = a.claims
    if a.asker is not None:
        plain["asker"] = encode_process(a.asker)
    return plain


def _node(node: Node) -> dict[str, Any]:
    plain = {
        "name": node.name,
        "capacity": node.capacity,
        "labels": node.labels,
        "in_use": {r: amount for r, amount in node.in_use.items() if amount},
        "cards_in_use": {r: used for r, used in node.cards_in_use.items() if used},
        "cordoned": node.cordoned,
        "outside": node.outside,
    }
    if node.outside_basis:
        # Left out where there is none, so that books without it have the digests they always had.
        plain["outside_basis"] = node.outside_basis
    return plain


def _mix(mix: Mix) -> dict[str, Any]:
    # Not by its counts: once somebody has asked for them, each request has to keep them up.
    recent = mix.recent
    numbers = {shape: number for number, shape in enumerate(sorted(set(recent)))}
    return {
        "shapes": [_listed(shape) for shape in numbers],
        "recent": [numbers[shape] for shape in recent],
    }


def _pool(pool: Pool) -> dict[str, Any]:
    return {
        "kind": pool.kind,
        "consumable": pool.consumable,
        "closed": pool.closed,
        "opened_at": pool.opened_at,
        "policy": {name: getattr(pool.policy, name) for name in _POLICY},
        "nodes": [_node(node) for node in pool.space.nodes.values()],
        "waiting": list(pool.space.waiting),
        "overtakers": pool.space.overtakers,
        "sticky": [[*key, list(nodes)] for key, nodes in pool.sticky.items()],
        "habits": [[task, *habit] for task, habit in pool.habits.items()],
        "mix": _mix(pool.mix),
        "spent": pool.spent,
        "refilled_at": pool.refilled_at,
    }


def to_plain(book: Book) -> dict[str, Any]:
    """The book over field list 1, JSON-ready. Lists keep the book's order where order steers."""
    return {
        "fields": FIELDS,
        "ledger_id": book.ledger_id,
        "epoch": book.epoch,
        "rules": book.rules,
        "position": book.position,
        "recorded_at": book.recorded_at,
        "checkpoint": book.checkpoint,
        "pools": [[name, _pool(pool)] for name, pool in book.pools.items()],
        "allocations": [_allocation(a) for a in book.allocations.values()],
        "lent": [[key, list(s.waiting), s.overtakers] for key, s in book.lent.items()],
        "quotas": [[*key, limits] for key, limits in book.quotas.items()],
        "cohorts": [[*key, name] for key, name in book.cohorts.items()],
        "tasks": [[*key, at] for key, at in book.tasks.items()],
        "alerts": book.alerts,
        "holders": [[*key, encode_process(p)] for key, p in book.holders.items()],
        "recent_refusals": [
            [_listed(key), list(where)] for key, where in book.recent_refusals.items()
        ],
    }


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value


def book_digest(book: Book) -> str:
    """SHA-256, in hex, of the book's canonical JSON over the field list :data:`FIELDS`."""
    return sha256(dump(book)).hexdigest()


def dump(book: Book) -> bytes:
    """A book as canonical JSON; its SHA-256 is :func:`book_digest`."""
    return checked_json(to_plain(book))


def load(data: bytes) -> Book:
    """The book that :func:`dump` wrote. Raises ValueError or KeyError for anything else."""
    plain = loads(data)
    if plain["fields"] != FIELDS:
        raise ValueError(f"field list {plain['fields']} is not {FIELDS}")
    book = Book()
    for name in ("ledger_id", "epoch", "rules", "position", "recorded_at", "checkpoint", "alerts"):
        setattr(book, name, plain[name])
    for name, data_of_pool in plain["pools"]:
        book.pools[name] = _load_pool(name, data_of_pool)
    for each in plain["allocations"]:
        _load_allocation(book, each)
    for name, data_of_pool in plain["pools"]:
        _load_line(book, book.pools[name].space, data_of_pool["waiting"])
        book.set_refill(book.pools[name])
    for key, waiting, overtakers in plain["lent"]:
        space = _lend(book, key)
        space.overtakers = overtakers
        _load_line(book, space, waiting)
    book.lent = {key: book.lent[key] for key, _, _ in plain["lent"]}
    for tenant, holder, pool, limits in plain["quotas"]:
        book.quotas[tenant, holder, pool] = limits
    for tenant, pool, name in plain["cohorts"]:
        book.cohorts[tenant, pool] = name
    for tenant, task, at in plain["tasks"]:
        book.tasks[tenant, task] = at
    for tenant, holder, process in plain["holders"]:
        book.holders[tenant, holder] = decode_process(process)
    for refusal, (position, at) in plain["recent_refusals"]:
        book.recent_refusals[_tupled(refusal)] = (position, at)
    for space in book.spaces():
        # A book is dumped when all that could be handed on has been.
        space.freed = False
    return book


def _load_pool(name: str, plain: dict[str, Any]) -> Pool:
    nodes = {}
    for n in plain["nodes"]:
        cards = cards_of(n["capacity"])
        nodes[n["name"]] = Node(
            n["name"],
            n["capacity"],
            n["labels"],
            cards,
            n["in_use"],
            n["cards_in_use"],
            n["cordoned"],
            n["outside"],
            n.get("outside_basis", {}),
        )
    space = Space(name, nodes)
    space.overtakers = plain["overtakers"]
    policy = Policy(**plain["policy"])
    pool = Pool(name, plain["kind"], plain["consumable"], policy, space, plain["opened_at"])
    pool.closed = plain["closed"]
    pool.sticky = {(tenant, key): tuple(on) for tenant, key, on in plain["sticky"]}
    pool.habits = {task: (count, total) for task, count, total in plain["habits"]}
    pool.mix = Mix()
    shapes = [_tupled(shape) for shape in plain["mix"]["shapes"]]
    for number in plain["mix"]["recent"]:
        pool.mix.add(shapes[number])
    pool.spent = plain["spent"]
    pool.refilled_at = plain["refilled_at"]
    return pool


def _load_line(book: Book, space: Space, waiting: list[str]) -> None:
    for waiting_id in waiting:
        join_line(book, space, book.allocations[waiting_id])


def _lend(book: Book, parent: str) -> Space:
    space = book.lent.get(parent)
    if space is None:
        a = book.allocations[parent]
        found = book.space_of(a.pool, parent)
        assert found is not None
        space = book.lent[parent] = found
    return space


def _load_allocation(book: Book, plain: dict[str, Any]) -> None:
    plain["request"] = decode_request(plain["request"])
    plain["placements"] = tuple([decode_placement(p) for p in plain["placements"]])
    claim = plain.pop("claim")
    plain["claims"] = tuple(plain.get("claims", () if claim is None else (claim,)))
    if "asker" in plain:
        plain["asker"] = decode_process(plain["asker"])
    a = Allocation(**plain)
    book.allocations[a.id] = a
    book.set_due(a)
    book.by_holder.setdefault((a.tenant, a.holder), {})[a.id] = None
    if a.state not in LIVE:
        return
    if a.request.parent is not None:
        space = _lend(book, a.request.parent)
        for placement in a.placements:
            space.replace(space.nodes[placement.node].plus(placement, 1))
        space.stands(a.id, [p.node for p in a.placements])
        if a.request.most is not None:
            space.elastic[a.id] = None
        return
    pool = book.pools[a.pool]
    pool.space.stands(a.id, [p.node for p in a.placements])
    if a.request.most is not None:
        pool.space.elastic[a.id] = None
    pool.holding.setdefault(a.tenant, set()).add(a.holder)
    for key in ((a.tenant, None), (a.tenant, a.holder)):
        totals = pool.held.setdefault(key, {})
        for resource, amount in a.amounts.items():
            totals[resource] = totals.get(resource, 0) + amount
