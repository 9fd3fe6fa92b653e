"""Budgets: consumable pools, which are spent and refilled on a schedule.

What an allocation reserved is settled at its release with what was really consumed; what nobody
settled counts as consumed wholly. Over-consumption is an overdraft: it is recorded, lets nothing more
through, and is charged to the periods that follow.
"""

from __future__ import annotations

from ledger.book import Allocation, Book, Pool
from ledger.errors import Reason
from ledger.events import Replenished
from ledger.requests import Amounts
from ledger.rules.answers import Draft, No


def refill(draft: Draft, pool: Pool, until: int) -> int:
    """Draft the refill of every period that was over by ``until``, as one event at the last boundary.

    Returns the boundary after that.
    ``reset``: a period's budget is its capacity; what was spent beyond it is carried on. ``add``: each
    period gives ``refill_amounts`` back.
    """
    policy = pool.policy
    assert policy.refill_every_ns is not None
    periods = (until - pool.refilled_at) // policy.refill_every_ns
    at = pool.refilled_at + periods * policy.refill_every_ns
    available: Amounts = {}
    overdraft: Amounts = {}
    for name, node in pool.space.nodes.items():
        spent = pool.spent.get(name, {})
        for resource, capacity in node.capacity.items():
            gone = spent.get(resource, 0)
            each = capacity
            if policy.refill == "add":
                each = (policy.refill_amounts or {}).get(resource, 0)
            stays = max(0, gone - periods * each)
            reserved = node.in_use.get(resource, 0) - gone
            available[resource] = capacity - reserved - stays
            if policy.refill == "reset" and stays:
                overdraft[resource] = stays
    draft.add(Replenished(available, overdraft), tenant="", pool=pool.name, at=at)
    return at + policy.refill_every_ns


def spent_for_good(pool: Pool, node: str) -> Amounts:
    """What was spent of a node and no refill brings back: resource → amount."""
    policy = pool.policy
    comes: Amounts = {}
    if policy.refill == "reset":
        comes = pool.space.totals
    elif policy.refill == "add":
        comes = policy.refill_amounts or {}
    spent = pool.spent.get(node, {})
    return {resource: amount for resource, amount in spent.items() if resource not in comes}


def settlement(book: Book, allocation: Allocation, consumed: Amounts | None) -> No | None:
    """Why a release cannot be settled with ``consumed``, or None."""
    if consumed is None:
        return None
    pool = book.pools[allocation.pool]
    if not pool.consumable:
        return No(
            Reason.INVALID,
            f"nothing of pool {pool.name} is consumed: what is held comes back whole",
            "release it without --consumed",
        )
    unknown = sorted(consumed.keys() - allocation.amounts.keys())
    if unknown:
        return No(
            Reason.INVALID,
            f"{allocation.id} holds no {', '.join(unknown)} that could be consumed",
            f"it holds {', '.join(sorted(allocation.amounts))}",
        )
    return None
