"""Attacks on the allocation rules: states that must heal, accounts that must balance, nobody starved.

Each test is a fault that was once there, as given / when / then.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from ledger.codec import encode_body
from ledger.commands import (
    Adjust,
    AllocateBatch,
    Await,
    Claim,
    ClosePool,
    Confirm,
    CordonNode,
    JoinNode,
    OpenPool,
    Reclaim,
    Release,
    Renew,
    ResizePool,
    SetPolicy,
    SetQuota,
    Transfer,
)
from ledger.content import content_digest
from ledger.errors import InvalidInput
from ledger.events import Ending, Event, Refused
from ledger.fields import dump, load
from ledger.identity import ProcessIdentity
from ledger.requests import NodeSpec
from ledger.step import settle_due
from tests.scenario import PROCESS, SECOND, Scenario, kinds

LONG = 10**6


def box(nodes: dict[str, Any] | None = None, **policy: object) -> Scenario:
    """A fair pool ``box``; by default of one node with 8 cores and 4 cards."""
    s = Scenario()
    s.pool(policy=dict(policy), **(nodes or {"n1": {"cpu": 8, "gpu": 4000}}))
    return s


def state(s: Scenario, allocation: str) -> str:
    folded = s.fold(allocation)
    assert folded is not None
    return folded.state


def claims(s: Scenario) -> dict[str, str]:
    return s.book.pools["box"].space.claims


def resize(s: Scenario, **nodes: dict[str, int]) -> list[Event]:
    specs = tuple(NodeSpec(name, capacity) for name, capacity in nodes.items())
    return s.when(ResizePool(command_id=s.next_id(), pool="box", nodes=specs))


def policy(s: Scenario, **settings: object) -> list[Event]:
    return s.when(SetPolicy(command_id=s.next_id(), pool="box", policy=dict(settings)))


# --- claims that cannot help any more ----------------------------------------------------------------


def test_a_claim_on_a_node_that_became_too_small_is_given_up_and_bars_nobody() -> None:
    s = box(overtakes_max=0)
    s.got({"cpu": 4}, ttl=LONG)
    s.waits({"cpu": 8}, holder="large", wait=LONG)
    s.ask({"cpu": 1}, holder="x")
    assert list(claims(s)) == ["n1"]
    resize(s, n1={"cpu": 6})
    assert claims(s) == {}
    assert s.got({"cpu": 2}, holder="small")


def test_a_claimant_that_its_own_quota_holds_up_bars_nobody() -> None:
    s = box(overtakes_max=0)
    s.got({"cpu": 4}, holder="b", ttl=LONG)
    s.waits({"cpu": 8}, holder="a", wait=LONG)
    s.ask({"cpu": 1}, holder="x")
    assert list(claims(s)) == ["n1"]
    s.quota({"cpu": 7}, holder="a")
    assert claims(s) == {}
    assert s.got({"cpu": 4}, holder="b")


def test_claims_of_the_fair_order_hold_up_nobody_once_the_order_is_strict() -> None:
    s = Scenario()
    s.pool(
        policy={"overtakes_max": 0},
        n1=NodeSpec("n1", {"cpu": 4}, {"z": "a"}),
        n2=NodeSpec("n2", {"cpu": 4}),
    )
    held = s.got({"cpu": 4}, ttl=LONG)
    s.got({"cpu": 4}, ttl=LONG)
    first = s.waits({"cpu": 4}, holder="first", wait=LONG, select={"z": "a"})
    s.quota({"cpu": 3}, holder="first")
    s.when(CordonNode(command_id="c", pool="box", node="n2"))
    second = s.waits({"cpu": 4}, holder="second", wait=LONG)
    s.ask({"cpu": 1}, holder="x")
    assert claims(s) == {"n1": second}
    s.quota({}, holder="first")
    policy(s, order="fifo")
    s.release(held)
    assert state(s, first) == "active"


def test_sending_away_never_takes_a_node_from_another_claimant() -> None:
    s = box(overtakes_max=0, preemption="lower_priority")
    s.got({"cpu": 6, "gpu": 4000}, holder="v", priority="high", ttl=LONG)
    cards = s.waits({"gpu": 4000}, holder="cards", priority="high", wait=LONG)
    s.got({"cpu": 1}, holder="x", priority="low", ttl=LONG)
    assert claims(s) == {"n1": cards}
    s.waits({"cpu": 2}, holder="boss", priority="critical", wait=LONG)
    assert claims(s) == {"n1": cards}
    assert dump(load(dump(s.book))) == dump(s.book)
    assert load(dump(s.book)).pools["box"].space.claims == claims(s)


# --- the order, and who is passed over -----------------------------------------------------------------


def test_requests_blocked_by_quota_take_no_place_in_what_one_pass_looks_at() -> None:
    s = box(backfill_depth=2)
    s.quota({"cpu": 1}, holder="a")
    held = s.got({"cpu": 7}, holder="b")
    s.got({"cpu": 1}, holder="a", ttl=LONG)
    for _ in range(5):
        s.waits({"cpu": 1}, holder="a", wait=LONG)
    behind = s.waits({"cpu": 2}, holder="c", wait=LONG)
    s.release(held, who="b")
    assert state(s, behind) == "active"


def test_many_of_one_need_that_fit_nowhere_hold_up_nobody_behind_them() -> None:
    s = box(backfill_depth=2)
    s.got({"gpu": 4000}, ttl=LONG)
    held = s.got({"cpu": 8})
    for number in range(5):
        s.waits({"gpu": 1000}, holder=f"g{number}", wait=LONG)
    behind = s.waits({"cpu": 2}, holder="c", wait=LONG)
    s.release(held)
    assert state(s, behind) == "active"


def test_a_request_beyond_what_one_pass_tries_is_served_once_it_has_waited_long() -> None:
    nodes = {"n1": {"cpu": 8, "gpu": 4000}, "n2": {"cpu": 8}}
    s = box(nodes, backfill_depth=2, claim_after_ns=60 * SECOND, overtakes_max=10_000)
    s.got({"cpu": 8, "gpu": 4000}, ttl=LONG)
    held = s.got({"cpu": 8})
    for cards in (1000, 2000, 3000):
        s.waits({"gpu": cards}, holder=f"g{cards}", wait=LONG)
    behind = s.waits({"cpu": 2}, holder="c", wait=LONG)
    s.release(held)
    assert state(s, behind) == "waiting"
    s.later(60)
    s.ask({"gpu": 1000}, holder="x")
    assert state(s, behind) == "active"


def test_a_batch_overtakes_no_more_than_single_requests_may() -> None:
    s = box(overtakes_max=2)
    s.got({"cpu": 2}, ttl=LONG)
    large = s.waits({"cpu": 8}, holder="large", wait=LONG)
    items = tuple(s.request({"cpu": 1}, holder="many") for _ in range(6))
    s.when(AllocateBatch(command_id="b", items=items))
    assert kinds(list(s.own)) == ["allocated"] * 2 + ["refused"] * 4
    assert claims(s) == {"n1": large}


def test_a_high_request_may_send_away_though_an_aged_low_one_of_the_same_need_comes_first() -> None:
    s = box(preemption="lower_priority", ageing_ns=SECOND, claim_after_ns=2**61)
    victim = s.got({"cpu": 8}, holder="v", priority="normal", ttl=LONG)
    s.waits({"cpu": 8}, holder="old", priority="low", wait=LONG)
    s.later(100)
    s.waits({"cpu": 8}, holder="boss", priority="high", wait=LONG)
    assert s.book.allocations[victim].state == "ending"


def test_in_strict_order_a_gang_holds_up_who_wants_any_of_what_it_wants() -> None:
    s = box(order="fifo")
    cpu = s.got({"cpu": 8}, ttl=LONG)
    gpu = s.got({"gpu": 4000}, ttl=LONG)
    items = tuple(s.request(each, wait=LONG, holder="g") for each in ({"cpu": 8}, {"gpu": 4000}))
    s.when(AllocateBatch(command_id="b", items=items, atomic=True))
    late = s.waits({"gpu": 1000}, holder="late", wait=LONG)
    s.release(gpu)
    assert state(s, late) == "waiting"
    s.release(cpu)
    assert [state(s, e.allocation or "") for e in s.events if e.cause and e.cause.items] == [
        "active",
        "active",
    ]


def test_in_strict_order_nobody_passes_one_that_is_itself_held_up() -> None:
    s = box(order="fifo")
    s.got({"cpu": 8}, ttl=LONG)
    gpu = s.got({"gpu": 4000}, ttl=LONG)
    s.waits({"cpu": 1}, holder="a", wait=LONG)
    both = s.waits({"cpu": 1, "gpu": 4000}, holder="b", wait=LONG)
    late = s.waits({"gpu": 1000}, holder="c", wait=LONG)
    s.release(gpu)
    assert [state(s, each) for each in (both, late)] == ["waiting", "waiting"]


# --- quotas ------------------------------------------------------------------------------------------


def test_a_release_in_one_pool_serves_who_was_held_up_by_a_quota_over_all_pools() -> None:
    s = box()
    s.pool("bag", m1={"cpu": 8})
    s.quota({"cpu": 4})
    held = s.got({"cpu": 4})
    waiting = s.waits({"cpu": 4}, pool="bag")
    s.release(held)
    assert state(s, waiting) == "active"


def test_a_transfer_serves_who_was_held_up_by_the_givers_quota() -> None:
    s = box()
    s.quota({"cpu": 4}, holder="h1")
    held = s.got({"cpu": 4}, ttl=LONG)
    waiting = s.waits({"cpu": 4}, wait=LONG)
    s.on(Transfer, held, to_holder="h2")
    assert state(s, waiting) == "active"


def test_a_gang_of_several_holders_counts_each_against_its_own_quota() -> None:
    s = box()
    s.quota({"cpu": 4}, holder="a")
    s.quota({"cpu": 4}, holder="b")
    held = s.got({"cpu": 8}, holder="c")
    fits = tuple(s.request({"cpu": 3}, wait=LONG, holder=who) for who in ("a", "b"))
    s.when(AllocateBatch(command_id="b1", items=fits, atomic=True))
    assert kinds(list(s.own)) == ["queued"] * 2
    gang = [e.allocation or "" for e in s.own]
    s.release(held, who="c")
    assert [state(s, each) for each in gang] == ["active"] * 2
    never = tuple(s.request({"cpu": n}, wait=LONG, holder="b") for n in (3, 2))
    s.when(AllocateBatch(command_id="b2", items=never, atomic=True))
    assert kinds(list(s.own)) == ["refused"]


def test_a_tenant_is_not_sent_below_its_own_quota_to_give_back_what_it_borrowed() -> None:
    s = box(nodes={"n1": {"cpu": 8}}, grace_ns=10 * SECOND)
    for tenant in ("ann", "bob"):
        command = SetQuota(command_id=tenant, tenant=tenant, limits={"cpu": 6}, cohort="c")
        s.when(command)
    mine = [s.got({"cpu": 4}, tenant="ann", ttl=LONG) for _ in range(2)]
    s.waits({"cpu": 6}, tenant="bob", wait=LONG)
    assert [s.book.allocations[each].state for each in mine] == ["active", "active"]
    s.waits({"cpu": 4}, tenant="bob", wait=LONG)
    assert [s.book.allocations[each].state for each in mine] == ["active", "ending"]


def test_what_is_given_back_already_is_not_asked_for_twice() -> None:
    s = box(nodes={"n1": {"cpu": 4}, "n2": {"cpu": 4}}, grace_ns=10 * SECOND)
    for tenant in ("ann", "bob"):
        command = SetQuota(command_id=tenant, tenant=tenant, limits={"cpu": 4}, cohort="c")
        s.when(command)
    mine = [s.got({"cpu": 4}, tenant="ann", ttl=LONG) for _ in range(2)]
    s.waits({"cpu": 2}, tenant="bob", wait=LONG)
    s.waits({"cpu": 2}, tenant="bob", wait=LONG)
    assert sorted(s.book.allocations[each].state for each in mine) == ["active", "ending"]


# --- sending away ------------------------------------------------------------------------------------


def test_being_asked_to_go_lengthens_no_lease() -> None:
    s = box(preemption="lower_priority", grace_ns=1000 * SECOND)
    victim = s.got({"cpu": 8}, holder="v", priority="low", ttl=20)
    s.waits({"cpu": 8}, holder="boss", priority="high", wait=LONG)
    ending = next(e.body for e in s.events if isinstance(e.body, Ending))
    assert ending.deadline <= s.now + 20 * SECOND
    s.later(20)
    s.settle()
    assert state(s, victim) == "ended"


def test_nobody_is_sent_away_where_those_who_are_going_already_make_room() -> None:
    s = box(nodes={"n1": {"cpu": 4}, "n2": {"cpu": 4}}, preemption="lower_priority")
    both = [s.got({"cpu": 4}, holder="v", priority="low", ttl=LONG) for _ in range(2)]
    gone = s.waits({"cpu": 4}, holder="boss", priority="high", wait=5)
    s.later(6)
    s.settle()
    assert state(s, gone) == "ended"
    heir = s.waits({"cpu": 4}, holder="heir", priority="high", wait=LONG)
    assert sorted(s.book.allocations[each].state for each in both) == ["active", "ending"]
    s.later(30)
    s.settle()
    assert state(s, heir) == "active"


def test_a_reservation_can_be_sent_away_once_it_is_confirmed() -> None:
    s = box(preemption="lower_priority")
    held = s.got({"cpu": 8}, holder="v", priority="low", ttl=LONG, reserve_ns=100 * SECOND)
    s.waits({"cpu": 8}, holder="boss", priority="high", wait=LONG)
    assert s.book.allocations[held].state == "reserved"
    s.on(Confirm, held, who="v")
    assert s.book.allocations[held].state == "ending"


# --- what draws on another -----------------------------------------------------------------------------


def test_an_elastic_allocation_is_not_shrunk_below_what_draws_on_it() -> None:
    s = box()
    parent = s.got({"cpu": 2}, most={"cpu": 8}, ttl=LONG)
    child = s.got({"cpu": 7}, parent=parent, ttl=LONG)
    assert s.refused({"cpu": 4}, holder="other").reason == "insufficient_capacity"
    assert s.book.allocations[parent].amounts == {"cpu": 8}
    s.release(child)
    assert s.got({"cpu": 4}, holder="other")


def test_an_adjust_that_does_not_fit_in_its_parent_is_refused_and_not_a_fault() -> None:
    s = box()
    parent = s.got({"cpu": 4}, ttl=LONG)
    child = s.got({"cpu": 2}, parent=parent, ttl=LONG)
    sibling = s.got({"cpu": 2}, parent=parent, ttl=LONG)
    (event,) = s.on(Adjust, child, amounts={"cpu": 3})
    assert isinstance(event.body, Refused)
    assert event.body.reason == "insufficient_capacity"
    assert [blocker["allocation"] for blocker in event.body.blockers] == [sibling]


def test_a_card_that_is_lent_stays_with_its_lender_when_that_gives_cards_back() -> None:
    s = box()
    parent = s.got({"gpu": 3000}, ttl=LONG)
    first, second, third = (s.got({"gpu": 1000}, parent=parent, ttl=LONG) for _ in range(3))
    s.release(first)
    s.release(second)
    on_card = s.book.allocations[third].placements[0].devices
    assert on_card == {"gpu": {"2": 1000}}
    s.on(Adjust, parent, amounts={"gpu": 1000})
    assert s.book.allocations[parent].placements[0].devices == on_card


def test_a_lender_keeps_as_many_cards_as_its_children_stand_on() -> None:
    s = box()
    parent = s.got({"gpu": 2000}, ttl=LONG)
    large = s.got({"gpu": 600}, parent=parent, ttl=LONG)
    s.got({"gpu": 600}, parent=parent, ttl=LONG)
    s.got({"gpu": 300}, parent=parent, ttl=LONG)
    s.release(large)
    (event,) = s.on(Adjust, parent, amounts={"gpu": 1000})
    assert isinstance(event.body, Refused)


def test_what_is_asked_to_end_lends_nothing_more() -> None:
    s = box()
    parent = s.got({"cpu": 4}, process=PROCESS)
    child = s.got({"cpu": 2}, parent=parent, ttl=LONG)
    waiting = s.waits({"cpu": 3}, parent=parent, wait=LONG)
    operator = Claim("ops", operator=True)
    s.on(Reclaim, parent, claim=operator, cause="forced", process_alive=True)
    assert s.refused({"cpu": 1}, parent=parent).reason == "no_such_allocation"
    again = load(dump(s.book))
    assert dump(again) == dump(s.book)
    s.release(child)
    assert state(s, waiting) == "waiting"


def test_closing_a_pool_tells_those_too_who_wait_to_draw_on_something_in_it() -> None:
    s = box()
    parent = s.got({"cpu": 4}, ttl=LONG)
    s.got({"cpu": 4}, parent=parent, ttl=LONG)
    waiting = s.waits({"cpu": 1}, parent=parent, wait=LONG)
    elastic = s.got({"cpu": 2}, most={"cpu": 8}, ttl=LONG)
    s.on(Adjust, parent, amounts={"cpu": 4})
    s.when(ClosePool(command_id="close", pool="box"))
    assert state(s, waiting) == "ended"
    (event,) = s.on(Adjust, parent, amounts={"cpu": 5})
    assert isinstance(event.body, Refused)
    before = s.book.allocations[elastic].amounts
    s.release(parent)
    assert s.book.allocations[elastic].amounts == before


def test_nothing_that_draws_on_another_ends_before_it_began() -> None:
    s = box()
    parent = s.got({"cpu": 4}, process=PROCESS)
    crashed = s.now
    s.later(100)
    child = s.got({"cpu": 2}, parent=parent, ttl=LONG)
    operator = Claim("sweep", operator=True)
    s.on(Reclaim, parent, claim=operator, cause="crashed", happened_at=crashed)
    ended = s.fold(child)
    assert ended is not None and ended.ended_at is not None and ended.granted_at is not None
    assert ended.ended_at >= ended.granted_at


# --- budgets -----------------------------------------------------------------------------------------


def budget(kind: str = "managed", **policy: object) -> Scenario:
    s = Scenario()
    settings = {"refill": "reset", "refill_every_ns": 100 * SECOND, **policy}
    api = (NodeSpec("api", {"tokens": 1000}),)
    s.when(
        OpenPool(command_id="o", pool="api", nodes=api, kind=kind, consumable=True, policy=settings)
    )
    return s


def free(s: Scenario) -> int:
    node = s.book.pools["api"].space.nodes["api"]
    return node.capacity["tokens"] - node.in_use.get("tokens", 0)


def test_what_expired_before_a_refill_is_refilled_whether_or_not_anybody_came_by() -> None:
    for came_by in (True, False):
        s = budget()
        s.got({"tokens": 400}, pool="api", ttl=50)
        if came_by:
            s.later(60)
            s.settle()
        s.later(150 - 60 * came_by)
        s.settle()
        assert free(s) == 1000, came_by


def test_what_expires_between_two_refills_is_spent_in_its_own_period() -> None:
    s = budget()
    s.got({"tokens": 400}, pool="api", ttl=150)
    s.later(180)
    s.settle()
    assert free(s) == 600
    s.later(1000)
    s.settle()
    assert free(s) == 1000
    s = budget()
    s.got({"tokens": 400}, pool="api", ttl=150)
    s.later(1180)
    s.settle()
    assert free(s) == 1000
    refills = [e for e in s.events if e.type in ("replenished", "expired")]
    assert all(one.at <= other.at for one, other in pairwise(refills))


def test_what_is_drawn_on_another_is_settled_once_with_that_one() -> None:
    s = budget()
    parent = s.got({"tokens": 1000}, pool="api", ttl=90)
    child = s.got({"tokens": 500}, pool="api", parent=parent, ttl=80)
    s.on(Release, child, consumed={"tokens": 100})
    assert free(s) == 0
    s.on(Release, parent, consumed={"tokens": 100})
    assert free(s) == 900


def test_what_is_given_back_after_it_was_asked_to_end_is_settled_too() -> None:
    for consumed, left in ((None, 600), ({"tokens": 100}, 900), ({"tokens": 1100}, -100)):
        s = budget()
        held = s.got({"tokens": 400}, pool="api", process=PROCESS)
        operator = Claim("ops", operator=True)
        s.on(Reclaim, held, claim=operator, cause="forced", process_alive=True)
        (event,) = s.on(Release, held, consumed=consumed)
        assert event.type == "reclaimed"
        assert ("consumed" in encode_body(event.body)) == (consumed is not None)
        assert free(s) == left
        assert load(dump(s.book)).pools["api"].spent == s.book.pools["api"].spent


def test_a_budget_takes_no_second_node() -> None:
    s = budget()
    node = NodeSpec("more", {"tokens": 5})
    (event,) = s.when(JoinNode(command_id="j", pool="api", node=node))
    assert isinstance(event.body, Refused)


def test_only_managed_budgets_are_refilled() -> None:
    with pytest.raises(InvalidInput):
        budget(kind="observed")
    s = box()
    with pytest.raises(InvalidInput):
        policy(s, refill="reset", refill_every_ns=10 * SECOND)


def test_a_schedule_may_begin_in_the_future_and_may_be_moved() -> None:
    start = 1_500 * SECOND
    s = budget(refill_from=start)
    assert s.book.pools["api"].next_refill == start
    s.got({"tokens": 1000}, pool="api", ttl=10)
    s.later(400)
    assert s.settle() and free(s) == 0
    s.later(100)
    s.settle()
    assert free(s) == 1000
    moved = {"refill_from": s.now + 7 * SECOND}
    s.when(SetPolicy(command_id="p", pool="api", policy=moved))
    assert s.book.pools["api"].next_refill == moved["refill_from"]
    assert load(dump(s.book)).pools["api"].next_refill == moved["refill_from"]


# --- elastic requests --------------------------------------------------------------------------------


def test_who_waited_is_granted_the_least_while_others_wait_for_the_rest() -> None:
    s = box()
    held = s.got({"cpu": 8})
    elastic = s.waits({"cpu": 2}, most={"cpu": 8}, wait=LONG)
    spread = s.waits({"cpu": 6}, holder="h2", wait=LONG)
    events = s.release(held)
    assert kinds(events) == ["released", "allocated", "allocated"]
    assert s.book.allocations[elastic].amounts == {"cpu": 2}
    assert state(s, spread) == "active"


def test_an_over_committed_node_is_shrunk_by_what_it_holds_too_much_as_well() -> None:
    s = box()
    elastic = s.got({"cpu": 1}, most={"cpu": 7}, ttl=LONG)
    small = s.got({"cpu": 1}, most={"cpu": 4}, ttl=LONG, wait=None)
    resize(s, n1={"cpu": 4, "gpu": 4000})
    assert s.in_use("n1", "cpu") == 8
    assert s.got({"cpu": 2}, holder="other", ttl=LONG)
    assert s.in_use("n1", "cpu") == 4
    assert [s.book.allocations[each].amounts for each in (elastic, small)] == [{"cpu": 1}] * 2
    assert s.refused({"cpu": 1}, holder="third").reason == "insufficient_capacity"


def test_what_is_stretched_takes_what_the_quota_leaves() -> None:
    s = box()
    s.quota({"cpu": 5})
    assert s.book.allocations[s.got({"cpu": 2}, most={"cpu": 8})].amounts == {"cpu": 5}


def test_a_holder_that_is_called_ledger_may_adjust_by_hand() -> None:
    s = box()
    elastic = s.got({"cpu": 2}, most={"cpu": 4}, holder="ledger", ttl=LONG)
    s.on(Adjust, elastic, who="ledger", amounts={"cpu": 1, "gpu": 1000})
    s.got({"cpu": 7}, holder="other", ttl=LONG)
    assert s.refused({"cpu": 2}, holder="third").reason == "insufficient_capacity"


# --- time, copies and stores -------------------------------------------------------------------------


def test_nothing_is_granted_to_those_whose_time_is_up_when_more_is_due_than_one_step_takes() -> (
    None
):
    s = box()
    s.got({"cpu": 4}, ttl=20)
    s.got({"cpu": 4}, ttl=21)
    waiting = [s.waits({"cpu": 4}, holder=f"w{n}", wait=30) for n in range(3)]
    s.later(100)
    while events := settle_due(s.book, s.now, limit=2):
        assert "allocated" not in kinds(events)
    assert not any(each in s.book.allocations for each in waiting)


def test_a_copy_of_the_book_can_settle_without_changing_who_waits_in_the_book() -> None:
    s = box()
    held = s.got({"cpu": 8}, ttl=LONG)
    waiting = s.waits({"cpu": 8}, wait=50)
    copy = s.book.fork()
    assert settle_due(copy, s.now + 100 * SECOND, grant=False)
    s.release(held)
    assert state(s, waiting) == "active"


def test_what_was_bound_to_a_process_and_got_a_ttl_can_be_renewed_by_it() -> None:
    s = box()
    held = s.got({"cpu": 1}, process=PROCESS)
    s.on(Transfer, held, to_holder="h2", ttl_ns=50 * SECOND)
    s.later(30)
    s.on(Renew, held, who="h2")
    assert s.book.allocations[held].lease_until == s.now + 50 * SECOND


def test_an_observed_pool_that_was_closed_can_be_opened_again_and_resized() -> None:
    s = Scenario()

    def open_seen() -> None:
        nodes = (NodeSpec("n1", {"cpu": 4}),)
        s.when(OpenPool(command_id=s.next_id(), pool="box", nodes=nodes, kind="observed"))

    open_seen()
    s.when(ClosePool(command_id="c", pool="box"))
    assert [pool.closed for pool in s.book.pools.values()] == [True]
    open_seen()
    assert [pool.closed for pool in s.book.pools.values()] == [False]
    resize(s, n1={"cpu": 9})
    assert s.book.pools["box"].space.nodes["n1"].capacity == {"cpu": 9}


def test_a_refusal_names_the_same_resource_whether_the_book_was_read_back_or_not() -> None:
    s = box()
    s.quota({"gpu": 1000, "cpu": 1}, holder="a")
    again = load(dump(s.book))
    said = s.refused({"gpu": 2000, "cpu": 2}, holder="a").message
    s.book = again
    assert s.refused({"gpu": 2000, "cpu": 2}, holder="a").message == said


def test_an_answered_duplicate_is_the_oldest_one_also_after_a_transfer() -> None:
    s = box(duplicates="allow")
    moved = s.got({"cpu": 1}, task="t", holder="h2", ttl=LONG)
    s.got({"cpu": 1}, task="t", ttl=LONG)
    s.on(Transfer, moved, who="h2", to_holder="h1")
    policy(s, duplicates="refuse")
    assert moved in s.refused({"cpu": 1}, task="t").message


# --- who alone waits for a request ---------------------------------------------------------------------


def test_a_place_for_which_only_a_dead_process_waited_is_given_up_with_evidence() -> None:
    s = box()
    s.got({"cpu": 8}, ttl=LONG)
    waiting = asked_by(s, PROCESS, {"cpu": 1})
    assert s.book.allocations[waiting].asker == PROCESS
    assert load(dump(s.book)).allocations[waiting].asker == PROCESS
    sweep = Claim("sweep", operator=True)
    events = s.on(
        Reclaim, waiting, claim=sweep, cause="crashed", asker=PROCESS, evidence={"pid": 4242}
    )
    assert kinds(events) == ["withdrawn"]
    ended = s.fold(waiting)
    assert ended is not None
    assert (ended.state, ended.ended_by) == ("ended", "crashed")


def test_a_place_that_somebody_else_waits_for_now_is_not_given_up() -> None:
    s = box(overtakes_max=0)
    held = s.got({"cpu": 8}, ttl=LONG)
    waiting = asked_by(s, PROCESS, {"cpu": 8})
    s.ask({"cpu": 1}, holder="x")
    assert claims(s) == {"n1": waiting}
    other = Claim("other", operator=True)
    assert kinds(s.on(Await, waiting, claim=other)) == ["queued"]
    assert s.book.allocations[waiting].asker is None
    assert claims(s) == {"n1": waiting}
    assert s.on(Await, waiting, claim=other) == []
    sweep = Claim("sweep", operator=True)
    (event,) = s.on(Reclaim, waiting, claim=sweep, cause="crashed", asker=PROCESS)
    assert isinstance(event.body, Refused)
    s.release(held)
    assert state(s, waiting) == "active"


def test_a_claim_keeps_who_alone_waits_for_a_request() -> None:
    s = box(overtakes_max=0)
    s.got({"cpu": 4}, ttl=LONG)
    waiting = asked_by(s, PROCESS, {"cpu": 8})
    s.ask({"cpu": 1}, holder="x")
    assert claims(s) == {"n1": waiting}
    assert s.book.allocations[waiting].asker == PROCESS


def test_what_was_granted_meanwhile_is_not_taken_from_a_process_that_only_asked() -> None:
    s = box()
    held = s.got({"cpu": 8}, ttl=LONG)
    waiting = asked_by(s, PROCESS, {"cpu": 1})
    s.release(held)
    sweep = Claim("sweep", operator=True)
    (event,) = s.on(Reclaim, waiting, claim=sweep, cause="crashed", asker=PROCESS)
    assert isinstance(event.body, Refused)
    assert state(s, waiting) == "active"


def test_who_asks_is_no_part_of_what_is_asked_and_no_item_of_a_batch_has_one() -> None:
    s = box()
    command = s.request({"cpu": 1}, wait=LONG)
    assert content_digest(command) == content_digest(replace(command, asker=PROCESS))
    items = (replace(command, asker=PROCESS),)
    with pytest.raises(InvalidInput):
        s.when(AllocateBatch(command_id="b", items=items))


def asked_by(s: Scenario, process: ProcessIdentity, amounts: dict[str, int]) -> str:
    """The id of a request that waits, and that this process alone waits for."""
    s.when(replace(s.request(amounts, wait=LONG), asker=process))
    (event,) = s.own
    assert event.type == "queued"
    return event.allocation or ""


# --- a maximum age for what was bound to a process ---------------------------------------------------


def test_what_gets_a_ttl_after_a_process_has_the_maximum_age_from_its_grant_on() -> None:
    s = box(max_age_ns=100 * SECOND)
    held = s.got({"cpu": 1}, process=PROCESS)
    granted_at = s.now
    s.later(60)
    s.on(Transfer, held, to_holder="h2", ttl_ns=LONG * SECOND)
    a = s.book.allocations[held]
    assert a.lease_until == a.max_age_until == granted_at + 100 * SECOND
    folded = s.fold(held)
    assert folded is not None
    assert folded.max_age_until == a.max_age_until
    (event,) = s.on(Renew, held, who="h2")
    assert isinstance(event.body, Refused)
    assert event.body.reason == "max_age_reached"


def test_what_has_its_maximum_age_behind_it_gets_no_ttl_but_another_process() -> None:
    s = box(max_age_ns=100 * SECOND)
    held = s.got({"cpu": 1}, process=PROCESS)
    s.later(200)
    (event,) = s.on(Transfer, held, to_holder="h2", ttl_ns=SECOND)
    assert isinstance(event.body, Refused)
    assert event.body.reason == "max_age_reached"
    assert state(s, held) == "active"
    s.on(Transfer, held, to_holder="h2", process=PROCESS)
    assert s.book.allocations[held].holder == "h2"
