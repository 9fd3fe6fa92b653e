"""Size, quotas and repeats: what grows and what does not, who stops it, and what a gang may repeat."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.commands import Adjust, AllocateBatch, CordonNode, ObserveCapacity, ResizePool
from ledger.events import Adjusted, AlertRaised, Event, Refused
from ledger.nodes import Node, cards_of
from ledger.requests import CARD, Amounts, NodeSpec
from ledger.rules.capacity import place_on
from ledger.rules.resizing import place_again
from tests.scenario import GIB, Scenario, kinds

LONG = 10**6


def held(s: Scenario, allocation: str) -> Amounts:
    return s.book.allocations[allocation].amounts


def cards(s: Scenario, allocation: str) -> dict[str, int]:
    (placement,) = s.book.allocations[allocation].placements
    return (placement.devices or {})["gpu"]


def why_not(events: list[Event]) -> Refused:
    (event,) = events
    assert isinstance(event.body, Refused), event
    return event.body


def outside(s: Scenario, **amounts: int) -> None:
    s.when(ObserveCapacity(command_id=s.next_id(), pool="box", node="n1", outside=amounts))


def resize(s: Scenario, capacity: Amounts) -> None:
    nodes = (NodeSpec("n1", capacity),)
    s.when(ResizePool(command_id=s.next_id(), pool="box", nodes=nodes))


def cordon(s: Scenario, *, cordoned: bool = True) -> None:
    s.when(CordonNode(command_id=s.next_id(), pool="box", node="n1", cordoned=cordoned))


# --- what does not grow always fits ------------------------------------------------------------------


@pytest.fixture
def crowded() -> tuple[Scenario, str]:
    """Memory of which more is used than there is, half of it outside; cores are free."""
    s = Scenario()
    s.pool(n1={"cpu": 4000, "memory": 8 * GIB})
    mine = s.got({"cpu": 1000, "memory": 6 * GIB}, ttl=LONG)
    outside(s, memory=4 * GIB)
    return s, mine


@pytest.mark.parametrize("memory", [{}, {"memory": 5 * GIB}, {"memory": 0}])
def test_cores_grow_whatever_others_use_of_the_memory(
    crowded: tuple[Scenario, str], memory: Amounts
) -> None:
    s, mine = crowded
    s.on(Adjust, mine, amounts={"cpu": 2000, **memory})
    assert held(s, mine) == {
        r: a for r, a in {"cpu": 2000, "memory": 6 * GIB, **memory}.items() if a
    }


def test_what_grows_is_refused_for_what_others_use_of_it_and_says_so(
    crowded: tuple[Scenario, str],
) -> None:
    s, mine = crowded
    no = why_not(s.on(Adjust, mine, amounts={"cpu": 2000, "memory": 7 * GIB}))
    assert no.reason == "unmanaged_use"
    assert "without the ledger: memory=4Gi" in no.message
    assert no.shortfall == {"n1": {"memory": GIB}}
    assert held(s, mine) == {"cpu": 1000, "memory": 6 * GIB}


def test_cores_are_stretched_whatever_others_use_of_the_memory() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4000, "memory": 8 * GIB})
    other = s.got({"cpu": 3000}, holder="other", ttl=LONG)
    amounts = {"cpu": 1000, "memory": 6 * GIB}
    mine = s.got(amounts, most={**amounts, "cpu": 4000}, ttl=LONG)
    outside(s, memory=4 * GIB)
    s.release(other, "other")
    assert held(s, mine) == {"cpu": 4000, "memory": 6 * GIB}


def test_cores_grow_though_a_resize_took_the_card_away() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 8000, "gpu": 3000})
    first = s.got({"gpu": 2000}, holder="first")
    amounts = {"cpu": 1000, "gpu": 1000}
    mine = s.got(amounts, most={"cpu": 2000, "gpu": 2000}, ttl=LONG)
    assert cards(s, mine) == {"2": 1000}
    resize(s, {"gpu": 2000})
    s.release(first, "first")
    # The cards that are left are others: to its own none could be added without a move.
    assert held(s, mine) == {"cpu": 2000, "gpu": 1000}
    s.on(Adjust, mine, amounts={"cpu": 4000})
    assert held(s, mine) == {"cpu": 4000, "gpu": 1000}
    assert cards(s, mine) == {"2": 1000}


def test_cards_that_could_only_grow_by_a_move_are_said_to() -> None:
    s = Scenario()
    s.pool(n1={"gpu": 3000})
    others = [s.got({"gpu": 1000}, holder="other") for _ in range(2)]
    mine = s.got({"gpu": 1000}, ttl=LONG)
    for other in others:
        s.release(other, "other")
    resize(s, {"gpu": 2000})
    no = why_not(s.on(Adjust, mine, amounts={"gpu": 2000}))
    assert no.message == f"{mine} would have to move: its cards have no room for more"


def test_a_card_that_is_lent_stays_while_another_resource_grows() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 8, "gpu": 3000})
    mine = s.got({"cpu": 1, "gpu": 3000}, ttl=LONG)
    inside = [s.got({"gpu": 1000}, parent=mine, ttl=LONG) for _ in range(3)]
    s.release(inside[0])
    s.release(inside[1])
    s.on(Adjust, mine, amounts={"cpu": 4, "gpu": 1000})
    assert held(s, mine) == {"cpu": 4, "gpu": 1000}
    assert cards(s, mine) == {"2": 1000}


@given(st.data())
def test_what_does_not_grow_fits_again_on_its_own_cards(data: st.DataObject) -> None:
    share = st.sampled_from((100, 500, 900, 1000, 2000, 3000))
    some = st.fixed_dictionaries({"cpu": st.integers(1, 9), "gpu": share})
    capacity = {"cpu": 20, "gpu": 4000}
    empty = Node("n1", capacity, {}, cards_of(capacity), {}, {})
    other = place_on(empty, data.draw(some))
    assert other is not None
    node = empty.plus(other, 1)
    old = place_on(node, data.draw(some))
    if old is None:
        return
    node = node.plus(old, 1)
    small = data.draw(st.fixed_dictionaries({"cpu": st.integers(0, 20), "gpu": share}))
    node = node.resized(NodeSpec("n1", {"cpu": small["cpu"], "gpu": small["gpu"] // CARD * CARD}))
    node = node.seen(outside=data.draw(some))
    still = data.draw(
        st.sampled_from([a for a in (100, 500, 1000, 2000, 3000) if a <= old.amounts["gpu"]])
    )
    less = {"cpu": data.draw(st.integers(1, old.amounts["cpu"])), "gpu": still}
    placed = place_again(node, old, less)
    assert placed is not None
    assert placed.amounts == less
    assert set((placed.devices or {})["gpu"]) <= set((old.devices or {})["gpu"])
    more = {**less, "cpu": data.draw(st.integers(old.amounts["cpu"] + 1, 20))}
    free = node.capacity["cpu"] - node.in_use["cpu"] - node.outside["cpu"]
    assert (place_again(node, old, more) is not None) == (more["cpu"] - old.amounts["cpu"] <= free)


# --- a cordon ----------------------------------------------------------------------------------------


def test_nothing_grows_by_hand_on_a_cordoned_node_until_it_is_open_again() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 20})
    mine = s.got({"cpu": 4}, ttl=LONG)
    cordon(s)
    no = why_not(s.on(Adjust, mine, amounts={"cpu": 9}))
    assert no.reason == "insufficient_capacity"
    assert no.message == f"n1 is cordoned: nothing new lands there, nor does {mine} grow there"
    assert "leasebook pool uncordon n1" in no.hint
    assert why_not(s.on(Adjust, mine, amounts={"cpu": 21})).reason == "exceeds_pool"
    cordon(s, cordoned=False)
    s.on(Adjust, mine, amounts={"cpu": 9})
    assert held(s, mine) == {"cpu": 9}


def test_nothing_is_stretched_on_a_cordoned_node_until_it_is_open_again() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 20})
    other = s.got({"cpu": 16}, holder="other", ttl=LONG)
    mine = s.got({"cpu": 2}, most={"cpu": 8}, ttl=LONG)
    cordon(s)
    s.release(other, "other")
    assert held(s, mine) == {"cpu": 4}
    cordon(s, cordoned=False)
    assert held(s, mine) == {"cpu": 8}


def test_on_a_cordoned_node_what_is_held_may_shrink_and_what_is_inside_may_grow() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 20, "memory": 20})
    mine = s.got({"cpu": 4, "memory": 4}, ttl=LONG)
    inside = s.got({"cpu": 1}, parent=mine, ttl=LONG)
    cordon(s)
    s.on(Adjust, mine, amounts={"memory": 2, "cpu": 3})
    assert held(s, mine) == {"cpu": 3, "memory": 2}
    s.on(Adjust, inside, amounts={"cpu": 3})
    assert held(s, inside) == {"cpu": 3}


# --- who waits, and what is stretched meanwhile ------------------------------------------------------


@pytest.mark.parametrize("of_gang", [False, True])
def test_who_is_held_up_by_its_own_quota_stops_nobodys_growth(of_gang: bool) -> None:
    s = Scenario()
    s.pool(n1={"cpu": 16})
    s.quota({"cpu": 2}, holder="q")
    own = s.got({"cpu": 2}, holder="q", ttl=LONG)
    other = s.got({"cpu": 8}, holder="other", ttl=LONG)
    if of_gang:
        items = tuple(s.request({"cpu": n}, holder="q", wait=LONG) for n in (1, 1, 1))
        assert (
            why_not(s.when(AllocateBatch(command_id="much", items=items, atomic=True))).reason
            == "quota_exceeded"
        )
        gang = AllocateBatch(command_id="gang", items=items[:2], atomic=True)
        assert kinds(s.when(gang)) == ["queued", "queued"]
    else:
        for _ in range(3):
            s.waits({"cpu": 1}, holder="q", wait=LONG)
    mine = s.got({"cpu": 2}, most={"cpu": 12}, holder="e", ttl=LONG)
    assert held(s, mine) == {"cpu": 6}
    s.release(other, "other")
    assert held(s, mine) == {"cpu": 12}
    # As soon as its quota has room it is served, out of what was stretched where it has to be.
    s.got({"cpu": 2}, holder="last", ttl=LONG)
    outside(s, cpu=1)
    s.release(own, "q")
    assert held(s, mine) == {"cpu": 11}
    assert len(s.book.pools["box"].space.waiting) == (0 if of_gang else 1)


@pytest.mark.parametrize("limited", ["tenant", "holder", "cohort"])
def test_nothing_grows_into_a_quota_that_holds_up_another_who_waits(limited: str) -> None:
    s = Scenario()
    s.pool(n1={"cpu": 20})
    mine = {"tenant": "ann", "holder": "h"}
    others = {"tenant": "bob" if limited == "cohort" else "ann", "holder": "h"}
    if limited == "cohort":
        s.quota({"cpu": 6}, tenant="ann", cohort="kin")
        s.quota({"cpu": 4}, tenant="bob", cohort="kin")
    else:
        s.quota({"cpu": 10}, tenant="ann", holder="h" if limited == "holder" else None)
        others["holder"] = "h" if limited == "holder" else "i"
    held_before = [s.got({"cpu": n}, **others, ttl=LONG) for n in (1, 5)]
    waiting = s.waits({"cpu": 5}, **others, wait=LONG)
    elastic = s.got({"cpu": 2}, most={"cpu": 10}, **mine, ttl=LONG)
    assert held(s, elastic) == {"cpu": 2}
    s.when_released(held_before[0], others["tenant"])
    assert held(s, elastic) == {"cpu": 2}
    s.when_released(held_before[1], others["tenant"])
    assert s.book.allocations[waiting].state == "active"
    # In a cohort it may have all of its own quota, though another has borrowed of it.
    assert held(s, elastic) == {"cpu": 6 if limited == "cohort" else 5}


def test_who_waits_for_room_stops_growth_whoever_else_a_quota_holds_up() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 16, "memory": 16})
    s.quota({"cpu": 2}, holder="q")
    s.got({"cpu": 2}, holder="q", ttl=LONG)
    other = s.got({"cpu": 8, "memory": 8}, holder="other", ttl=LONG)
    s.waits({"cpu": 1, "memory": 1}, holder="q", wait=LONG)
    s.waits({"memory": 16}, holder="large", wait=LONG)
    large = s.waits({"cpu": 14}, holder="large", wait=LONG)
    mine = s.got({"cpu": 1, "memory": 1}, most={"cpu": 9, "memory": 9}, holder="e", ttl=LONG)
    s.release(other, "other")
    assert held(s, mine) == {"cpu": 1, "memory": 1}
    assert s.book.allocations[large].state == "waiting"


def test_an_elastic_one_that_waited_is_stretched_though_a_quota_holds_up_another() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 8})
    s.quota({"cpu": 2}, holder="q")
    s.got({"cpu": 2}, holder="q", ttl=LONG)
    other = s.got({"cpu": 6}, holder="other", ttl=LONG)
    s.waits({"cpu": 2}, holder="q", wait=LONG)
    mine = s.waits({"cpu": 1}, most={"cpu": 6}, holder="e", wait=LONG)
    s.release(other, "other")
    granted = next(e for e in s.events if e.allocation == mine and e.type == "allocated")
    assert granted.body.amounts == {"cpu": 6}  # type: ignore[union-attr]


# --- cards that stretch ------------------------------------------------------------------------------


def test_a_share_grows_into_what_is_free_on_its_card_and_gives_back_no_more_than_is_needed() -> (
    None
):
    s = Scenario()
    s.pool(n1={"gpu": 1000})
    first = s.got({"gpu": 500}, holder="first", ttl=LONG)
    mine = s.got({"gpu": 250}, most={"gpu": 750}, holder="e", ttl=LONG)
    assert held(s, mine) == {"gpu": 500}
    s.release(first, "first")
    assert held(s, mine) == {"gpu": 750}
    s.got({"gpu": 300}, holder="second", ttl=LONG)
    assert held(s, mine) == {"gpu": 700}
    assert s.refused({"gpu": 500}, holder="third").reason == "insufficient_capacity"
    assert held(s, mine) == {"gpu": 700}


def test_a_range_from_a_share_to_several_cards_fills_its_card_before_it_takes_others() -> None:
    s = Scenario()
    s.pool(n1={"gpu": 4000})
    beside = s.got({"gpu": 300}, holder="beside", ttl=LONG)
    mine = s.got({"gpu": 500}, most={"gpu": 3000}, holder="e", ttl=LONG)
    assert cards(s, mine) == {"0": 700}
    s.release(beside, "beside")
    assert cards(s, mine) == {"0": 1000, "1": 1000, "2": 1000}
    s.got({"gpu": 2000}, holder="other", ttl=LONG)
    assert cards(s, mine) == {"0": 1000, "1": 1000}
    share = s.got({"gpu": 200}, holder="share", ttl=LONG)
    assert cards(s, mine) == {"0": 1000}
    s.release(share, "share")
    assert cards(s, mine) == {"0": 1000, "1": 1000}


def test_whole_cards_grow_by_those_that_are_wholly_free() -> None:
    s = Scenario()
    s.pool(n1={"gpu": 5000})
    full = s.got({"gpu": 1000}, holder="full", ttl=LONG)
    shares = [s.got({"gpu": 600}, holder=f"s{n}", ttl=LONG) for n in range(3)]
    s.release(full, "full")
    mine = s.got({"gpu": 1000}, most={"gpu": 5000}, holder="e", ttl=LONG)
    # Of the others as much is free as two cards have, but one card alone is free as a whole.
    assert held(s, mine) == {"gpu": 2000}
    s.release(shares[0], "s0")
    assert held(s, mine) == {"gpu": 3000}


def test_only_the_card_that_helps_is_given_back() -> None:
    s = Scenario()
    s.pool(n1={"gpu": 2000})
    large = s.got({"gpu": 700}, most={"gpu": 1000}, holder="large", ttl=LONG)
    small = s.got({"gpu": 500}, most={"gpu": 700}, holder="small", ttl=LONG)
    assert (held(s, large), held(s, small)) == ({"gpu": 1000}, {"gpu": 700})
    # The one that is stretched the most cannot give back a card's half; the other one can.
    asks = s.got({"gpu": 500}, holder="asks", ttl=LONG)
    assert cards(s, asks) == {"1": 500}
    assert (held(s, large), held(s, small)) == ({"gpu": 1000}, {"gpu": 500})
    (shrunk,) = [e.allocation for e in s.events if isinstance(e.body, Adjusted)]
    assert shrunk == small


# --- a gang that waits and repeats an earlier request ------------------------------------------------


def _big_and_repeat(duplicates: str, *, repeat_first: bool = False) -> tuple[Scenario, str]:
    """A batch that waits, one of which asks again for what is held. The scenario, and what is held."""
    s = Scenario()
    s.pool(policy={"duplicates": duplicates}, n1={"cpu": 4})
    first = s.got({"cpu": 1}, task="t", ttl=LONG)
    s.got({"cpu": 2}, holder="other", ttl=LONG)
    items = (
        s.request({"cpu": 3}, task="big", wait=LONG),
        s.request({"cpu": 1}, task="t", wait=LONG),
    )
    if repeat_first:
        items = items[::-1]
    s.when(AllocateBatch(command_id="batch", items=items, atomic=True))
    return s, first


@pytest.mark.parametrize("repeat_first", [False, True])
def test_a_gang_that_would_wait_and_repeats_a_request_is_refused(repeat_first: bool) -> None:
    s, first = _big_and_repeat("refuse", repeat_first=repeat_first)
    no = why_not([*s.own])
    assert no.reason == "duplicate_request"
    number = 0 if repeat_first else 1
    assert f"because of its item {number}: h1 has {first} for the same task" in no.message
    assert not s.book.pools["box"].space.waiting


@pytest.mark.parametrize("repeat_first", [False, True])
@pytest.mark.parametrize("duplicates", ["report", "answer"])
def test_a_gang_that_waits_and_repeats_a_request_is_reported(
    duplicates: str, repeat_first: bool
) -> None:
    s, first = _big_and_repeat(duplicates, repeat_first=repeat_first)
    assert [e.type for e in s.own] == ["queued", "queued"]
    (alert,) = [e.body for e in s.events if isinstance(e.body, AlertRaised)]
    assert alert.alert == f"duplicate_request:{first}"
    second = s.own[0 if repeat_first else 1].allocation
    assert alert.details == {"first": first, "second": second}


def test_a_gang_that_repeats_one_request_twice_is_reported_once() -> None:
    s = Scenario()
    s.pool(policy={"duplicates": "report"}, n1={"cpu": 4})
    s.got({"cpu": 1}, task="t", ttl=LONG)
    s.got({"cpu": 2}, holder="other", ttl=LONG)
    for name in ("one", "two"):
        items = tuple(s.request({"cpu": 1}, task="t", wait=LONG) for _ in range(2))
        s.when(AllocateBatch(command_id=name, items=items, atomic=True))
        assert [e.type for e in s.own] == ["queued", "queued"]
    assert kinds(s.events).count("alert_raised") == 1


# --- quotas: what counts -----------------------------------------------------------------------------


def test_an_owner_gets_its_own_at_once_and_a_borrower_keeps_what_nobody_needs() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 20})
    for tenant in ("ann", "bob"):
        s.quota({"cpu": 4}, tenant=tenant, pool="box", cohort="kin")
    lent = s.got({"cpu": 8}, tenant="ann", ttl=LONG)
    assert s.got({"cpu": 4}, tenant="bob", ttl=LONG)
    assert s.book.allocations[lent].state == "active"
    assert s.refused({"cpu": 1}, tenant="ann").reason == "quota_exceeded"
    assert s.refused({"cpu": 1}, tenant="bob").reason == "quota_exceeded"


def test_what_is_drawn_from_another_allocation_counts_against_no_quota() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 8})
    s.quota({"cpu": 2}, holder="h")
    whole = s.got({"cpu": 8}, holder="other", ttl=LONG)
    assert s.got({"cpu": 8}, holder="h", parent=whole, ttl=LONG)
    assert s.refused({"cpu": 3}, holder="h").reason == "quota_exceeded"
