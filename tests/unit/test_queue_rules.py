"""The fair queue: order, ageing, overtaking and claims, gangs, spread, sticky keys, duplicates."""

from __future__ import annotations

import pytest

from ledger.commands import AllocateBatch, CordonNode, SetPolicy, Withdraw
from ledger.errors import InvalidInput
from ledger.events import AlertRaised, Allocated, Queued, Refused
from ledger.fields import dump, load
from ledger.line import rank
from ledger.requests import NodeSpec
from tests.scenario import GIB, PROCESS, SECOND, Scenario, kinds

MINUTE = 60


def pool_of(**policy: object) -> Scenario:
    """A pool ``box`` of one node with 8 cores, under the fair order."""
    scenario = Scenario()
    scenario.pool(policy={"order": "fair", **policy}, n1={"cpu": 8000, "memory": 64 * GIB})
    return scenario


def granted(scenario: Scenario) -> list[str]:
    """The allocations granted so far, in order."""
    return [e.allocation for e in scenario.events if e.type == "allocated" and e.allocation]


# --- order -------------------------------------------------------------------------------------------


def test_high_priority_requests_come_first() -> None:
    s = pool_of()
    held = s.got({"cpu": 8000})
    low = s.waits({"cpu": 8000}, priority="low", holder="a")
    high = s.waits({"cpu": 8000}, priority="high", holder="b")
    s.release(held)
    assert granted(s)[-1] == high
    s.release(high, who="b")
    assert granted(s)[-1] == low


def test_a_request_that_waited_one_window_longer_is_worth_one_priority() -> None:
    window = 5 * MINUTE * SECOND
    assert rank(0, "normal", window) == rank(window, "high", window)
    assert rank(0, "normal", window) < rank(2 * window, "high", window)
    assert rank(0, "critical", window) < rank(0, "high", window) < rank(0, "low", window)


def test_ageing_lets_an_old_low_request_pass_a_fresh_high_one() -> None:
    s = pool_of(ageing_ns=MINUTE * SECOND, claim_after_ns=2**61)
    held = s.got({"cpu": 8000}, ttl=10**6)
    old = s.waits({"cpu": 8000}, priority="low", holder="a", wait=10**5)
    s.later(4 * MINUTE)
    young = s.waits({"cpu": 8000}, priority="high", holder="b", wait=10**5)
    s.release(held)
    assert granted(s)[-1] == old
    assert young in s.book.allocations


def test_within_a_rank_the_tenant_with_the_smallest_dominant_share_comes_first() -> None:
    s = pool_of()
    rich = s.got({"cpu": 6000}, tenant="rich")
    poor = s.got({"cpu": 2000}, tenant="poor")
    first = s.waits({"cpu": 2000}, tenant="rich")
    second = s.waits({"cpu": 2000}, tenant="poor", holder="h2")
    s.when_released(poor, tenant="poor")
    assert granted(s)[-1] == second
    assert first in s.book.pools["box"].space.waiting
    assert rich in s.book.allocations


def test_within_a_tenant_the_holder_with_the_smallest_share_comes_first() -> None:
    s = pool_of()
    s.got({"cpu": 4000}, holder="greedy")
    held = s.got({"cpu": 4000}, holder="other")
    again = s.waits({"cpu": 4000}, holder="greedy")
    modest = s.waits({"cpu": 4000}, holder="modest")
    s.release(held, who="other")
    assert granted(s)[-1] == modest
    assert again in s.book.pools["box"].space.waiting


def test_shares_converge_when_all_ask_for_all_they_can_get() -> None:
    s = Scenario()
    s.pool(policy={"order": "fair"}, n1={"cpu": 12_000})
    holding: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    held = s.got({"cpu": 12_000}, holder="first")
    for tenant, count in (("a", 40), ("b", 25), ("c", 12)):
        for _ in range(count):
            s.waits({"cpu": 1000}, tenant=tenant, wait=10**6, ttl=10**6)
    s.release(held, who="first")
    for _ in range(20):
        held_by = {t: s.book.pools["box"].held.get((t, None), {}).get("cpu", 0) for t in holding}
        assert set(held_by.values()) == {4000}, held_by
        mine = next(a for a in s.book.allocations.values() if a.state == "active")
        s.when_released(mine.id, tenant=mine.tenant)
        if not any(
            s.book.allocations[w].tenant == mine.tenant for w in s.book.pools["box"].space.waiting
        ):
            break


# --- overtaking and claims ---------------------------------------------------------------------------


def test_a_small_request_passes_a_large_one_that_does_not_fit() -> None:
    s = pool_of()
    s.got({"cpu": 4000})
    s.waits({"cpu": 8000}, holder="large")
    assert s.got({"cpu": 4000}, holder="small")


def test_high_priority_large_requests_are_not_starved_by_small_ones() -> None:
    s = pool_of(overtakes_max=3, claim_after_ns=2**61)
    first = s.got({"cpu": 4000}, holder="s0")
    large = s.waits({"cpu": 8000}, holder="large", priority="high", wait=10**6)
    passed = [s.got({"cpu": 1000}, holder="small") for _ in range(3)]
    claims = [e for e in s.events if isinstance(e.body, Queued)][1:]
    assert [(e.allocation, e.body.shortfall) for e in claims] == [(large, {"n1": {"cpu": 7000}})]
    refusal = s.refused({"cpu": 1000}, holder="small")
    assert refusal.reason == "reserved_for_waiting"
    for allocation in passed:
        s.release(allocation, who="small")
        assert granted(s)[-1] != large
    s.release(first, who="s0")
    assert granted(s)[-1] == large


def test_a_request_that_has_waited_long_claims_a_node_before_a_newcomer_is_looked_at() -> None:
    s = pool_of(claim_after_ns=10 * SECOND, overtakes_max=10_000)
    s.got({"cpu": 4000}, ttl=10**6)
    large = s.waits({"cpu": 8000}, holder="large", wait=10**6)
    assert s.got({"cpu": 1000}, holder="small", ttl=10**6)
    s.later(30)
    assert s.refused({"cpu": 1000}, holder="small").reason == "reserved_for_waiting"
    assert s.book.allocations[large].claim == "n1"
    assert s.got({"memory": GIB}, holder="small")


def test_a_claim_keeps_one_node_only_and_moves_when_that_is_cordoned() -> None:
    s = Scenario()
    s.pool(policy={"order": "fair", "overtakes_max": 0}, n1={"cpu": 4000}, n2={"cpu": 4000})
    s.got({"cpu": 1000}, ttl=10**6)
    s.got({"cpu": 3000}, ttl=10**6, strategy="best_fit")
    s.got({"cpu": 2000}, ttl=10**6)
    large = s.waits({"cpu": 4000}, holder="large", wait=10**6)
    assert s.refused({"cpu": 500}, holder="x").reason == "reserved_for_waiting"
    claimed = s.book.allocations[large].claim
    assert claimed == "n2"
    s.when(CordonNode(command_id="c", pool="box", node="n2"))
    s.ask({"cpu": 4000}, holder="y")
    assert s.book.allocations[large].claim == "n1"
    assert s.book.pools["box"].space.claims == {"n1": large}


def test_a_wait_is_bounded_by_what_is_held_on_the_claimed_node() -> None:
    s = pool_of(overtakes_max=2)
    s.got({"cpu": 8000}, holder="s", ttl=50)
    large = s.waits({"cpu": 8000}, holder="large", wait=10**6)
    asked = s.now
    for _ in range(200):
        s.ask({"cpu": 1000}, holder="s", ttl=50)
        if s.fold(large).state == "active":  # type: ignore[union-attr]
            break
    assert s.fold(large).state == "active"  # type: ignore[union-attr]
    # Two may pass while it waits; then it waits for their leases and no longer.
    assert s.now - asked <= (50 + 2 + 50 + 5) * SECOND


@pytest.mark.parametrize("behind", [False, True])
def test_a_claim_of_ones_own_lets_nobody_pass_an_older_one_that_is_due_one(behind: bool) -> None:
    s = Scenario()
    s.pool(
        policy={
            "order": "fair",
            "overtakes_max": 0,
            "claim_after_ns": 2**61,
            "backfill_depth": 1 if behind else 100,
        },
        n1=NodeSpec("n1", {"cpu": 4}, {"zone": "a"}),
        n2=NodeSpec("n2", {"cpu": 4}, {"zone": "b"}),
    )
    s.got({"cpu": 2}, select={"zone": "a"}, ttl=5_000)
    x = s.got({"cpu": 1}, select={"zone": "b"}, holder="x", ttl=5_000)
    s.got({"cpu": 3}, select={"zone": "b"}, ttl=5_000)
    gone = s.waits({"cpu": 4}, select={"zone": "a"}, holder="g", wait=9_000)
    old = s.waits({"cpu": 2}, select={"zone": "a"}, holder="old", wait=9_000)
    young = s.waits({"cpu": 2}, priority="high", holder="young", wait=9_000, ttl=3_000)
    if behind:
        # Only this one is looked at in its turn, and whoever has a claim after it.
        s.waits({"cpu": 4}, select={"zone": "b"}, priority="critical", holder="c", wait=9_000)
    s.release(x, "x")
    assert s.book.pools["box"].space.claims == {"n1": gone, "n2": young}
    s.on(Withdraw, gone, "g")
    assert s.book.allocations[old].state == "active"
    assert s.book.allocations[old].placements[0].node == "n1"
    assert s.book.allocations[young].state == "waiting"


def test_quota_blocked_requests_claim_nothing_and_block_nobody() -> None:
    s = pool_of(overtakes_max=0)
    s.quota({"cpu": 2000}, holder="a")
    s.got({"cpu": 2000}, holder="a")
    s.waits({"cpu": 2000}, holder="a", wait=10**6)
    for _ in range(5):
        s.release(s.got({"cpu": 6000}, holder="b"), who="b")
    assert s.book.pools["box"].space.claims == {}


def test_changing_the_order_lines_everybody_up_anew() -> None:
    s = pool_of()
    held = s.got({"cpu": 8000})
    first = s.waits({"cpu": 8000}, priority="low")
    s.waits({"cpu": 8000}, priority="critical")
    s.when(SetPolicy(command_id="p", pool="box", policy={"order": "fifo"}))
    s.release(held)
    assert granted(s)[-1] == first


def test_changing_one_pools_order_leaves_other_pools_alone() -> None:
    s = pool_of()
    s.pool("other", m1={"cpu": 1000})
    s.got({"cpu": 1000}, pool="other")
    waiting = s.waits({"cpu": 1000}, pool="other")
    s.when(SetPolicy(command_id="p", pool="box", policy={"ageing_ns": 1000}))
    assert list(s.book.pools["other"].space.waiting) == [waiting]


def test_a_book_with_a_queue_survives_being_written_out_and_read_back() -> None:
    s = pool_of(overtakes_max=1)
    s.got({"cpu": 4000}, sticky="k")
    s.waits({"cpu": 8000}, wait=10**6)
    s.got({"cpu": 1000})
    again = load(dump(s.book))
    assert dump(again) == dump(s.book)
    space, other = s.book.pools["box"].space, again.pools["box"].space
    assert other.overtakers == space.overtakers != []
    assert other.claims == space.claims
    assert again.pools["box"].sticky == s.book.pools["box"].sticky
    assert again.pools["box"].mix.counts == s.book.pools["box"].mix.counts


# --- gangs -------------------------------------------------------------------------------------------


def gang(s: Scenario, *amounts: dict[str, int], wait: float = 1000) -> list[str]:
    items = tuple(s.request(each, wait=wait, holder="gang") for each in amounts)
    events = s.when(AllocateBatch(command_id=s.next_id(), items=items, atomic=True))
    assert {e.type for e in events} == {"queued"}, events
    return [e.allocation for e in events if e.allocation]


def test_an_atomic_batch_that_waits_is_granted_whole() -> None:
    s = pool_of()
    one, two = s.got({"cpu": 4000}), s.got({"cpu": 4000})
    members = gang(s, {"cpu": 3000}, {"cpu": 3000})
    s.release(one)
    assert granted(s)[-1] == two
    s.release(two)
    assert granted(s)[-2:] == members
    assert {s.book.allocations[m].gang for m in members} == {members[0]}


def test_withdrawing_one_of_a_gang_withdraws_all() -> None:
    s = pool_of()
    s.got({"cpu": 8000})
    members = gang(s, {"cpu": 3000}, {"cpu": 3000}, {"cpu": 1000})
    events = s.on(Withdraw, members[1], who="gang")
    assert kinds(events) == ["withdrawn"] * 3
    assert not s.book.pools["box"].space.waiting
    assert not s.book.pools["box"].space.gangs


def test_a_gang_that_could_never_fit_together_is_refused() -> None:
    s = pool_of()
    items = tuple(s.request({"cpu": 5000}, wait=10) for _ in range(2))
    (event,) = s.when(AllocateBatch(command_id="g", items=items, atomic=True))
    assert isinstance(event.body, Refused)
    assert s.book.allocations == {}


def test_a_gang_is_one_place_in_order() -> None:
    s = pool_of()
    held = s.got({"cpu": 8000})
    members = gang(s, {"cpu": 4000}, {"cpu": 4000})
    single = s.waits({"cpu": 8000}, holder="late")
    s.release(held)
    assert granted(s)[-2:] == members
    assert single in s.book.pools["box"].space.waiting


# --- spread, sticky ----------------------------------------------------------------------------------


@pytest.fixture
def nodes() -> Scenario:
    s = Scenario()
    s.pool(
        n1={"cpu": 4000, "gpu": 2000}, n2={"cpu": 4000, "gpu": 2000}, n3={"cpu": 4000, "gpu": 2000}
    )
    return s


def test_a_spread_takes_an_even_part_of_each_of_n_nodes_or_nothing(nodes: Scenario) -> None:
    body = nodes.ask({"cpu": 6001}, spread=3).body
    assert isinstance(body, Allocated)
    assert [(p.node, p.amounts["cpu"]) for p in body.placements] == [
        ("n1", 2001),
        ("n2", 2000),
        ("n3", 2000),
    ]
    assert nodes.refused({"cpu": 9000}, spread=3).reason == "insufficient_capacity"
    assert nodes.refused({"cpu": 4}, spread=4).reason == "exceeds_pool"
    assert nodes.in_use("n1", "cpu") == 2001


def test_a_spread_of_cards_takes_whole_cards(nodes: Scenario) -> None:
    body = nodes.ask({"gpu": 3000}, spread=2).body
    assert isinstance(body, Allocated)
    assert [p.amounts["gpu"] for p in body.placements] == [2000, 1000]
    assert nodes.refused({"gpu": 500}, spread=2).reason == "exceeds_pool"


def test_spread_zero_takes_as_few_nodes_as_it_takes(nodes: Scenario) -> None:
    first = nodes.ask({"cpu": 3000}, spread=0).body
    assert isinstance(first, Allocated)
    assert len(first.placements) == 1
    second = nodes.ask({"cpu": 6000}, spread=0).body
    assert isinstance(second, Allocated)
    assert [p.node for p in second.placements] == ["n2", "n3"]


def test_a_spread_waits_and_comes_back_whole(nodes: Scenario) -> None:
    held = nodes.got({"cpu": 4000})
    waiting = nodes.waits({"cpu": 12_000}, spread=3)
    nodes.release(held)
    assert granted(nodes)[-1] == waiting
    nodes.release(waiting)
    assert all(not any(n.in_use.values()) for n in nodes.book.pools["box"].space.nodes.values())


def test_a_sticky_key_gets_the_node_it_had_last_if_it_is_free(nodes: Scenario) -> None:
    other = nodes.got({"cpu": 4000})
    mine = nodes.got({"cpu": 1000}, sticky="cache")
    assert nodes.book.allocations[mine].placements[0].node == "n2"
    nodes.release(mine)
    nodes.release(other)
    again = nodes.got({"cpu": 1000}, sticky="cache")
    assert nodes.book.allocations[again].placements[0].node == "n2"
    stranger = nodes.got({"cpu": 1000}, sticky="cache", tenant="other")
    assert nodes.book.allocations[stranger].placements[0].node == "n1"
    full = nodes.got({"cpu": 4000}, sticky="cache")
    assert nodes.book.allocations[full].placements[0].node == "n3"


def test_a_sticky_key_goes_before_the_node_that_is_kept_for_it() -> None:
    s = Scenario()
    s.pool(policy={"order": "fair", "overtakes_max": 0}, n1={"cpu": 4000}, n2={"cpu": 4000})
    mine = s.got({"cpu": 3000}, sticky="cache")
    s.release(mine)
    first = s.got({"cpu": 4000}, ttl=50)
    second = s.got({"cpu": 2000}, ttl=50)
    assert [s.book.allocations[each].placements[0].node for each in (first, second)] == ["n1", "n2"]
    waiting = s.waits({"cpu": 4000}, sticky="cache", wait=10**6)
    assert s.refused({"cpu": 1000}, holder="x").reason == "reserved_for_waiting"
    assert s.book.allocations[waiting].claim == "n2"
    # Both nodes are free before anybody looks.
    s.later(100)
    s.settle()
    assert s.book.allocations[waiting].placements[0].node == "n1"


# --- duplicates, cycles ------------------------------------------------------------------------------


def test_duplicate_requests_are_allowed_reported_refused_or_answered() -> None:
    for policy, outcome in (
        ("allow", ["allocated"]),
        ("report", ["allocated", "alert_raised"]),
        ("refuse", ["refused"]),
        ("answer", []),
    ):
        s = pool_of(duplicates=policy)
        first = s.got({"cpu": 1000}, task="t")
        events = s.when(s.request({"cpu": 1000}, task="t"))
        assert kinds(events) == outcome, policy
        if policy == "refuse":
            assert events[0].body.reason == "duplicate_request"  # type: ignore[union-attr]
        assert s.got({"cpu": 1000}, task="another")
        assert s.got({"cpu": 2000}, task="t")
        assert s.got({"cpu": 1000}, task="t", holder="h2")
        s.release(first)


def test_holders_that_wait_for_each_other_raise_one_alert_that_names_them() -> None:
    s = Scenario()
    s.pool(left={"cpu": 1000})
    s.pool("bag", right={"memory": GIB})
    s.got({"cpu": 1000}, holder="ann")
    s.got({"memory": GIB}, pool="bag", holder="bob")
    s.waits({"memory": GIB}, pool="bag", holder="ann")
    s.waits({"cpu": 1000}, holder="bob")
    alerts = [e.body for e in s.events if isinstance(e.body, AlertRaised)]
    assert len(alerts) == 1
    assert alerts[0].details["holders"] in (["ann", "bob"], ["bob", "ann"])
    assert "ann" in alerts[0].message
    assert "bob" in alerts[0].message


def test_waiting_in_a_line_without_a_circle_raises_nothing() -> None:
    s = pool_of()
    s.got({"cpu": 8000}, holder="ann")
    s.waits({"cpu": 8000}, holder="bob")
    s.waits({"cpu": 8000}, holder="cid")
    assert not s.book.alerts


# --- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [
        {"order": "lifo"},
        {"ageing_ns": 0},
        {"overtakes_max": -1},
        {"nonsense": 1},
        {"rollout_permille": 100},
        {"refill": "reset"},
        {"refill": "add", "refill_every_ns": 10**9},
        {"preemption": "always"},
        {"grace_ns": -1},
        {"queue_limit": "many"},
    ],
)
def test_policies_that_cannot_be_or_contradict_themselves_are_invalid(policy: dict) -> None:  # type: ignore[type-arg]
    s = pool_of()
    with pytest.raises(InvalidInput):
        s.when(SetPolicy(command_id="p", pool="box", policy=policy))
    assert s.got({"cpu": 1000})


@pytest.mark.parametrize(
    "options",
    [
        {"most": {"cpu": 500}},
        {"most": {"memory": 5}},
        {"most": {"cpu": 4000}, "spread": 2},
        {"spread": -1},
        {"sticky": ""},
    ],
)
def test_impossible_ranges_spreads_and_keys_are_invalid(options: dict) -> None:  # type: ignore[type-arg]
    s = pool_of()
    with pytest.raises(InvalidInput):
        s.ask({"cpu": 1000}, **options)


def test_process_bound_waiters_are_served_like_others() -> None:
    s = pool_of()
    held = s.got({"cpu": 8000})
    waiting = s.waits({"cpu": 1000}, process=PROCESS)
    s.release(held)
    assert granted(s)[-1] == waiting
