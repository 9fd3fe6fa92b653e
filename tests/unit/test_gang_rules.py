"""Gangs and spreads: what they claim, how long they can wait, and how they are packed."""

from __future__ import annotations

from itertools import product
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.commands import AllocateBatch, CordonNode, ResizePool, SetQuota, Withdraw
from ledger.events import Event, Queued
from ledger.fields import dump, load
from ledger.mix import Mix
from ledger.nodes import node_from
from ledger.requests import NodeSpec, Request
from ledger.rules.packing import STEPS_EVER, could_ever, together
from ledger.rules.placement import Wish
from ledger.rules.prospects import prospect
from ledger.spaces import Space
from tests.scenario import SECOND, Scenario, kinds

LONG = 10**6


def three(**policy: object) -> Scenario:
    """A fair pool ``box`` of three nodes with four cores each."""
    s = Scenario()
    s.pool(policy=dict(policy), n1={"cpu": 4}, n2={"cpu": 4}, n3={"cpu": 4})
    return s


def batch(s: Scenario, *amounts: dict[str, int], wait: float | None = LONG, **more: Any) -> Event:
    """Ask for an atomic batch; the outcome of its first item."""
    items = tuple(s.request(each, wait=wait, holder="gang", ttl=50, **more) for each in amounts)
    s.when(AllocateBatch(command_id=s.next_id(), items=items, atomic=True))
    return s.own[0]


def gang(s: Scenario, *amounts: dict[str, int], **more: Any) -> list[str]:
    """Ask for an atomic batch that waits; its ids."""
    assert batch(s, *amounts, **more).type == "queued"
    return [e.allocation for e in s.own if e.allocation]


def state(s: Scenario, allocation: str) -> str:
    folded = s.fold(allocation)
    assert folded is not None
    return folded.state


def claims(s: Scenario) -> dict[str, str]:
    return s.book.pools["box"].space.claims


def test_a_batch_that_is_packed_leaves_the_nodes_alone_that_are_kept_for_others() -> None:
    s = Scenario()
    s.pool(
        policy={"overtakes_max": 0},
        n1={"cpu": 4},
        n2={"cpu": 4, "gpu": 2000},
        n3={"cpu": 4, "memory": 4},
    )
    s.got({"gpu": 1000}, ttl=LONG)
    waiting = s.waits({"gpu": 2000, "cpu": 1}, wait=LONG)
    s.refused({"gpu": 1000})
    assert claims(s) == {"n2": waiting}
    # The last item may land where the claim keeps the others off: they want something in common with it.
    items = ({"cpu": 4}, {"cpu": 4}, {"cpu": 1}, {"memory": 4})
    batch_of = tuple(s.request(each, ttl=50) for each in items)
    (event,) = s.when(AllocateBatch(command_id="b", items=batch_of, atomic=True))
    assert event.body.reason == "reserved_for_waiting"  # type: ignore[union-attr]


# --- claims ------------------------------------------------------------------------------------------


def test_a_gang_that_small_ones_overtake_claims_as_many_nodes_as_it_needs() -> None:
    s = three(overtakes_max=2, claim_after_ns=2**61)
    held = [s.got({"cpu": 1}, ttl=LONG, strategy="worst_fit") for _ in range(3)]
    members = gang(s, {"cpu": 4}, {"cpu": 4})
    small = [s.got({"cpu": 1}, holder="small", ttl=LONG) for _ in range(2)]
    assert claims(s) == {"n2": members[0], "n3": members[0]}
    claim = next(
        e for e in s.events if isinstance(e.body, Queued) and e.position > int(small[1][1:])
    )
    assert isinstance(claim.body, Queued)
    assert claim.body.shortfall == {"n2": {"cpu": 1}, "n3": {"cpu": 1}}
    assert s.got({"cpu": 1}, holder="small", ttl=LONG)
    assert s.refused({"cpu": 1}, holder="small").reason == "reserved_for_waiting"
    s.release(held[1])
    assert state(s, members[0]) == "waiting"
    s.release(held[2])
    assert [state(s, each) for each in members] == ["active", "active"]
    assert claims(s) == {}


def test_a_spread_that_has_waited_long_claims_a_node_for_each_of_its_parts() -> None:
    s = three(claim_after_ns=10 * SECOND, overtakes_max=10_000)
    held = [s.got({"cpu": 3}, ttl=LONG) for _ in range(3)]
    spread = s.waits({"cpu": 8}, holder="wide", spread=2, wait=LONG)
    s.later(30)
    assert s.got({"cpu": 1}, holder="small", ttl=LONG)
    assert claims(s) == {"n1": spread, "n2": spread}
    assert s.refused({"cpu": 1}, holder="small").reason == "reserved_for_waiting"
    s.release(held[0])
    s.release(held[1])
    assert state(s, spread) == "active"


def test_a_gangs_claims_bar_who_wants_what_any_of_its_members_wants() -> None:
    s = Scenario()
    s.pool(policy={"overtakes_max": 0}, n1={"cpu": 4, "gpu": 2000}, n2={"cpu": 4})
    s.got({"gpu": 2000}, ttl=LONG)
    members = gang(s, {"gpu": 1000}, {"cpu": 1})
    s.ask({"cpu": 1}, holder="x")
    assert set(claims(s).values()) == {members[0]}
    assert s.in_use("n2", "cpu") == 1
    assert s.got({"cpu": 3}, holder="x")
    assert s.refused({"cpu": 1}, holder="x").reason == "reserved_for_waiting"


def test_a_gangs_claims_survive_a_dump_and_are_given_up_with_its_wait() -> None:
    s = three(overtakes_max=0)
    for _ in range(3):
        s.got({"cpu": 3}, ttl=LONG)
    members = gang(s, {"cpu": 4}, {"cpu": 4}, {"cpu": 1})
    s.ask({"cpu": 1}, holder="x", ttl=LONG)
    kept = set(claims(s))
    assert len(kept) == 3
    again = load(dump(s.book))
    assert dump(again) == dump(s.book)
    assert again.pools["box"].space.claims == claims(s)
    s.on(Withdraw, members[1], who="gang")
    assert claims(s) == {}


def test_claims_of_a_gang_move_when_one_of_its_nodes_can_take_nothing_more() -> None:
    s = three(overtakes_max=0)
    for _ in range(3):
        s.got({"cpu": 2}, ttl=LONG, strategy="worst_fit")
    members = gang(s, {"cpu": 4}, {"cpu": 3})
    s.ask({"cpu": 9}, holder="x")
    s.ask({"cpu": 1}, holder="x", ttl=LONG)
    before = set(claims(s))
    assert len(before) == 2
    gone = min(before)
    s.when(CordonNode(command_id="c", pool="box", node=gone))
    assert len(claims(s)) == 2
    assert gone not in claims(s)
    sizes = tuple(NodeSpec(name, {"cpu": 2}) for name in ("n1", "n2", "n3"))
    s.when(ResizePool(command_id="r", pool="box", nodes=sizes))
    assert claims(s) == {}
    assert state(s, members[0]) == "waiting"


def test_in_strict_order_a_gang_that_is_over_its_quota_only_together_blocks_nobody() -> None:
    s = three(order="fifo")
    s.quota({"cpu": 6}, holder="gang")
    s.got({"cpu": 2}, holder="gang", ttl=LONG)
    members = gang(s, {"cpu": 3}, {"cpu": 3})
    assert s.got({"cpu": 1}, holder="other")
    assert [state(s, each) for each in members] == ["waiting", "waiting"]


def test_a_gang_held_up_by_its_quota_claims_nothing() -> None:
    s = three(overtakes_max=0)
    s.quota({"cpu": 8}, holder="gang")
    s.got({"cpu": 1}, holder="gang", ttl=LONG)
    gang(s, {"cpu": 4}, {"cpu": 4})
    s.got({"cpu": 1}, holder="x", ttl=LONG)
    assert claims(s) == {}


def test_who_finds_too_few_unclaimed_nodes_keeps_those_behind_from_claiming_them() -> None:
    s = three(overtakes_max=0)
    held = [s.got({"cpu": 4}, ttl=LONG) for _ in range(3)]
    first = s.waits({"cpu": 4}, holder="first", wait=LONG, ttl=LONG)
    s.ask({"cpu": 1}, holder="x")
    assert list(claims(s).values()) == [first]
    members = gang(s, {"cpu": 4}, {"cpu": 4}, {"cpu": 4})
    late = s.waits({"cpu": 4}, holder="late", wait=LONG, ttl=LONG)
    s.ask({"cpu": 1}, holder="x")
    assert list(claims(s).values()) == [first]
    s.release(held[0])
    assert state(s, first) == "active"
    assert claims(s) == dict.fromkeys(("n1", "n2", "n3"), members[0])
    for each in (*held[1:], first):
        s.when_released(each, tenant="default")
    assert [state(s, each) for each in members] == ["active"] * 3
    assert state(s, late) == "waiting"


def test_in_strict_order_a_gang_claims_nothing() -> None:
    s = three(order="fifo", overtakes_max=0)
    for _ in range(3):
        s.got({"cpu": 3}, ttl=LONG)
    gang(s, {"cpu": 4}, {"cpu": 4})
    s.ask({"cpu": 1}, holder="x")
    assert claims(s) == {}


# --- making room -------------------------------------------------------------------------------------


def test_elastic_allocations_on_several_nodes_are_shrunk_for_a_spread_that_waits() -> None:
    s = three()
    wide = [s.got({"cpu": 1}, most={"cpu": 4}, ttl=LONG) for _ in range(3)]
    event = s.ask({"cpu": 4}, holder="wide", spread=2, wait=LONG, ttl=LONG)
    assert event.type == "queued"
    assert state(s, event.allocation or "") == "active"
    assert [s.book.allocations[each].amounts["cpu"] for each in wide] == [2, 2, 4]
    assert all(s.in_use(node, "cpu") == 4 for node in ("n1", "n2", "n3"))


def test_elastic_allocations_are_shrunk_for_a_gang_once_that_is_enough() -> None:
    s = three()
    elastic = [s.got({"cpu": 2}, most={"cpu": 4}, ttl=LONG) for _ in range(2)]
    held = s.got({"cpu": 4}, ttl=LONG)
    members = gang(s, {"cpu": 2}, {"cpu": 3}, {"cpu": 2})
    assert [s.book.allocations[each].amounts["cpu"] for each in elastic] == [4, 4]
    s.release(held)
    assert [state(s, each) for each in members] == ["active"] * 3
    assert [s.book.allocations[each].amounts["cpu"] for each in elastic] == [2, 2]


def test_a_gang_sends_away_the_fewest_of_a_lower_priority_and_keeps_their_nodes() -> None:
    s = three(preemption="lower_priority", grace_ns=30 * SECOND)
    boss = s.got({"cpu": 4}, holder="boss", priority="high", ttl=LONG)
    small = [s.got({"cpu": 2}, holder="s", priority="low", ttl=LONG) for _ in range(4)]
    members = gang(s, {"cpu": 4}, {"cpu": 2}, priority="high")
    assert claims(s) == dict.fromkeys(("n2", "n3"), members[0])
    ending = [each for each in small if s.book.allocations[each].state == "ending"]
    assert len(ending) == 3
    assert s.book.allocations[boss].state == "active"
    s.ask({"cpu": 1}, holder="x", wait=LONG)
    assert len([e for e in s.events if e.type == "ending"]) == 3
    s.later(30)
    s.settle()
    assert [state(s, each) for each in members] == ["active", "active"]
    assert sum(each in s.book.allocations for each in small) == 1


def test_nobody_is_sent_away_for_a_gang_of_which_one_has_no_higher_priority_or_no_room() -> None:
    s = three(preemption="lower_priority")
    for _ in range(3):
        s.got({"cpu": 4}, holder="s", ttl=LONG)
    items = (
        s.request({"cpu": 4}, wait=LONG, priority="high"),
        s.request({"cpu": 4}, wait=LONG, priority="normal"),
    )
    s.when(AllocateBatch(command_id="b", items=items, atomic=True))
    assert "ending" not in kinds(s.events)
    s.when(CordonNode(command_id="c", pool="box", node="n2"))
    s.when(CordonNode(command_id="d", pool="box", node="n3"))
    gang(s, {"cpu": 4}, {"cpu": 4}, priority="critical")
    assert "ending" not in kinds(s.events)


@pytest.mark.parametrize("several", ["gang", "spread"])
def test_what_was_lent_is_given_back_to_a_gang_or_a_spread_of_its_owner(several: str) -> None:
    s = three(grace_ns=0)
    for tenant, limit in (("ann", 4), ("bob", 8)):
        s.when(SetQuota(command_id=tenant, tenant=tenant, limits={"cpu": limit}, cohort="kin"))
    held = [s.got({"cpu": 2}, tenant="ann", ttl=LONG) for _ in range(6)]
    items = [s.request({"cpu": 3}, tenant="bob", wait=LONG) for _ in range(2)]
    if several == "gang":
        s.when(AllocateBatch(command_id="b", tenant="bob", items=tuple(items), atomic=True))
    else:
        s.ask({"cpu": 6}, tenant="bob", spread=2, wait=LONG)
    bobs = [a for a in s.book.allocations.values() if a.tenant == "bob"]
    assert {a.state for a in bobs} == {"active"}
    assert len({p.node for a in bobs for p in a.placements}) == 2
    # All who lay on two of the nodes, which is just what was lent.
    assert sum(each in s.book.allocations for each in held) == 2


def test_no_more_is_given_back_to_a_gang_than_was_lent_on_all_its_nodes_together() -> None:
    s = three(grace_ns=0)
    for tenant, limit in (("ann", 8), ("bob", 8)):
        s.when(SetQuota(command_id=tenant, tenant=tenant, limits={"cpu": limit}, cohort="kin"))
    held = [s.got({"cpu": 4}, tenant="ann", ttl=LONG) for _ in range(3)]
    # On each node by itself somebody could be asked to go, but only one of them was borrowed.
    s.ask({"cpu": 8}, tenant="bob", spread=2, wait=LONG)
    assert all(each in s.book.allocations for each in held)
    assert "reclaimed" not in kinds(s.events)


def test_a_gang_that_asks_for_more_than_its_own_quota_gets_nothing_back() -> None:
    s = three(grace_ns=0)
    for tenant, limit in (("ann", 4), ("bob", 7), ("cid", 20)):
        s.when(SetQuota(command_id=tenant, tenant=tenant, limits={"cpu": limit}, cohort="kin"))
    s.got({"cpu": 4}, tenant="ann", ttl=LONG)
    s.got({"cpu": 4}, tenant="ann", ttl=LONG)
    s.ask({"cpu": 8}, tenant="bob", spread=2, wait=LONG)
    assert "reclaimed" not in kinds(s.events)


def test_a_spread_sends_others_away_on_as_many_nodes_as_it_needs_at_once() -> None:
    s = three(preemption="lower_priority", grace_ns=0)
    low = [s.got({"cpu": 4}, holder="s", priority="low", ttl=LONG) for _ in range(3)]
    event = s.ask({"cpu": 8}, holder="wide", spread=2, wait=LONG, priority="high", ttl=LONG)
    assert state(s, event.allocation or "") == "active"
    assert sum(each in s.book.allocations for each in low) == 1
    assert claims(s) == {}


# --- the bound ---------------------------------------------------------------------------------------

LEASE = 20
CLAIM_AFTER = 15
needs = st.lists(
    st.fixed_dictionaries(
        {}, optional={"cpu": st.integers(1, 4), "gpu": st.sampled_from((300, 500, 700, 1000, 2000))}
    ).filter(bool),
    min_size=2,
    max_size=4,
)


def _crowd(s: Scenario, random: Random) -> None:
    """Somebody small asks; some wait, some are gangs, some are urgent."""
    amounts = random.choice(({"cpu": 1}, {"cpu": 2}, {"gpu": 500}, {"gpu": 1000, "cpu": 1}))
    options: dict[str, Any] = {
        "ttl": random.randint(1, LEASE),
        "holder": f"s{random.randint(0, 9)}",
    }
    options["priority"] = random.choice(("low", "normal", "critical"))
    if random.random() < 0.6:
        options["wait"] = random.choice((5, LEASE))
    if random.random() < 0.2:
        items = tuple(s.request(amounts, **options) for _ in range(2))
        s.when(AllocateBatch(command_id=s.next_id(), items=items, atomic=True))
    else:
        s.ask(amounts, **options)


@settings(max_examples=60, deadline=None)
@given(
    needs,
    st.sampled_from((None, None, 0, 2)),
    st.lists(st.integers(2, 5), min_size=2, max_size=4),
    st.sampled_from((0, 3, 10_000)),
    st.integers(0, 2**32),
)
def test_no_gang_and_no_spread_waits_longer_than_its_bound(
    asked: list[dict[str, int]], spread: int | None, sizes: list[int], overtakes: int, seed: int
) -> None:
    s = Scenario()
    nodes: dict[str, Any] = {
        f"n{i}": {"cpu": c, "gpu": 1000 * (c // 2)} for i, c in enumerate(sizes)
    }
    s.pool(policy={"overtakes_max": overtakes, "claim_after_ns": CLAIM_AFTER * SECOND}, **nodes)
    random = Random(seed)
    for _ in range(20):
        _crowd(s, random)
    for waiting in list(s.book.pools["box"].space.waiting):
        if waiting in s.book.allocations:
            s.on(Withdraw, waiting, who=s.book.allocations[waiting].holder)
    if spread is None:
        event = batch(s, *asked)
        mine = [e.allocation or "" for e in s.own]
    else:
        event = s.ask({"cpu": sum(sizes) // 2}, holder="gang", spread=spread, wait=LONG, ttl=50)
        mine = [event.allocation or ""]
    if event.type != "queued":
        return
    until = s.now + (CLAIM_AFTER + LEASE + 2) * SECOND
    while s.now < until:
        _crowd(s, random)
    s.settle()
    assert [s.fold(each).state for each in mine] == ["active"] * len(mine)  # type: ignore[union-attr]


# --- packing -----------------------------------------------------------------------------------------


def test_a_gang_that_fits_only_with_its_largest_first_is_granted_at_once() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4}, n2={"cpu": 3})
    assert batch(s, {"cpu": 3}, {"cpu": 4}, wait=None).type == "allocated"
    assert [e.body.placements[0].node for e in s.own] == ["n2", "n1"]  # type: ignore[union-attr]
    assert [e.body.placements[0].in_use for e in s.own] == [{"cpu": 3}, {"cpu": 4}]  # type: ignore[union-attr]


def test_a_gang_that_no_order_places_is_found_room_by_going_back_on_choices() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 10}, n2={"cpu": 10})
    held = s.got({"cpu": 1}, ttl=LONG)
    members = gang(s, *({"cpu": each} for each in (5, 4, 4, 3, 2, 2)))
    s.release(held)
    assert [state(s, each) for each in members] == ["active"] * 6
    assert s.in_use("n1", "cpu") == s.in_use("n2", "cpu") == 10


def test_a_gang_that_fits_into_the_empty_pool_is_not_refused_as_too_large() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 5}, n2={"cpu": 3})
    s.got({"cpu": 1}, ttl=LONG)
    assert batch(s, {"cpu": 3}, {"cpu": 5}).type == "queued"
    assert batch(s, {"cpu": 4}, {"cpu": 4}).type == "refused"


def test_elastic_members_of_a_packed_batch_grow_afterwards_into_what_is_left() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4}, n2={"cpu": 6})
    items = (
        s.request({"cpu": 4}, most={"cpu": 9}, ttl=LONG, strategy="worst_fit"),
        s.request({"cpu": 5}, ttl=LONG),
    )
    events = s.when(AllocateBatch(command_id="b", items=items, atomic=True))
    assert kinds(events)[:2] == ["allocated", "allocated"]
    assert s.in_use("n1", "cpu") == 4
    assert s.in_use("n2", "cpu") == 5


def _fits_by_trying_all(sizes: list[dict[str, int]], asked: list[dict[str, int]]) -> bool:
    """Whether the requests fit, by trying each node and each card for each."""

    def ways(amounts: dict[str, int]) -> list[tuple[int, tuple[tuple[int, int], ...]]]:
        found: list[tuple[int, tuple[tuple[int, int], ...]]] = []
        for number, size in enumerate(sizes):
            cards = size["gpu"] // 1000
            gpu = amounts.get("gpu", 0)
            if gpu == 0:
                found.append((number, ()))
            elif gpu < 1000:
                found += [(number, ((card, gpu),)) for card in range(cards)]
            else:
                found += [
                    (number, tuple((c, 1000) for c in chosen))
                    for chosen in product(range(cards), repeat=gpu // 1000)
                    if list(chosen) == sorted(set(chosen))
                ]
        return found

    for choice in product(*(ways(each) for each in asked)):
        cpu: dict[int, int] = {}
        on: dict[tuple[int, int], int] = {}
        for amounts, (node, cards) in zip(asked, choice, strict=True):
            cpu[node] = cpu.get(node, 0) + amounts.get("cpu", 0)
            for card, share in cards:
                on[node, card] = on.get((node, card), 0) + share
        if all(v <= sizes[n]["cpu"] for n, v in cpu.items()) and all(
            v <= 1000 for v in on.values()
        ):
            return True
    return False


@settings(max_examples=150, deadline=None)
@given(needs, st.lists(st.integers(2, 5), min_size=1, max_size=3))
def test_what_fits_is_found_and_only_what_fits_nowhere_is_called_too_large(
    asked: list[dict[str, int]], cpus: list[int]
) -> None:
    sizes = [{"cpu": cpu, "gpu": 1000 * (cpu // 2)} for cpu in cpus]
    nodes = {f"n{i}": node_from(NodeSpec(f"n{i}", size)) for i, size in enumerate(sizes)}
    space = Space("box", nodes)
    wishes = [Wish(Request(each), "best_fit") for each in asked]
    fits = _fits_by_trying_all(sizes, asked)
    assert could_ever(space, Mix(), wishes) == fits
    packed = together(space, Mix(), wishes, STEPS_EVER)
    assert (packed is not None) == fits
    if packed is None:
        return
    shadow = dict(nodes)
    for wish, placements in zip(wishes, packed, strict=True):
        for p in placements:
            shadow[p.node] = shadow[p.node].plus(p, 1)
            assert p.in_use == {r: shadow[p.node].in_use[r] for r in p.amounts}
        assert sum(p.amounts.get("cpu", 0) for p in placements) == wish.request.amounts.get(
            "cpu", 0
        )
    for node in shadow.values():
        assert all(used <= node.capacity[r] for r, used in node.in_use.items())
        assert all(u <= 1000 for cards in node.cards_in_use.values() for u in cards.values())


def test_where_the_search_is_cut_off_a_gang_may_wait() -> None:
    nodes = {f"n{i}": node_from(NodeSpec(f"n{i}", {"cpu": 101 + i})) for i in range(12)}
    space = Space("box", nodes)
    wishes = [Wish(Request({"cpu": 34 + i % 7}), "first_fit") for i in range(34)]
    assert could_ever(space, Mix(), wishes)
    assert together(space, Mix(), wishes, 10) is None


@pytest.mark.parametrize("spread", [0, 2])
def test_a_spread_and_others_are_packed_together(spread: int) -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4}, n2={"cpu": 4})
    items = (
        s.request({"cpu": 2}, ttl=LONG, strategy="first_fit"),
        s.request({"cpu": 2}, ttl=LONG, strategy="worst_fit"),
        s.request({"cpu": 4}, ttl=LONG, spread=spread),
    )
    s.when(AllocateBatch(command_id="b", items=items, atomic=True))
    assert kinds(list(s.own)) == ["allocated"] * 3


def test_what_can_be_told_of_a_gang_with_claims_names_what_is_missing_on_each_of_its_nodes() -> (
    None
):
    s = three(overtakes_max=0)
    for _ in range(3):
        s.got({"cpu": 3}, ttl=LONG)
    members = gang(s, {"cpu": 4}, {"cpu": 4})
    s.ask({"cpu": 1}, holder="x", ttl=LONG)
    told = prospect(s.book, s.book.allocations[members[0]], s.now)
    assert told.shortfall == {node: {"cpu": 3} for node in claims(s)}
