"""Claims and sending away where nodes leave, budgets are spent, and batches draw on what stretches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ledger.commands import (
    Adjust,
    AllocateBatch,
    Await,
    Claim,
    CordonNode,
    LeaveNode,
    ObserveCapacity,
    OpenPool,
    Reclaim,
    Withdraw,
)
from ledger.requests import NodeSpec
from tests.scenario import PROCESS, SECOND, Scenario, kinds

LONG = 10**6


# --- batches that draw on what stretches -------------------------------------------------------------


@pytest.mark.parametrize("lent_before", [False, True])
def test_a_batch_shrinks_nothing_that_another_of_its_items_draws_on(lent_before: bool) -> None:
    s = Scenario()
    s.pool(n1={"cpu": 8})
    whole = s.got({"cpu": 2}, most={"cpu": 8}, holder="e")
    if lent_before:
        s.release(s.got({"cpu": 1}, parent=whole, holder="c"), "c")
    items = (s.request({"cpu": 8}, parent=whole), s.request({"cpu": 4}))
    (event,) = s.when(AllocateBatch(command_id="b", items=items, atomic=True))
    assert event.type == "refused"
    assert s.in_use("n1", "cpu") == 8
    inside = s.got({"cpu": 8}, parent=whole)
    assert s.refused({"cpu": 4}).reason == "insufficient_capacity"
    s.release(inside)
    assert s.got({"cpu": 4})


# --- nodes that leave --------------------------------------------------------------------------------


def _claimed_by_sending_away(order: str) -> tuple[Scenario, str, str]:
    """Two full nodes, and one that waits with a claim on the node whose holder goes. It, and the other
    node's holder, which is a process."""
    s = Scenario()
    policy = {"order": order, "preemption": "lower_priority"}
    s.pool(policy=policy, n1={"cpu": 4}, n2={"cpu": 4})
    stays = s.got({"cpu": 4}, holder="b", priority="low", process=PROCESS)
    s.got({"cpu": 4}, holder="a", priority="low", ttl=100)
    s.when(replace(s.request({"cpu": 4}, holder="c", priority="high", wait=LONG), asker=PROCESS))
    waiting = s.own[0].allocation
    assert waiting is not None
    assert s.book.allocations[waiting].claims == ("n2",)
    s.when(CordonNode(command_id="cordon", pool="box", node="n2"))
    s.later(200)
    s.settle()
    return s, waiting, stays


@pytest.mark.parametrize("order", ["fair", "fifo"])
def test_a_claim_does_not_outlive_its_node(order: str) -> None:
    s, waiting, stays = _claimed_by_sending_away(order)
    s.when(LeaveNode(command_id="leave", pool="box", node="n2"))
    assert "n2" not in s.book.allocations[waiting].claims
    s.on(Await, waiting, "c")
    s.release(stays, "b")
    assert s.book.allocations[waiting].state == "active"


@pytest.mark.parametrize("order", ["fair", "fifo"])
def test_who_lost_its_node_to_a_cordon_asks_others_to_go(order: str) -> None:
    s, waiting, stays = _claimed_by_sending_away(order)
    s.refused({"cpu": 1}, holder="x")
    assert s.book.allocations[stays].state == "ending"
    assert s.book.allocations[waiting].claims == ("n1",)


def test_in_strict_order_a_claim_that_is_given_up_is_not_made_anew_by_age() -> None:
    s = Scenario()
    policy = {"order": "fifo", "preemption": "lower_priority", "overtakes_max": 0}
    s.pool(policy=policy, n1={"cpu": 4}, n2={"cpu": 4})
    s.got({"cpu": 4}, holder="b", priority="high", ttl=LONG)
    s.got({"cpu": 4}, holder="a", priority="low", ttl=LONG)
    waiting = s.waits({"cpu": 4}, holder="c", priority="high", wait=LONG)
    assert s.book.allocations[waiting].claims == ("n2",)
    s.when(CordonNode(command_id="cordon", pool="box", node="n2"))
    s.refused({"cpu": 1}, holder="x")
    assert s.book.allocations[waiting].claims == ()


def test_what_a_claim_gives_up_goes_to_those_who_wait_before_the_next_newcomer() -> None:
    s = Scenario()
    s.pool(
        policy={"overtakes_max": 0},
        n1=NodeSpec("n1", {"cpu": 4}, {"zone": "a"}),
        n2=NodeSpec("n2", {"cpu": 4}, {"zone": "b"}),
    )
    s.got({"cpu": 2}, select={"zone": "a"}, ttl=LONG)
    s.quota({"cpu": 6}, tenant="ann")
    zone_a: dict[str, Any] = {"select": {"zone": "a"}, "tenant": "ann"}
    large = s.waits({"cpu": 4}, wait=LONG, **zone_a)
    s.refused({"cpu": 1}, select={"zone": "a"}, holder="x")
    assert s.book.allocations[large].claims == ("n1",)
    small = s.waits({"cpu": 2}, select={"zone": "a"}, holder="small", wait=LONG)
    # The first item uses up the quota of the one with the claim; the second would take what that frees.
    items = (
        s.request({"cpu": 3}, select={"zone": "b"}, tenant="ann"),
        s.request({"cpu": 1}, **zone_a),
    )
    s.when(AllocateBatch(command_id="b", tenant="ann", items=items))
    assert [e.type for e in s.own] == ["allocated", "refused"]
    assert s.book.allocations[small].state == "active"
    assert s.book.allocations[large].claims == ()


def test_a_claim_does_not_move_to_a_node_that_a_gang_ahead_of_it_needs() -> None:
    s = Scenario()
    s.pool(
        policy={"overtakes_max": 0},
        n1=NodeSpec("n1", {"cpu": 4}, {"zone": "g"}),
        n2=NodeSpec("n2", {"cpu": 2}, {"zone": "h"}),
        n3=NodeSpec("n3", {"cpu": 4}, {"zone": "g"}),
    )
    for node, amount in (("g", 4), ("g", 4), ("h", 2)):
        s.got({"cpu": amount}, select={"zone": node}, ttl=LONG)
    first = s.waits({"cpu": 4}, select={"zone": "g"}, holder="first", wait=LONG)
    items = tuple(s.request({"cpu": 4}, select={"zone": "g"}, wait=LONG) for _ in range(2))
    s.when(AllocateBatch(command_id="b", items=items, atomic=True))
    gang = s.own[0].allocation
    s.when(ObserveCapacity(command_id="o", pool="box", node="n2", outside={"cpu": 1}))
    small = s.waits({"cpu": 2}, holder="small", wait=LONG)
    s.refused({"cpu": 1}, holder="x")
    claims = s.book.pools["box"].space.claims
    # The gang finds one node too few, and so keeps its own free of others' claims.
    assert claims == {"n1": first, "n2": small}
    s.when(Withdraw(command_id="w", allocation=gang or "", claim=Claim("h1")))
    s.refused({"cpu": 1}, holder="x")
    assert s.book.pools["box"].space.claims == {"n1": first, "n3": small}


# --- who comes first ---------------------------------------------------------------------------------


def test_beyond_the_depth_those_with_a_claim_are_served_by_their_place_in_line() -> None:
    s = Scenario()
    s.pool(policy={"overtakes_max": 0, "backfill_depth": 1}, n1={"cpu": 2}, n2={"cpu": 2})
    s.quota({"cpu": 2}, tenant="ann")
    both = [s.got({"cpu": 2}, ttl=50) for _ in range(2)]
    low = s.waits({"cpu": 2}, tenant="ann", priority="low", wait=LONG)
    s.refused({"cpu": 1}, holder="x")
    normal = s.waits({"cpu": 2}, tenant="ann", holder="h2", wait=LONG)
    s.refused({"cpu": 1}, holder="x")
    assert s.book.pools["box"].space.claims == {"n1": low, "n2": normal}
    critical = s.waits({"cpu": 2}, priority="critical", holder="c", wait=LONG)
    s.later(100)
    s.settle()
    assert all(each not in s.book.allocations for each in both)
    # The first in line is looked at; beyond it, whoever has a claim, and the quota lets one of them in.
    assert s.book.allocations[normal].state == "active"
    assert s.book.allocations[low].state == "waiting"
    assert s.book.allocations[critical].state == "active"


def test_a_request_of_somebody_who_holds_something_comes_after_those_who_hold_nothing() -> None:
    s = Scenario()
    s.pool(
        policy={"overtakes_max": 0, "backfill_depth": 1},
        n1={"cpu": 2},
        n2={"cpu": 2},
        n3={"cpu": 1},
    )
    s.quota({"cpu": 3}, tenant="ann")
    s.got({"cpu": 1}, tenant="ann", holder="busy", select=None, strategy="best_fit", ttl=LONG)
    for _ in range(2):
        s.got({"cpu": 2}, ttl=50)
    busy = s.waits({"cpu": 2}, tenant="ann", holder="busy", wait=LONG)
    s.refused({"cpu": 1}, holder="x")
    idle = s.waits({"cpu": 2}, tenant="ann", holder="idle", wait=LONG)
    s.refused({"cpu": 1}, holder="x")
    s.waits({"cpu": 2}, priority="critical", holder="c", wait=LONG)
    s.later(100)
    s.settle()
    assert s.book.allocations[idle].state == "active"
    assert s.book.allocations[busy].state == "waiting"


def test_nobody_is_sent_away_where_one_whom_an_operator_asked_to_go_makes_room() -> None:
    s = Scenario()
    s.pool(policy={"preemption": "lower_priority"}, n1={"cpu": 4}, n2={"cpu": 4})
    going = s.got({"cpu": 4}, priority="high", process=PROCESS)
    low = s.got({"cpu": 4}, priority="low", ttl=LONG)
    ops = Claim("ops", operator=True)
    s.on(Reclaim, going, claim=ops, cause="forced", process_alive=True)
    s.waits({"cpu": 4}, priority="normal", holder="n", wait=LONG)
    assert s.book.allocations[going].state == "ending"
    assert s.book.allocations[low].state == "active"


def test_who_draws_on_what_was_asked_to_end_does_not_grow() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4})
    parent = s.got({"cpu": 4}, process=PROCESS)
    child = s.got({"cpu": 1}, parent=parent)
    ops = Claim("ops", operator=True)
    s.on(Reclaim, parent, claim=ops, cause="forced", process_alive=True)
    (refused,) = s.on(Adjust, child, amounts={"cpu": 2})
    assert refused.type == "refused"
    assert "was asked to end and lends nothing more" in refused.body.message  # type: ignore[union-attr]


# --- budgets -----------------------------------------------------------------------------------------


def _budget(**policy: object) -> Scenario:
    s = Scenario()
    nodes = (NodeSpec("api", {"tokens": 1000}),)
    s.when(
        OpenPool(command_id="open", pool="api", nodes=nodes, consumable=True, policy=dict(policy))
    )
    return s


def _asks(s: Scenario, tokens: int, **more: object) -> str:
    return s.ask({"tokens": tokens}, pool="api", **more).type


@pytest.mark.parametrize(
    ("refill", "kept"),
    [
        ({}, False),
        ({"refill": "reset", "refill_every_ns": 3_600 * SECOND}, True),
        (
            {"refill": "add", "refill_every_ns": 3_600 * SECOND, "refill_amounts": {"tokens": 1}},
            True,
        ),
        (
            {"refill": "add", "refill_every_ns": 3_600 * SECOND, "refill_amounts": {"calls": 1}},
            False,
        ),
    ],
)
def test_what_is_spent_for_good_is_kept_for_nobody(refill: dict[str, object], kept: bool) -> None:
    s = _budget(**refill)
    s.release(s.got({"tokens": 500}, pool="api"))
    waiting = s.waits({"tokens": 800}, pool="api", wait=LONG)
    s.later(601)
    assert _asks(s, 1, holder="b") == ("refused" if kept else "allocated")
    assert s.book.allocations[waiting].claims == (("api",) if kept else ())


def test_a_claim_on_a_budget_ends_when_too_much_of_it_is_spent() -> None:
    s = _budget()
    held = s.got({"tokens": 500}, pool="api", ttl=LONG)
    waiting = s.waits({"tokens": 800}, pool="api", wait=LONG)
    s.later(601)
    assert _asks(s, 1, holder="b") == "refused"
    assert s.book.allocations[waiting].claims == ("api",)
    s.release(held)
    assert s.book.allocations[waiting].claims == ()
    assert _asks(s, 1, holder="b") == "allocated"


@pytest.mark.parametrize("left", [600, 400])
def test_a_gang_claims_a_budget_only_while_enough_of_it_is_left(left: int) -> None:
    s = _budget()
    s.release(s.got({"tokens": 1000 - left}, pool="api"))
    s.got({"tokens": 200}, pool="api", ttl=LONG)
    items = tuple(s.request({"tokens": 250}, pool="api", wait=LONG) for _ in range(2))
    s.when(AllocateBatch(command_id="b", items=items, atomic=True))
    assert s.own[0].type == "queued"
    s.later(601)
    assert _asks(s, 1, holder="b") == ("refused" if left == 600 else "allocated")


@pytest.mark.parametrize("spread", [None, 1])
def test_nobody_is_sent_away_in_a_budget_where_that_gives_nothing_back(spread: int | None) -> None:
    s = _budget(preemption="lower_priority", grace_ns=SECOND)
    for _ in range(3):
        s.got({"tokens": 300}, pool="api", priority="low", ttl=LONG)
    assert _asks(s, 300, priority="high", wait=LONG, spread=spread) == "queued"
    s.later(5)
    s.settle()
    assert "ending" not in kinds(s.events)
    assert "reclaimed" not in kinds(s.events)
