"""The one mapping between JSON and the ledger's values, which every door uses.

So a thing is spelled the same on the command line, in Python and over a wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leasebook.policies import policy_out
from leasebook.settings import DEFAULT_TTL_NS
from leasebook.when import rfc3339
from ledger.amounts import (
    check_name,
    format_amounts,
    format_duration_s,
    parse_amounts,
    parse_demands,
    parse_duration_ns,
)
from ledger.book import Allocation, Book, Pool
from ledger.codec import encode_body
from ledger.commands import Allocate
from ledger.errors import InvalidInput
from ledger.events import Event, Refused
from ledger.identity import ProcessIdentity
from ledger.log import Row
from ledger.nodes import Node
from ledger.receipts import Receipt
from ledger.requests import DEFAULT_PRIORITY, NodeSpec, Placement, Request
from ledger.rules.capacity import free
from ledger.rules.prospects import Prospect

Json = dict[str, Any]


# --- in ------------------------------------------------------------------------------------------


def duration_in(value: Any, *, zero_is_none: bool = False) -> int | None:
    """A duration as nanoseconds; None stays None. ``zero_is_none``: a wait of 0 is no wait. Elsewhere 0
    is bad input: a limit of nothing must not come to no limit.
    """
    if value is None or (zero_is_none and value == 0):
        return None
    return parse_duration_ns(value)


def request_in(
    amounts: Mapping[str, Any],
    *,
    ttl: Any = None,
    process: ProcessIdentity | None = None,
    max_age: Any = None,
    wait: Any = None,
    priority: str = DEFAULT_PRIORITY,
    strategy: str | None = None,
    select: Mapping[str, str] | None = None,
    spread: int | None = None,
    sticky: str | None = None,
    reserve: Any = None,
    parent: str | None = None,
) -> Request:
    """A request from a caller's words. Raises InvalidInput for what cannot be read.

    Bound by ``process`` where one is given, else by ``ttl`` (15 minutes unless it says otherwise).
    """
    if process is not None and ttl is not None:
        raise InvalidInput("a request takes a ttl or a pid, not both", "give one of them")
    demands = parse_demands(amounts)
    least = {resource: low for resource, (low, _) in demands.items()}
    most = {resource: high for resource, (_, high) in demands.items()}
    ttl_ns = None
    if process is None:
        ttl_ns = DEFAULT_TTL_NS if ttl is None else parse_duration_ns(ttl)
    return Request(
        least,
        most if most != least else None,
        dict(select) if select else None,
        priority,
        strategy,
        ttl_ns,
        process,
        duration_in(max_age),
        duration_in(wait, zero_is_none=True),
        spread,
        sticky,
        duration_in(reserve),
        parent,
    )


def allocate_in(
    request: Request,
    *,
    command_id: str,
    pool: str,
    holder: str,
    task: str | None = None,
    tenant: str = "default",
    metadata: Mapping[str, Any] | None = None,
    asker: ProcessIdentity | None = None,
) -> Allocate:
    """An Allocate command whose names were checked. Raises InvalidInput."""
    for kind, name in (("pool", pool), ("holder", holder), ("task", task), ("tenant", tenant)):
        if name is not None:
            check_name(kind, name)
    return Allocate(
        command_id=command_id,
        tenant=tenant,
        pool=pool,
        holder=holder,
        task=task,
        request=request,
        metadata=dict(metadata) if metadata else None,
        asker=asker,
    )


def node_in(name: str, capacity: Mapping[str, Any], labels: Mapping[str, str] | None) -> NodeSpec:
    """A node's announcement from a caller's words. A capacity of 0 may be said."""
    check_name("node", name)
    return NodeSpec(
        name, parse_amounts(capacity, allow_zero=True), dict(labels) if labels else None
    )


# --- out -----------------------------------------------------------------------------------------


def placement_out(placement: Placement) -> Json:
    """One share of an allocation."""
    out: Json = {"node": placement.node, "amounts": format_amounts(placement.amounts)}
    if placement.devices:
        out["devices"] = placement.devices
    return out


def allocation_out(
    a: Allocation, *, metadata: Mapping[str, Any] | None = None, replayed: bool = False
) -> Json:
    """An allocation as the contract shows it."""
    return {
        "id": a.id,
        "fencing_token": a.token or None,
        "state": a.state,
        "pool": a.pool,
        "tenant": a.tenant,
        "holder": a.holder,
        "task": a.task,
        "priority": a.request.priority,
        "strategy": a.strategy or a.request.strategy,
        "amounts": format_amounts(a.amounts),
        "base_units": dict(a.amounts),
        "placements": [placement_out(p) for p in a.placements],
        "requested_at": rfc3339(a.requested_at),
        "granted_at": rfc3339(a.granted_at),
        "expires_at": rfc3339(a.lease_until if a.state != "waiting" else a.deadline),
        "ended_at": rfc3339(a.ended_at),
        "ended_by": a.ended_by,
        "enforced": a.enforced,
        "replayed": replayed,
        "parent": a.request.parent,
        "metadata": dict(metadata or {}),
        "process": None if a.request.process is None else process_out(a.request.process),
    }


def process_out(process: ProcessIdentity) -> Json:
    """A process identity."""
    return {
        "host": process.host,
        "pid": process.pid,
        "start_time": process.start_time,
        "boot_id": process.boot_id,
        "pid_namespace": process.pid_namespace,
    }


def blocker_out(blocker: Mapping[str, Any]) -> Json:
    """An allocation in the way."""
    out = dict(blocker)
    out["amounts"] = format_amounts(blocker["amounts"])
    for name in ("since", "expires_at"):
        if name in out:
            out[name] = rfc3339(out[name])
    return out


def refusal_out(body: Refused) -> Json:
    """The facts of a refusal."""
    return {
        "shortfall": {node: format_amounts(short) for node, short in body.shortfall.items()},
        "fits_now": format_amounts(body.fits_now),
        "blockers": [blocker_out(b) for b in body.blockers],
    }


def prospect_out(prospect: Prospect | None) -> Json:
    """What can be told of a request that waits."""
    if prospect is None:
        return {"ahead": 0, "eta_s": None, "eta_basis": None, "shortfall": {}, "blockers": []}
    return {
        "ahead": prospect.ahead,
        "eta_s": None if prospect.eta_ns is None else format_duration_s(prospect.eta_ns),
        "eta_basis": prospect.basis,
        "shortfall": {node: format_amounts(s) for node, s in prospect.shortfall.items()},
        "blockers": [blocker_out(b) for b in prospect.blockers],
    }


def result_out(receipt: Receipt) -> Json:
    """A receipt as the contract shows a result."""
    if receipt.results:
        return {
            "outcome": receipt.outcome,
            "positions": list(receipt.positions),
            "replayed": receipt.replayed,
            "results": [result_out(result) for result in receipt.results],
        }
    out: Json = {"outcome": receipt.outcome, "positions": list(receipt.positions)}
    if receipt.outcome == "refused":
        out |= {
            "id": receipt.refusal_id,
            "reason": receipt.reason,
            "message": receipt.message,
            "hint": receipt.hint,
        }
        if receipt.refusal is not None:
            out |= refusal_out(receipt.refusal)
    metadata = None if receipt.event is None else receipt.event.metadata
    if receipt.allocation is not None:
        out["allocation"] = allocation_out(
            receipt.allocation, metadata=metadata, replayed=receipt.replayed
        )
    if receipt.outcome == "waiting":
        out |= prospect_out(receipt.prospect)
    out["replayed"] = receipt.replayed
    return out


def event_out(event: Event) -> Json:
    """One event of the log."""
    return {
        "position": event.position,
        "at": rfc3339(event.at),
        "recorded_at": rfc3339(event.recorded_at),
        "type": event.type,
        "tenant": event.tenant,
        "pool": event.pool,
        "allocation": event.allocation,
        "holder": event.holder,
        "task": event.task,
        "command_id": None if event.cause is None else event.cause.command_id,
        "data": encode_body(event.body),
        "metadata": event.metadata,
    }


def row_out(row: Row) -> Json:
    """One event of the log as it is stored, where this program does not know its type."""
    from ledger.canonical import loads

    return {
        "position": row.position,
        "at": rfc3339(row.at),
        "recorded_at": rfc3339(row.recorded_at),
        "type": row.type,
        "tenant": row.tenant,
        "pool": row.pool,
        "allocation": row.allocation,
        "holder": row.holder,
        "task": row.task,
        "command_id": row.command_id,
        "data": loads(row.data),
        "metadata": None if row.metadata is None else loads(row.metadata),
    }


def node_out(node: Node) -> Json:
    """A node: what it has, what is in use, what is free."""
    in_use = {r: node.in_use.get(r, 0) for r in node.capacity}
    out: Json = {
        "name": node.name,
        "capacity": format_amounts(node.capacity),
        "in_use": format_amounts(in_use),
        "free": format_amounts({r: free(node, r) for r in node.capacity}),
        "labels": node.labels,
        "cordoned": node.cordoned,
        "base_units": {"capacity": dict(node.capacity), "in_use": in_use},
    }
    if node.outside:
        out["used_outside"] = format_amounts(node.outside)
        out["used_outside_by"] = dict(node.outside_basis)
    over = {r: in_use[r] - c for r, c in node.capacity.items() if in_use[r] > c}
    if over:
        out["over_committed"] = format_amounts(over)
    if node.cards:
        out["devices_in_use"] = {r: used for r, used in node.cards_in_use.items() if used}
    return out


def pool_out(book: Book, pool: Pool, *, nodes: bool = True) -> Json:
    """A pool: totals, queue, and its nodes."""
    capacity: dict[str, int] = {}
    in_use: dict[str, int] = {}
    left: dict[str, int] = {}
    for node in pool.space.nodes.values():
        for resource, amount in node.capacity.items():
            capacity[resource] = capacity.get(resource, 0) + amount
            in_use[resource] = in_use.get(resource, 0) + node.in_use.get(resource, 0)
            left[resource] = left.get(resource, 0) + free(node, resource)
    out: Json = {
        "name": pool.name,
        "kind": pool.kind,
        "consumable": pool.consumable,
        "closed": pool.closed,
        "capacity": format_amounts(capacity),
        "in_use": format_amounts(in_use),
        "free": format_amounts(left),
        "base_units": {"capacity": capacity, "in_use": in_use},
        "waiting": len(pool.space.waiting),
        "refilled_at": rfc3339(pool.refilled_at) if pool.consumable else None,
        "next_refill_at": rfc3339(pool.next_refill),
        "policy": policy_out(pool.policy),
        "nodes_count": len(pool.space.nodes),
    }
    if nodes:
        out["nodes"] = [node_out(node) for node in pool.space.nodes.values()]
    return out
