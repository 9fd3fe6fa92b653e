"""What the ledger may answer: for every command the set of outcomes that the design allows.

An outcome is ``granted``, ``waiting`` or the reason of a refusal. Where several reasons hold at
once, any of them may be named.
"""

from __future__ import annotations

from ledger.commands import (
    Adjust,
    Allocate,
    ClosePool,
    Confirm,
    CordonNode,
    JoinNode,
    LeaveNode,
    OpenPool,
    Reclaim,
    Release,
    Renew,
    RenewHolder,
    ResizePool,
    SetPolicy,
    SetQuota,
    Targeted,
    Transfer,
    Withdraw,
)
from ledger.requests import PRIORITIES, Amounts
from tests.model.model import Held, Model
from tests.model.places import IN_CARDS, Site, could_fit, fits, grows_on, may_land_on, selected

GRANTED = {"granted"}


def on_allocate(model: Model, command: Allocate) -> set[str]:
    """A request for capacity."""
    request = command.request
    pool = model.pools.get(command.pool)
    if pool is None:
        return {"no_such_pool"}
    if pool.kind == "observed":
        return {"observed_pool"} | ({"no_such_pool"} if pool.closed else set())
    if pool.closed:
        return {"no_such_pool"}
    never: set[str] = set()
    if PRIORITIES.index(request.priority) > PRIORITIES.index(pool.max_priority):
        never.add("priority_not_allowed")
    if request.parent is not None and not _lends(model, command):
        return never | {"no_such_allocation"}
    sites = eligible(model, command)
    who = (command.tenant, command.holder, command.pool)
    bound = request.parent is None
    if not any(could_fit(site, request.amounts) for site in sites):
        never.add("exceeds_pool")
    if bound and model.never_in_quota(*who, request.amounts):
        never.add("quota_exceeded")
    now: set[str] = set()
    if bound and model.over_quota(*who, request.amounts):
        now.add("quota_exceeded")
    if model.in_the_way(command.pool, request.parent, request.amounts):
        now.add("reserved_for_waiting")
    if not any(fits(site, request.amounts) for site in sites if not site.cordoned):
        now.add("insufficient_capacity")
    if request.wait_ns is None or never:
        return never | (now if request.wait_ns is None else set()) or GRANTED
    if not now:
        return GRANTED
    full = len(model.waiting(command.pool, request.parent)) >= pool.queue_limit
    return {"queue_full"} if full else {"waiting"}


def _lends(model: Model, command: Allocate) -> bool:
    parent = model.get(command.request.parent or "")
    return (
        parent is not None
        and parent.state == "active"
        and parent.tenant == command.tenant
        and parent.pool == command.pool
    )


def eligible(model: Model, command: Allocate) -> list[Site]:
    """The sites whose labels suit the request."""
    sites = model.sites(command.pool, command.request.parent)
    return [site for site in sites if selected(site, command.request.select)]


def landings(model: Model, held: Held, anywhere: bool = False) -> list[Site]:
    """The sites on which a request may be granted now, none where it fits nowhere.

    ``anywhere``: whatever its strategy.
    """
    request = held.request
    strategy = request.strategy or model.pools[held.pool].strategy
    sites = [s for s in model.sites(held.pool, request.parent) if selected(s, request.select)]
    if anywhere:
        return [s for s in sites if not s.cordoned and fits(s, request.amounts)]
    return may_land_on(sites, request.amounts, strategy)


def ready(model: Model, held: Held) -> bool:
    """Whether a waiting request's turn has come."""
    pool = model.pools[held.pool]
    if held.state != "waiting" or pool.closed or model.stuck_by_quota(held):
        return False
    if held.parent is not None:
        parent = model.get(held.parent)
        if parent is None or parent.state != "active":
            return False
    if model.in_the_way(held.pool, held.parent, held.request.amounts, held.order):
        return False
    return bool(landings(model, held))


def on_claim(model: Model, command: Targeted) -> set[str]:
    """Why a command may not touch its allocation at all; empty where it may."""
    held = model.get(command.allocation)
    if held is None or held.tenant != command.tenant:
        return {"no_such_allocation"}
    claim = command.claim
    wrong: set[str] = set()
    if not claim.operator:
        # A waiting request has no token yet, so no token can be its own.
        if claim.token is not None and (claim.token != held.token or not held.token):
            wrong = {"stale_token"}
        elif claim.token is None and claim.who != held.holder:
            wrong = {"not_holder"}
    if held.state == "ended":
        return wrong | {"already_ended"}
    return wrong


def on_targeted(model: Model, command: Targeted, now: int) -> set[str]:
    """A command on one allocation."""
    wrong = on_claim(model, command)
    if wrong:
        return wrong
    held = model.get(command.allocation)
    assert held is not None
    match command:
        case Confirm():
            fine = held.state == "reserved"
        case Renew():
            if held.state != "active" or held.by_process:
                return {"invalid"}
            return _on_renewal(held, now, command.ttl_ns)
        case Release():
            fine = held.state != "waiting"
        case Withdraw():
            fine = held.state in ("waiting", "reserved")
        case Reclaim():
            fine = held.state != "ending" or not command.process_alive
        case Transfer():
            return _on_transfer(model, command, held, now)
        case Adjust():
            return _on_adjust(model, command, held)
        case _:
            raise AssertionError(command)
    return GRANTED if fine else {"invalid"}


def _on_renewal(held: Held, now: int, ttl: int | None) -> set[str]:
    """At its maximum age a lease cannot grow; to ask for no more than it has may be let pass."""
    assert held.lease is not None
    if held.max_age is None or held.lease < held.max_age:
        return GRANTED
    asked = held.ttl if ttl is None else ttl
    more = asked is not None and now + asked > held.lease
    return {"max_age_reached"} if more else {"max_age_reached", "granted"}


def _on_transfer(model: Model, command: Transfer, held: Held, now: int) -> set[str]:
    if held.state != "active":
        return {"invalid"}
    if held.by_process and command.process is None and command.ttl_ns is None:
        return {"invalid"}
    if command.process is None and command.ttl_ns is not None:
        oldest = model.oldest(held)
        if oldest is not None and oldest <= now:
            return {"max_age_reached"}
    if held.parent is None and command.to_holder != held.holder:
        for key, limits in model.quotas_on(held.tenant, command.to_holder, held.pool):
            for resource, limit in limits.items():
                more = held.amounts.get(resource, 0)
                if key[1] is not None and more and model.quota_use(key, resource) + more > limit:
                    return {"quota_exceeded"}
    return GRANTED


def _on_adjust(model: Model, command: Adjust, held: Held) -> set[str]:
    if held.state != "active":
        return {"invalid"}
    wanted = {r: a for r, a in (held.amounts | command.amounts).items() if a}
    if not wanted:
        return {"invalid"}
    grown = {r: a for r, a in wanted.items() if a > held.amounts.get(r, 0)}
    reasons: set[str] = set()
    if not still_lends(model, held, wanted):
        reasons.add("insufficient_capacity")
    if not grown:
        return reasons or GRANTED
    if model.pools[held.pool].closed:
        reasons.add("no_such_pool")
    site = model.site_of(held)
    more = {r: a - held.amounts.get(r, 0) for r, a in grown.items()}
    if held.parent is None and model.over_quota(held.tenant, held.holder, held.pool, more):
        reasons.add("quota_exceeded")
    if model.in_the_way(held.pool, held.parent, grown):
        reasons.add("reserved_for_waiting")
    lender = None if held.parent is None else model.get(held.parent)
    if lender is not None and lender.state != "active":
        reasons.add("insufficient_capacity")
    if site.cordoned or not grows_on(site, held.amounts, held.cards, wanted):
        reasons.add("insufficient_capacity")
    if not could_fit(site, grown):
        reasons.add("exceeds_pool")
    return reasons or GRANTED


def still_lends(model: Model, held: Held, wanted: Amounts) -> bool:
    """Whether those that draw on an allocation keep what they have when it becomes ``wanted``."""
    lent = model.lent(held)
    for resource, amount in lent.used.items():
        left = wanted.get(resource, 0)
        if amount > left:
            return False
        if resource in IN_CARDS:
            lying = [card for card, used in lent.cards_used[resource].items() if used]
            if len(lying) > max(1, left // 1000):
                return False
    return True


def on_renew_holder(model: Model, command: RenewHolder, now: int) -> set[str]:
    """A renewal of all that a holder holds."""
    leases = [
        held
        for held in model.live()
        if (held.tenant, held.holder) == (command.tenant, command.holder)
        and held.state == "active"
        and held.lease is not None
    ]
    each = [_on_renewal(held, now, command.ttl_ns) for held in leases]
    if GRANTED in each:
        return GRANTED
    return set().union(*each, {"no_such_allocation"})


def on_pool(model: Model, command: object) -> set[str]:
    """A command on a pool, a quota or a policy."""
    match command:
        case OpenPool():
            there = model.pools.get(command.pool)
            held = any(held.pool == command.pool for held in model.live())
            return GRANTED if there is None or (there.closed and not held) else {"already_exists"}
        case SetQuota():
            known = command.pool is None or command.pool in model.pools
            return GRANTED if known else {"no_such_pool"}
        case ResizePool() | CordonNode() | JoinNode() | LeaveNode() | SetPolicy() | ClosePool():
            pool = model.pools.get(command.pool)
            if pool is None:
                return {"no_such_pool"}
        case _:
            raise AssertionError(command)
    match command:
        case ResizePool():
            fine = all(pool.node(spec.name) for spec in command.nodes)
        case CordonNode():
            fine = pool.node(command.node) is not None
        case JoinNode():
            return {"already_exists"} if pool.node(command.node.name) else GRANTED
        case LeaveNode():
            lying = [h for h in model.live() if h.pool == pool.name and h.node == command.node]
            fine = pool.node(command.node) is not None and not lying
        case ClosePool():
            return {"no_such_pool"} if pool.closed else GRANTED
        case SetPolicy():
            fine = True
    return GRANTED if fine else {"invalid"}
