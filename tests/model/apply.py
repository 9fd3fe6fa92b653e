"""How the model follows a command that was granted, and what a grant must look like."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

from ledger.commands import (
    Adjust,
    Allocate,
    ClosePool,
    Confirm,
    CordonNode,
    ExtendTime,
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
    Transfer,
    Withdraw,
)
from ledger.events import Adjusted, Allocated, Event, Queued, Reserved
from ledger.requests import Devices, Placement
from tests.model.model import Held, Model, PoolModel
from tests.model.places import IN_CARDS, card_choices, cards_complaint
from tests.model.verdicts import landings, on_allocate


def expect_grant(model: Model, held: Held, event: Event, now: int, anywhere: bool = False) -> None:
    """Assert that a grant is the one that the rules ask for, then let the model hold it.

    ``anywhere``: it is one of several that were packed together, and may be wherever there is room.
    """
    body = event.body
    assert isinstance(body, Allocated | Reserved)
    assert isinstance(body, Reserved) == (held.request.reserve_ns is not None)
    (placement,) = body.placements
    possible = {site.name: site for site in landings(model, held, anywhere)}
    assert placement.node in possible, f"{placement.node} was chosen, not one of {set(possible)}"
    site = possible[placement.node]
    assert placement.amounts == body.amounts == held.request.amounts
    for resource, amount in placement.amounts.items():
        assert placement.in_use[resource] == site.used.get(resource, 0) + amount
        if resource in IN_CARDS:
            complaint = cards_complaint(site, resource, amount, {}, _on(placement, resource))
            assert complaint is None, complaint
    waited = held.asked_at if held.order != event.position else None
    assert body.queued_at == waited
    assert event.at == now
    model.grant(held, event.position, site.name, _cards(placement), now)


def _on(placement: Placement, resource: str) -> dict[str, int]:
    return (placement.devices or {}).get(resource, {})


def _cards(placement: Placement) -> Devices:
    return {resource: dict(on) for resource, on in (placement.devices or {}).items()}


def apply(
    model: Model, command: Any, event: Event | None, now: int, anywhere: bool = False
) -> list[Held]:
    """Let the model follow a command that was granted or waits. Returns all that ended by it."""
    model.now = now
    if isinstance(command, Allocate):
        _ask(model, command, event, now, anywhere)
        return []
    if hasattr(command, "allocation"):
        held = model.get(command.allocation)
        assert held is not None
        assert event is not None
        return _on_one(model, command, held, event, now)
    if isinstance(command, RenewHolder):
        for held in model.live():
            mine = (held.tenant, held.holder) == (command.tenant, command.holder)
            if mine and held.state == "active" and held.lease is not None:
                model.renew(held, now, command.ttl_ns)
        return []
    if isinstance(command, ExtendTime):
        model.extend(command.by_ns, command.since)
        return []
    return _on_pool(model, command, now)


def _ask(model: Model, command: Allocate, event: Event | None, now: int, anywhere: bool) -> None:
    assert event is not None
    assert event.allocation == f"A{event.position}"
    held = Held(
        event.allocation,
        event.position,
        command.tenant,
        command.holder,
        command.pool,
        command.request,
        now,
    )
    if isinstance(event.body, Queued):
        assert command.request.wait_ns is not None
        held.deadline = now + command.request.wait_ns
        assert event.body.until == held.deadline
    else:
        expect_grant(model, held, event, now, anywhere)
    model.all.append(held)


def _on_one(model: Model, command: Any, held: Held, event: Event, now: int) -> list[Held]:
    match command:
        case Confirm():
            model.begin(held, now)
        case Renew():
            model.renew(held, now, command.ttl_ns)
        case Transfer():
            held.holder, held.token = command.to_holder, event.position
            if command.process is not None:
                held.by_process, held.lease, held.ttl = True, None, None
            elif command.ttl_ns is not None:
                held.by_process = False
                # Bound by a ttl for the first time, it is renewed by that one.
                held.ttl = command.ttl_ns if held.ttl is None else held.ttl
                held.max_age = model.oldest(held)
                ends = now + command.ttl_ns
                held.lease = ends if held.max_age is None else min(ends, held.max_age)
        case Adjust():
            _adjust(model, command, held, event)
        case Release():
            cause = {"active": "released", "reserved": "voided"}.get(held.state)
            return model.end(held, now, cause or held.ending_cause or "")
        case Withdraw():
            return model.end(held, now, command.cause)
        case Reclaim():
            return _reclaim(model, command, held, now)
    return []


def _reclaim(model: Model, command: Reclaim, held: Held, now: int) -> list[Held]:
    if held.state == "waiting":
        return model.end(held, now, command.cause)
    if command.process_alive and held.by_process and held.state != "reserved":
        held.state, held.ending_cause = "ending", command.cause
        held.deadline = now + command.grace_ns
        return []
    happened = now if command.happened_at is None else min(command.happened_at, now)
    # The clock may have given a reservation more time than has passed.
    at = max(happened, min(held.began, now))
    return model.end(held, at, held.ending_cause or command.cause)


def _adjust(model: Model, command: Adjust, held: Held, event: Event) -> None:
    body = event.body
    assert isinstance(body, Adjusted)
    wanted = {r: a for r, a in (held.amounts | command.amounts).items() if a}
    assert body.amounts == wanted
    assert body.previous == held.amounts
    (placement,) = body.placements
    assert placement.node == held.node
    assert placement.amounts == wanted
    site = model.site_of(held)
    for resource in IN_CARDS:
        before, after = held.cards.get(resource, {}), _on(placement, resource)
        if resource in wanted:
            complaint = cards_complaint(site, resource, wanted[resource], before, after)
            assert complaint is None, complaint
    held.amounts, held.cards = wanted, _cards(placement)


def _on_pool(model: Model, command: Any, now: int) -> list[Held]:
    match command:
        case OpenPool():
            pool = PoolModel(command.pool, command.kind, list(command.nodes))
            model.pools[command.pool] = pool
        case SetQuota():
            key = (command.tenant, command.holder, command.pool)
            model.quotas.pop(key, None)
            if command.limits:
                model.quotas[key] = command.limits
        case ResizePool():
            model.resize(command.pool, command.nodes)
        case CordonNode():
            cordoned = model.pools[command.pool].cordoned
            (cordoned.add if command.cordoned else cordoned.discard)(command.node)
        case JoinNode():
            model.pools[command.pool].nodes.append(command.node)
        case LeaveNode():
            pool = model.pools[command.pool]
            pool.nodes = [node for node in pool.nodes if node.name != command.node]
            pool.cordoned.discard(command.node)
        case SetPolicy():
            pool = model.pools[command.pool]
            names = {"max_age_ns": "max_age"}
            for name, value in command.policy.items():
                setattr(pool, names.get(name, name), value)
        case ClosePool():
            return model.close(command.pool, now)
        case _:
            raise AssertionError(command)
    return []


def refusals_of_all(model: Model, items: list[Allocate], now: int) -> set[str]:
    """The reasons for which an atomic batch may be refused, whatever cards its items would take."""
    if not items:
        return set()
    first, rest = items[0], items[1:]
    allowed = on_allocate(model, first)
    if "granted" not in allowed:
        return allowed
    held = Held("next", len(model.all), first.tenant, first.holder, first.pool, first.request, now)
    in_cards = [r for r in first.request.amounts if r in IN_CARDS]
    found: set[str] = set()
    for site in landings(model, held):
        ways = [card_choices(site, r, first.request.amounts[r]) for r in in_cards]
        for choice in product(*ways):
            trial, taker = copy.deepcopy(model), copy.deepcopy(held)
            trial.grant(taker, 0, site.name, dict(zip(in_cards, choice, strict=True)), now)
            trial.all.append(taker)
            found |= refusals_of_all(trial, rest, now)
    return found
