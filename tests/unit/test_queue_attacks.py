"""Attacks on batches, spreads, elastic requests and budgets: what a person is told, and what heals."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.commands import AllocateBatch, Claim, CordonNode, OpenPool, Reclaim, SetPolicy, SetQuota
from ledger.errors import InvalidInput
from ledger.events import AlertRaised, Allocated, Event, Refused
from ledger.fields import dump, load
from ledger.requests import NodeSpec
from ledger.rules.prospects import prospect
from tests.scenario import SECOND, Scenario, kinds

LONG = 10**6


def box(**policy: object) -> Scenario:
    """A pool ``box`` of two nodes with four cores each."""
    s = Scenario()
    s.pool(policy=dict(policy), n1={"cpu": 4}, n2={"cpu": 4})
    return s


def batch(s: Scenario, *amounts: dict[str, int], **more: Any) -> list[Event]:
    """Ask for an atomic batch that may wait; its own events."""
    given = {"wait": LONG, "holder": "gang", "ttl": LONG, **more}
    items = tuple(s.request(each, **given) for each in amounts)
    s.when(AllocateBatch(command_id=s.next_id(), items=items, atomic=True))
    return list(s.own)


def refusal(events: list[Event]) -> Refused:
    (event,) = events
    assert isinstance(event.body, Refused), event
    return event.body


def state(s: Scenario, allocation: str | None) -> str:
    folded = s.fold(allocation or "")
    assert folded is not None
    return folded.state


# --- batches: why not --------------------------------------------------------------------------------


def test_a_batch_that_fits_no_empty_pool_is_told_so_and_not_to_wait() -> None:
    s = box()
    told = refusal(batch(s, {"cpu": 3}, {"cpu": 3}, {"cpu": 3}))
    assert told.reason == "exceeds_pool"
    assert "--wait" not in told.hint


def test_a_batch_is_told_which_of_its_items_can_never_be_granted() -> None:
    s = box()
    s.got({"cpu": 4}, ttl=LONG)
    s.got({"cpu": 4}, ttl=LONG)
    told = refusal(batch(s, {"cpu": 1}, {"cpu": 5}))
    assert told.reason == "exceeds_pool"
    assert "item 1" in told.message


def test_a_batch_that_together_is_beyond_its_quota_is_told_so() -> None:
    s = box()
    s.quota({"cpu": 3}, holder="gang")
    told = refusal(batch(s, {"cpu": 2}, {"cpu": 2}))
    assert told.reason == "quota_exceeded"


def test_a_batch_that_finds_the_queue_full_is_told_so() -> None:
    s = box(queue_limit=1)
    s.got({"cpu": 4}, ttl=LONG)
    s.got({"cpu": 4}, ttl=LONG)
    told = refusal(batch(s, {"cpu": 1}, {"cpu": 1}))
    assert told.reason == "queue_full"


# --- duplicates --------------------------------------------------------------------------------------


def test_a_batch_with_a_duplicate_is_refused_where_duplicates_are_and_does_not_wait() -> None:
    s = box(duplicates="refuse")
    s.got({"cpu": 1}, holder="gang", task="t", ttl=LONG)
    told = refusal(batch(s, {"cpu": 1}, {"cpu": 2}, task="t"))
    assert told.reason == "duplicate_request"
    assert not s.book.pools["box"].space.waiting


@pytest.mark.parametrize("atomic", [True, False])
def test_the_items_of_one_batch_are_no_duplicates_of_each_other(atomic: bool) -> None:
    s = box(duplicates="refuse")
    items = tuple(s.request({"cpu": 1}, task="t", holder="gang") for _ in range(3))
    s.when(AllocateBatch(command_id="b", items=items, atomic=atomic))
    assert kinds(list(s.own)) == ["allocated"] * 3
    assert s.refused({"cpu": 1}, task="t", holder="gang").reason == "duplicate_request"


# --- what is told of spreads -------------------------------------------------------------------------


def test_a_spread_is_told_what_one_of_its_parts_lacks() -> None:
    s = box()
    s.got({"cpu": 3}, ttl=LONG)
    told = s.refused({"cpu": 8}, spread=2, holder="h2")
    assert told.shortfall == {"n1": {"cpu": 3}}
    assert [each["amounts"] for each in told.blockers] == [{"cpu": 3}]


def test_what_can_be_told_of_a_spread_that_waits_goes_by_its_parts() -> None:
    s = box()
    s.got({"cpu": 3}, ttl=100)
    waiting = s.waits({"cpu": 8}, spread=2, holder="h2", wait=LONG)
    told = prospect(s.book, s.book.allocations[waiting], s.now)
    assert told.shortfall == {"n1": {"cpu": 3}}
    assert [each["amounts"] for each in told.blockers] == [{"cpu": 3}]


def test_a_spread_over_as_few_nodes_as_it_takes_claims_them_and_is_told_what_they_lack() -> None:
    s = box(overtakes_max=0)
    s.got({"cpu": 3}, ttl=LONG)
    s.got({"cpu": 2}, ttl=LONG)
    waiting = s.waits({"cpu": 8}, spread=0, holder="h2", wait=LONG)
    assert s.refused({"cpu": 1}, holder="x").reason == "reserved_for_waiting"
    told = prospect(s.book, s.book.allocations[waiting], s.now)
    assert told.shortfall == {"n1": {"cpu": 3}, "n2": {"cpu": 2}}
    assert s.book.pools["box"].space.claims == {"n1": waiting, "n2": waiting}


# --- elastic members ---------------------------------------------------------------------------------


def test_what_is_stretched_is_shrunk_for_shares_of_cards_that_need_a_card_each() -> None:
    s = Scenario()
    s.pool(n1={"gpu": 4000})
    elastic = s.got({"gpu": 1000}, most={"gpu": 4000}, ttl=LONG)
    batch(s, {"gpu": 600}, {"gpu": 600}, {"gpu": 600})
    assert s.book.allocations[elastic].amounts == {"gpu": 1000}
    assert sum(a.holder == "gang" and a.state == "active" for a in s.book.allocations.values()) == 3


def test_a_gang_whose_parts_fit_in_one_order_only_is_made_room_for_on_a_node() -> None:
    s = Scenario()
    s.pool(n1={"gpu": 3000})
    s.got({"gpu": 400}, ttl=LONG)
    elastic = s.got({"gpu": 1000}, most={"gpu": 2000}, ttl=LONG)
    events = batch(s, {"gpu": 400}, {"gpu": 600}, {"gpu": 600})
    assert [state(s, e.allocation) for e in events] == ["active"] * 3
    assert s.book.allocations[elastic].amounts == {"gpu": 1000}


def test_a_gang_sends_others_away_where_its_parts_fit_in_one_order_only() -> None:
    s = Scenario()
    s.pool(policy={"preemption": "lower_priority", "grace_ns": 0}, n1={"gpu": 2000})
    s.got({"gpu": 400}, ttl=LONG, priority="high")
    victim = s.got({"gpu": 1000}, ttl=LONG, priority="low", holder="v")
    events = batch(s, {"gpu": 400}, {"gpu": 600}, {"gpu": 600}, priority="high")
    assert state(s, victim) == "ended"
    assert [state(s, e.allocation) for e in events] == ["active"] * 3


# --- alerts, estimates -------------------------------------------------------------------------------


def test_a_circle_of_holders_with_long_names_is_reported_once() -> None:
    s = Scenario()
    s.pool(left={"cpu": 2})
    s.pool("bag", right={"disk": 2})
    ann, bob = "a" * 120, "b" * 120
    s.got({"cpu": 2}, holder=ann, ttl=LONG)
    s.got({"disk": 2}, pool="bag", holder=bob, ttl=LONG)
    s.waits({"disk": 1}, pool="bag", holder=ann)
    s.waits({"cpu": 1}, holder=bob)
    s.waits({"cpu": 1}, holder=bob)
    assert sum(isinstance(e.body, AlertRaised) for e in s.events) == 1


def test_who_waits_for_cordoned_nodes_waits_for_nobody() -> None:
    s = box()
    s.got({"cpu": 4}, holder="ann", ttl=LONG)
    for node in ("n1", "n2"):
        s.when(CordonNode(command_id=node, pool="box", node=node))
    s.waits({"cpu": 1}, holder="ann")
    assert not s.book.alerts


def test_what_was_asked_to_end_is_reckoned_with_from_the_end_of_its_grace() -> None:
    s = box(preemption="lower_priority", grace_ns=30 * SECOND)
    for _ in range(2):
        s.got({"cpu": 4}, priority="low", ttl=LONG)
    waiting = s.waits({"cpu": 4}, holder="boss", priority="high", wait=LONG)
    told = prospect(s.book, s.book.allocations[waiting], s.now)
    assert told.eta_ns == 30 * SECOND
    assert told.basis is not None


# --- quotas and budgets ------------------------------------------------------------------------------


def test_a_holders_quota_is_no_part_of_a_cohort_and_says_so() -> None:
    s = box()
    with pytest.raises(InvalidInput, match="cohort"):
        s.when(SetQuota(command_id="q", limits={"cpu": 1}, holder="h1", cohort="c"))
    with pytest.raises(InvalidInput, match="cohort"):
        s.when(SetQuota(command_id="q", limits={}, cohort="c"))


def api(s: Scenario, **policy: object) -> None:
    nodes = (NodeSpec("api", {"tokens": 1000}),)
    s.when(OpenPool(command_id="o", pool="api", nodes=nodes, consumable=True, policy=dict(policy)))


def left(s: Scenario) -> int:
    node = s.book.pools["api"].space.nodes["api"]
    return node.capacity["tokens"] - node.in_use.get("tokens", 0)


def test_a_schedule_that_began_before_its_pool_refills_nothing_of_that_time() -> None:
    s = Scenario()
    s.later(50_000)
    api(s, refill="reset", refill_every_ns=3600 * SECOND, refill_from=1)
    opened = s.now
    s.later(10)
    s.settle()
    assert "replenished" not in kinds(s.events)
    s.later(3600)
    (event,) = s.settle()
    assert event.type == "replenished"
    assert event.at > opened
    assert (event.at - 1) % (3600 * SECOND) == 0


def test_a_schedule_that_is_set_later_gives_nothing_for_the_time_before_it() -> None:
    s = Scenario()
    api(s)
    opened = s.book.pools["api"].opened_at
    s.release(s.got({"tokens": 1000}, pool="api"))
    s.later(35_000)
    policy = {"refill": "add", "refill_every_ns": 3600 * SECOND, "refill_amounts": {"tokens": 100}}
    s.when(SetPolicy(command_id="p", pool="api", policy=policy))
    s.settle()
    assert left(s) == 0
    s.later(3600)
    s.settle()
    assert left(s) == 100
    refills = [e for e in s.events if e.type == "replenished"]
    assert (refills[0].at - opened) % (3600 * SECOND) == 0
    again = load(dump(s.book))
    assert dump(again) == dump(s.book)


def test_a_quota_below_what_is_held_takes_nothing_and_heals() -> None:
    s = box()
    held = s.got({"cpu": 4}, ttl=LONG)
    s.quota({"cpu": 2})
    told = s.refused({"cpu": 1})
    assert told.reason == "quota_exceeded"
    assert told.shortfall == {"quota": {"cpu": 3}}
    waiting = s.waits({"cpu": 1}, wait=LONG)
    assert s.got({"cpu": 4}, tenant="other")
    s.release(held)
    assert state(s, waiting) == "active"


def test_grace_of_zero_and_a_process_that_stays_keep_the_node_until_it_is_gone() -> None:
    from tests.scenario import PROCESS

    s = box(preemption="lower_priority", grace_ns=0)
    first = s.got({"cpu": 4}, priority="low", process=PROCESS)
    s.got({"cpu": 4}, priority="high", ttl=LONG)
    boss = s.waits({"cpu": 4}, holder="boss", priority="high", wait=LONG)
    assert state(s, first) == "ending"
    assert s.in_use("n1", "cpu") == 4
    s.on(Reclaim, first, claim=Claim("sweep", operator=True), cause="crashed")
    assert state(s, boss) == "active"


def test_a_selector_that_matches_nothing_and_a_spread_beyond_the_pool_are_told_plainly() -> None:
    s = Scenario()
    s.pool(n1=NodeSpec("n1", {"cpu": 4}, {"zone": "a"}), n2=NodeSpec("n2", {"cpu": 4}))
    told = s.refused({"cpu": 1}, select={"zone": "b"}, wait=LONG)
    assert told.reason == "exceeds_pool"
    assert "zone" in told.message
    told = s.refused({"cpu": 3}, spread=3, wait=LONG)
    assert told.reason == "exceeds_pool"
    assert "3 nodes" in told.message
    body = s.ask({"cpu": 8}, spread=0).body
    assert isinstance(body, Allocated)
    assert len(body.placements) == 2


# --- why not, and when again -------------------------------------------------------------------------


def test_who_finds_a_budget_spent_is_told_when_it_is_refilled() -> None:
    s = Scenario()
    api(s, refill="reset", refill_every_ns=100 * SECOND)
    due = s.book.pools["api"].next_refill
    assert due is not None
    s.release(s.got({"tokens": 1000}, pool="api"))
    told = s.refused({"tokens": 10}, pool="api")
    assert told.shortfall == {"api": {"tokens": 10}}
    assert f"in {(due - s.now) // SECOND} s" in told.hint
    assert "refilled" in told.hint
    waiting = s.waits({"tokens": 10}, pool="api", wait=LONG)
    assert prospect(s.book, s.book.allocations[waiting], s.now).eta_ns == due - s.now


def test_an_overdraft_of_several_periods_and_additions_are_reckoned_with() -> None:
    s = Scenario()
    every = 100 * SECOND
    api(s, refill="add", refill_every_ns=every, refill_amounts={"tokens": 100})
    due = s.book.pools["api"].next_refill
    assert due is not None
    s.release(s.got({"tokens": 1000}, pool="api"))
    waiting = s.waits({"tokens": 250}, pool="api", wait=LONG)
    told = prospect(s.book, s.book.allocations[waiting], s.now)
    assert told.eta_ns == due + 2 * every - s.now
    s.later(300)
    s.settle()
    assert state(s, waiting) == "active"


def test_of_a_budget_that_is_never_refilled_or_is_reserved_no_time_is_told() -> None:
    s = Scenario()
    api(s)
    s.release(s.got({"tokens": 1000}, pool="api"))
    told = s.refused({"tokens": 1}, pool="api")
    assert "may fit" not in told.hint
    assert "pool resize" in told.hint
    s = Scenario()
    api(s, refill="reset", refill_every_ns=100 * SECOND)
    s.got({"tokens": 999}, pool="api", ttl=LONG)
    assert "may fit" not in s.refused({"tokens": 2}, pool="api").hint
