"""Pools and their nodes: opening, resizing, closing, cordoning; quotas and policies set on them."""

from __future__ import annotations

from ledger.book import Book, Pool
from ledger.commands import (
    ClosePool,
    CordonNode,
    JoinNode,
    LeaveNode,
    ObserveCapacity,
    OpenPool,
    ResizePool,
    SetPolicy,
    SetQuota,
)
from ledger.errors import InvalidInput, Reason
from ledger.events import (
    CapacityObserved,
    Cause,
    NodeCordoned,
    NodeJoined,
    NodeLeft,
    NodeUncordoned,
    PolicySet,
    PoolClosed,
    PoolOpened,
    PoolResized,
    QuotaSet,
    Withdrawn,
)
from ledger.policy import complaint
from ledger.rules.answers import Draft, No


def _missing(book: Book, name: str) -> No:
    known = ", ".join(sorted(book.pools)[:8]) or "none yet"
    return No(Reason.NO_SUCH_POOL, f"there is no pool {name!r}", f"there are: {known}")


def _no_node(pool: Pool, node: str) -> No:
    return No(
        Reason.INVALID,
        f"pool {pool.name} has no node {node!r}",
        f"see `leasebook pool show {pool.name}`",
    )


def open_pool(book: Book, draft: Draft, command: OpenPool, cause: Cause) -> No | None:
    """Open a pool. The name of a closed pool in which nothing is held any more can be used again."""
    there = book.pools.get(command.pool)
    if there is not None and not (there.closed and not there.held):
        return No(
            Reason.ALREADY_EXISTS,
            f"there is a pool {command.pool!r} already",
            f"see `leasebook pool show {command.pool}`",
        )
    wrong = complaint(command.policy)
    if wrong is not None:
        raise InvalidInput(wrong)
    if command.kind not in ("managed", "observed"):
        raise InvalidInput(f"a pool is managed or observed, not {command.kind!r}")
    if command.consumable and len(command.nodes) != 1:
        raise InvalidInput(
            f"a consumable pool has one node, not {len(command.nodes)}",
            "open one pool for each budget",
        )
    if not command.consumable and command.policy.get("refill") is not None:
        raise InvalidInput(
            "only a consumable pool is refilled; of others everything comes back",
            "open it as consumable, or leave refill away",
        )
    if command.kind == "observed" and command.policy.get("refill") is not None:
        raise InvalidInput(
            "an observed pool is not refilled: it only records what happens elsewhere",
            "leave refill away",
        )
    body = PoolOpened(
        command.nodes, command.kind, command.consumable, command.policy, command.basis
    )
    draft.add(body, tenant="", pool=command.pool, cause=cause)
    return None


def resize_pool(book: Book, draft: Draft, command: ResizePool, cause: Cause) -> No | None:
    """Give nodes another capacity, also below what is in use: that is a fact, and it heals."""
    pool = book.pools.get(command.pool)
    if pool is None:
        return _missing(book, command.pool)
    for spec in command.nodes:
        if spec.name not in pool.space.nodes:
            return _no_node(pool, spec.name)
    draft.add(PoolResized(command.nodes), tenant="", pool=pool.name, cause=cause)
    return None


def close_pool(book: Book, draft: Draft, command: ClosePool, cause: Cause) -> No | None:
    """Close a pool; those who wait for it are told."""
    pool = book.pools.get(command.pool)
    if pool is None or pool.closed:
        return _missing(book, command.pool)
    draft.add(PoolClosed(), tenant="", pool=pool.name, cause=cause)
    lent = [s for key, s in book.lent.items() if book.allocations[key].pool == pool.name]
    for space in [pool.space, *lent]:
        for waiting_id in space.waiting:
            body = Withdrawn("withdrawn", "ledger", f"pool {pool.name} was closed")
            draft.on(book.allocations[waiting_id], body)
    return None


def join_node(book: Book, draft: Draft, command: JoinNode, cause: Cause) -> No | None:
    """Add a node."""
    pool = book.pools.get(command.pool)
    if pool is None:
        return _missing(book, command.pool)
    if command.node.name in pool.space.nodes:
        return No(
            Reason.ALREADY_EXISTS, f"pool {pool.name} has a node {command.node.name!r} already"
        )
    if pool.consumable and pool.space.nodes:
        return No(
            Reason.INVALID,
            f"{pool.name} is a budget, which has one node",
            f"enlarge it: `leasebook pool resize {pool.name}`",
        )
    draft.add(NodeJoined(command.node), tenant="", pool=pool.name, cause=cause)
    return None


def leave_node(book: Book, draft: Draft, command: LeaveNode, cause: Cause) -> No | None:
    """Remove a node that nobody uses."""
    pool = book.pools.get(command.pool)
    if pool is None:
        return _missing(book, command.pool)
    node = pool.space.nodes.get(command.node)
    if node is None:
        return _no_node(pool, command.node)
    if any(node.in_use.values()):
        return No(
            Reason.INVALID,
            f"node {node.name!r} is in use",
            f"`leasebook pool cordon {node.name} --pool {pool.name}`, then wait for its holders",
        )
    draft.add(NodeLeft(command.node), tenant="", pool=pool.name, cause=cause)
    return None


def cordon_node(book: Book, draft: Draft, command: CordonNode, cause: Cause) -> No | None:
    """Cordon a node or lift it; what is so already changes nothing."""
    pool = book.pools.get(command.pool)
    if pool is None:
        return _missing(book, command.pool)
    node = pool.space.nodes.get(command.node)
    if node is None:
        return _no_node(pool, command.node)
    if node.cordoned != command.cordoned:
        body: NodeCordoned | NodeUncordoned = (
            NodeCordoned(node.name, command.reason)
            if command.cordoned
            else NodeUncordoned(node.name)
        )
        draft.add(body, tenant="", pool=pool.name, cause=cause)
    return None


def set_quota(book: Book, draft: Draft, command: SetQuota, cause: Cause) -> No | None:
    """Set or lift a quota. One below what is held takes nothing away; it lets nothing more through."""
    if command.pool is not None and command.pool not in book.pools:
        return _missing(book, command.pool)
    draft.add(
        QuotaSet(command.limits, {} if command.cohort is None else {"cohort": command.cohort}),
        tenant=command.tenant,
        pool=command.pool,
        holder=command.holder,
        cause=cause,
    )
    return None


def observe_capacity(book: Book, draft: Draft, command: ObserveCapacity, cause: Cause) -> No | None:
    """Record what others use of a node without asking; what is so already changes nothing."""
    pool = book.pools.get(command.pool)
    if pool is None:
        return _missing(book, command.pool)
    node = pool.space.nodes.get(command.node)
    if node is None:
        return _no_node(pool, command.node)
    outside = {r: amount for r, amount in command.outside.items() if amount}
    basis = {r: text for r, text in command.basis.items() if r in outside}
    if (outside, basis) != (node.outside, node.outside_basis):
        body = CapacityObserved(command.node, outside, basis)
        draft.add(body, tenant="", pool=pool.name, cause=cause)
    return None


def set_policy(book: Book, draft: Draft, command: SetPolicy, cause: Cause) -> No | None:
    """Change settings of a pool's policy."""
    pool = book.pools.get(command.pool)
    if pool is None:
        return _missing(book, command.pool)
    wrong = complaint(command.policy, pool.policy)
    if wrong is not None:
        raise InvalidInput(wrong)
    if command.policy.get("refill") is not None and not (
        pool.consumable and pool.kind == "managed"
    ):
        raise InvalidInput(
            "only a consumable pool is refilled; of others everything comes back",
            "leave refill away",
        )
    draft.add(PolicySet(command.policy), tenant="", pool=pool.name, cause=cause)
    return None
