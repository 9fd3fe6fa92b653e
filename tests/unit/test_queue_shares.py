"""Shares converge: whoever always asks for all it can get ends up with as much as the others."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.queue_judge import Judge, share
from tests.model.queue_state import World
from tests.scenario import SECOND, Scenario

LONG = 10**6
CAPACITY = 12


def shares(s: Scenario, tenants: list[str]) -> list[int]:
    """What each tenant holds, by the events alone."""
    world = World()
    for event in s.events:
        world.follow(event)
    return [int(share(world, "box", tenant, None) * CAPACITY) for tenant in tenants]


@settings(max_examples=12)
@given(
    tenants=st.integers(2, 4),
    size=st.integers(1, 3),
    first=st.integers(0, 3),
    data=st.data(),
)
def test_held_shares_of_tenants_that_always_ask_get_within_one_request_of_each_other(
    tenants: int, size: int, first: int, data: st.DataObject
) -> None:
    """Within one rank, and where nobody claims: ageing and claims are worth more than shares."""
    s = Scenario()
    policy = {"ageing_ns": 2**61, "claim_after_ns": 2**61, "overtakes_max": 10_000}
    s.pool(policy=policy, n1={"cpu": CAPACITY // 2}, n2={"cpu": CAPACITY // 2})
    names = [f"t{number}" for number in range(tenants)]
    rich = names[first % tenants]
    old = [s.got({"cpu": size}, tenant=rich, ttl=LONG) for _ in range(2 * (CAPACITY // 2 // size))]
    for _ in range(2):
        for name in names:
            s.waits({"cpu": size}, tenant=name, wait=LONG, ttl=LONG)
    released = 0
    while old:
        # Whoever held everything gives back what it began with, others what they got meanwhile.
        again = data.draw(st.booleans(), label="somebody else")
        active = [a for a in s.book.allocations.values() if a.state == "active"]
        others = [a for a in active if a.id not in old]
        if again and others and released < 12:
            chosen = others[data.draw(st.integers(0, 63), label="which") % len(others)]
        else:
            chosen = s.book.allocations[old.pop()]
        released += 1
        for name in names:
            s.waits({"cpu": size}, tenant=name, wait=LONG, ttl=LONG)
        s.when_released(chosen.id, tenant=chosen.tenant)
    held = shares(s, names)
    assert max(held) - min(held) <= size, held
    for number in range(6):
        active = [a for a in s.book.allocations.values() if a.state == "active"]
        chosen = active[data.draw(st.integers(0, 63), label=f"later {number}") % len(active)]
        for name in names:
            s.waits({"cpu": size}, tenant=name, wait=LONG, ttl=LONG)
        s.when_released(chosen.id, tenant=chosen.tenant)
        held = shares(s, names)
        assert max(held) - min(held) <= size, held


@settings(max_examples=10)
@given(cpu=st.integers(2, 4), memory=st.integers(2, 4), order=st.permutations(range(24)))
def test_dominant_shares_of_tenants_with_different_needs_get_within_one_request_of_each_other(
    cpu: int, memory: int, order: list[int]
) -> None:
    s, world = Scenario(), World()
    s.pool(
        policy={"ageing_ns": 2**61, "claim_after_ns": 2**61, "overtakes_max": 10_000},
        n1={"cpu": 48, "memory": 48},
    )
    held = s.got({"cpu": 48, "memory": 48}, tenant="before", ttl=LONG)
    needs = {"c": {"cpu": cpu, "memory": 1}, "m": {"cpu": 1, "memory": memory}}
    for number in order * 2:
        name = "cm"[number % 2]
        s.waits(needs[name], tenant=name, wait=LONG, ttl=LONG)
    s.when_released(held, tenant="before")
    for event in s.events:
        world.follow(event)
    found = {name: share(world, "box", name, None) * 48 for name in needs}
    assert abs(found["c"] - found["m"]) <= max(cpu, memory), found


def test_no_request_waits_longer_than_its_bound_among_small_ones_that_never_stop() -> None:
    """`claim_after` and the longest lease, with the judge looking on."""
    lease, claim_after = 20, 30
    s, judge = Scenario(), Judge()
    policy = {"claim_after_ns": claim_after * SECOND, "overtakes_max": 10_000}
    s.pool(policy=policy, n1={"cpu": 4}, n2={"cpu": 4})
    for _ in range(8):
        s.got({"cpu": 1}, holder="small", ttl=lease)
    large = s.waits({"cpu": 4}, holder="large", priority="low", wait=LONG)
    asked = s.now
    while s.book.allocations[large].state == "waiting":
        s.ask({"cpu": 1}, holder="small", priority="critical", ttl=lease, wait=lease)
        assert s.now - asked <= (claim_after + lease + 1) * SECOND
    judge.all(s.events)
