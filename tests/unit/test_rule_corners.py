"""Corners of the rules that little leads to: each is shown with what it decides."""

from __future__ import annotations

import sys
from typing import Any
from unittest.mock import patch

import pytest

from ledger.commands import (
    AllocateBatch,
    Claim,
    ExtendTime,
    Fact,
    ObserveCapacity,
    OpenPool,
    Reclaim,
    RecordFacts,
    SetPolicy,
    SetQuota,
    StartTask,
)
from ledger.errors import InvalidInput
from ledger.events import Allocated, Refused
from ledger.mix import Mix
from ledger.nodes import node_from
from ledger.requests import NodeSpec, Placement, Request
from ledger.rules import claims, tables
from ledger.rules.facts import by_key, keys_of
from ledger.rules.keeping import as_planned
from ledger.rules.packing import together
from ledger.rules.placement import Wish
from ledger.rules.validity import check_nodes
from ledger.spaces import Space
from tests.scenario import PROCESS, SECOND, Scenario, kinds

LONG = 10**6


def state(s: Scenario, allocation: str) -> str:
    folded = s.fold(allocation)
    assert folded is not None
    return folded.state


def batch(s: Scenario, *amounts: dict[str, int], **more: Any) -> list[str]:
    """Ask for an atomic batch; the types of its own events."""
    given = {"wait": LONG, "holder": "gang", "ttl": 50, **more}
    items = tuple(s.request(each, **given) for each in amounts)
    s.when(AllocateBatch(command_id=s.next_id(), items=items, atomic=True))
    return [e.type for e in s.own]


# --- commands and policies ---------------------------------------------------------------------------


def test_a_task_is_started_once() -> None:
    s = Scenario()
    assert kinds(s.when(StartTask(command_id="1", task="t", by="ann"))) == ["task_started"]
    (event,) = s.when(StartTask(command_id="2", task="t", by="ann"))
    assert isinstance(event.body, Refused)
    assert event.body.reason == "already_exists"


def test_facts_are_decided_like_any_other_command_where_nothing_is_known_of_them() -> None:
    s = Scenario()
    s.when(OpenPool(command_id="p", pool="far", nodes=(), kind="observed"))
    done = Fact(key="k", holder="ann", request=Request({"cpu": 1}), began_at=5, ended_at=9)
    events = s.when(RecordFacts(command_id="f", pool="far", facts=(done,)))
    assert [(e.type, e.at) for e in events] == [("allocated", 5), ("released", 9)]


def test_what_a_probe_saw_is_forgotten_with_the_probe() -> None:
    s = Scenario()
    s.pool(policy={"probe": "host", "probe_host": "here"}, n1={"cpu": 8}, n2={"cpu": 8})
    s.when(ObserveCapacity(command_id="o", pool="box", node="n1", outside={"cpu": 8}))
    s.got({"cpu": 8}, ttl=LONG)
    waiting = s.waits({"cpu": 8}, holder="h2", wait=LONG)
    s.when(SetPolicy(command_id="p", pool="box", policy={"probe": "none", "probe_host": None}))
    assert s.book.pools["box"].space.nodes["n1"].outside == {}
    assert state(s, waiting) == "active"


def test_time_that_is_given_back_lengthens_a_wait_too() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 1})
    s.got({"cpu": 1}, ttl=LONG)
    waiting = s.waits({"cpu": 1}, holder="h2", wait=10)
    until = s.book.allocations[waiting].deadline
    assert until is not None
    gap = ExtendTime(command_id="x", by_ns=5 * SECOND, since=s.now, until=s.now, why="slept")
    s.when(gap)
    assert s.book.allocations[waiting].deadline == until + 5 * SECOND


def test_a_pool_with_a_wrong_policy_is_not_opened() -> None:
    s = Scenario()
    with pytest.raises(InvalidInput, match="lifo"):
        s.pool(policy={"order": "lifo"}, n1={"cpu": 1})
    assert s.book.pools == {}


def test_a_policy_for_a_pool_that_is_not_there_is_refused() -> None:
    s = Scenario()
    (event,) = s.when(SetPolicy(command_id="p", pool="nowhere", policy={"order": "fifo"}))
    assert isinstance(event.body, Refused)
    assert event.body.reason == "no_such_pool"


# --- claims ------------------------------------------------------------------------------------------


def test_of_many_that_need_several_nodes_only_the_first_keep_nodes_from_those_behind() -> None:
    s = Scenario()
    s.pool(policy={"overtakes_max": 0}, n1={"cpu": 40}, n2={"cpu": 40}, n3={"cpu": 40})
    held = [s.got({"cpu": 40}, ttl=LONG) for _ in range(3)]
    first = s.waits({"cpu": 80}, spread=2, holder="first", wait=LONG)
    others = [
        s.waits({"cpu": 60 - n}, spread=2, holder=f"s{n}", wait=LONG)
        for n in range(claims.IN_VAIN_MAX + 2)
    ]
    s.ask({"cpu": 1}, holder="x")
    assert set(s.book.pools["box"].space.claims.values()) == {first}
    for each in held:
        s.release(each)
    assert state(s, first) == "active"
    assert state(s, others[0]) == "waiting"


def test_what_was_looked_for_in_vain_is_forgotten_and_found_again() -> None:
    with patch.object(claims, "REMEMBERED_MAX", 1):
        s = Scenario()
        s.pool(policy={"overtakes_max": 0}, n1={"cpu": 4}, n2={"cpu": 4}, n3={"cpu": 4})
        held = [s.got({"cpu": 4}, ttl=LONG) for _ in range(3)]
        first = s.waits({"cpu": 8}, spread=2, holder="first", wait=LONG)
        late = s.waits({"cpu": 7}, spread=2, holder="late", wait=LONG)
        s.waits({"cpu": 6}, spread=2, holder="later", wait=LONG)
        s.ask({"cpu": 1}, holder="x")
        space = s.book.pools["box"].space
        assert set(space.claims.values()) == {first}
        assert len(space.claims_in_vain) == 1
        for each in held:
            s.release(each)
        s.release(first, who="first")
        assert state(s, late) == "active"


def test_one_far_behind_claims_a_node_once_it_has_waited_long_enough() -> None:
    s = Scenario()
    policy = {"backfill_depth": 1, "claim_after_ns": 10 * SECOND, "overtakes_max": 10_000}
    s.pool(policy=policy, n1={"cpu": 4}, n2={"disk": 4})
    s.got({"cpu": 4}, ttl=LONG)
    held = s.got({"disk": 4}, ttl=LONG)
    s.waits({"cpu": 4}, holder="first", wait=LONG, priority="critical")
    behind = s.waits({"disk": 2}, holder="behind", wait=LONG)
    s.later(20)
    events = s.release(held)
    assert [(e.type, e.allocation) for e in events][-2:] == [
        ("queued", behind),
        ("allocated", behind),
    ]


# --- packing and keeping -----------------------------------------------------------------------------


def space_of(**nodes: dict[str, int]) -> Space:
    return Space("box", {n: node_from(NodeSpec(n, amounts)) for n, amounts in nodes.items()})


def test_a_plan_is_kept_beside_what_stands_there_and_only_where_it_still_fits() -> None:
    space = space_of(n1={"cpu": 4}, n2={"cpu": 4})
    requests = [Request({"cpu": 3}), Request({"cpu": 2})]
    packed = as_planned(space, ("n1", "n2"), requests)
    assert packed is not None
    assert [[(p.node, p.in_use) for p in line] for line in packed] == [
        [("n1", {"cpu": 3})],
        [("n2", {"cpu": 2})],
    ]
    used = space.nodes["n1"].plus(Placement("n1", {"cpu": 2}, {"cpu": 2}), 1)
    space.replace(used)
    assert as_planned(space, ("n1", "n2"), requests) is None
    assert as_planned(space, ("n1", "gone"), requests) is None


def test_a_search_places_the_equal_parts_of_a_spread_on_different_nodes() -> None:
    space = space_of(a={"cpu": 7}, b={"cpu": 4}, c={"cpu": 3})
    wishes = [
        Wish(Request({"cpu": 6}, spread=2), "first_fit"),
        Wish(Request({"cpu": 1}), "first_fit"),
        Wish(Request({"cpu": 6}), "first_fit"),
    ]
    assert together(space, Mix(), wishes) is None
    packed = together(space, Mix(), wishes, 5_000)
    assert packed is not None
    assert len({p.node for p in packed[0]}) == 2
    for node in space.nodes.values():
        placed = sum(p.amounts["cpu"] for line in packed for p in line if p.node == node.name)
        assert placed <= node.capacity["cpu"]


# --- budgets that end and are refilled at once -------------------------------------------------------


def test_what_ends_after_a_refill_in_the_same_look_is_spent_in_the_new_period() -> None:
    s = Scenario()
    settings = {"refill": "reset", "refill_every_ns": 100 * SECOND}
    api = (NodeSpec("api", {"tokens": 1000}),)
    s.when(OpenPool(command_id="o", pool="api", nodes=api, consumable=True, policy=settings))
    opened = s.book.pools["api"].refilled_at
    s.got({"tokens": 300}, pool="api", ttl=50)
    s.got({"tokens": 200}, pool="api", ttl=150)
    s.got({"tokens": 100}, pool="api", ttl=250)
    s.later(290)
    s.settle()
    ends = [(e.type, (e.at - opened) // SECOND) for e in s.events[-5:]]
    assert ends == [
        ("expired", 51),
        ("replenished", 100),
        ("expired", 152),
        ("replenished", 200),
        ("expired", 253),
    ]
    node = s.book.pools["api"].space.nodes["api"]
    assert node.capacity["tokens"] - node.in_use["tokens"] == 900


# --- elastic -----------------------------------------------------------------------------------------


def test_stretching_stops_where_quota_is_borrowed_of_one_thing_and_owned_of_another() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 16, "disk": 16})
    for tenant, limits in (("ann", {"cpu": 4, "disk": 2}), ("bob", {"cpu": 4, "disk": 6})):
        s.when(SetQuota(command_id=f"q-{tenant}", tenant=tenant, limits=limits, cohort="c"))
    s.got({"cpu": 8}, tenant="bob", ttl=LONG)
    most = {"cpu": 4, "disk": 4}
    mine = s.got({"cpu": 1, "disk": 1}, tenant="ann", most=most, ttl=LONG)
    assert s.book.allocations[mine].amounts == {"cpu": 1, "disk": 1}
    other = s.got({"cpu": 1}, tenant="cid", ttl=LONG)
    s.when_released(other, tenant="cid")
    assert s.book.allocations[mine].amounts == {"cpu": 1, "disk": 1}


def test_what_draws_on_another_is_stretched_within_it_whatever_the_quotas() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 8})
    s.quota({"cpu": 6})
    parent = s.got({"cpu": 6}, ttl=LONG)
    child = s.got({"cpu": 1}, parent=parent, most={"cpu": 8}, ttl=LONG)
    assert s.book.allocations[child].amounts == {"cpu": 6}


def test_where_shrinking_as_many_as_may_be_is_not_enough_nobody_is_shrunk() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 122})
    held = [s.got({"cpu": 1}, most={"cpu": 2}, holder=f"h{n}", ttl=LONG) for n in range(61)]
    before = len(s.events)
    assert s.refused({"cpu": 61}, holder="large").reason == "insufficient_capacity"
    assert kinds(s.events[before:]) == ["refused"]
    assert {s.book.allocations[each].amounts["cpu"] for each in held} == {2}
    assert s.got({"cpu": 60}, holder="large")


# --- preemption --------------------------------------------------------------------------------------


def preempting(**nodes: Any) -> Scenario:
    s = Scenario()
    s.pool(policy={"preemption": "lower_priority", "grace_ns": 30 * SECOND}, **nodes)
    return s


def test_for_a_spread_no_more_are_sent_away_than_one_request_may() -> None:
    s = preempting(n1={"cpu": 40}, n2={"cpu": 40})
    for n in range(80):
        s.got({"cpu": 1}, holder=f"h{n}", priority="low", ttl=LONG)
    s.waits({"cpu": 80}, spread=2, holder="boss", priority="high", wait=LONG)
    assert "ending" not in kinds(s.events)
    s.waits({"cpu": 60}, spread=2, holder="chief", priority="high", wait=LONG)
    assert kinds(s.events).count("ending") == 60


def test_of_one_node_no_more_are_sent_away_for_a_gang_than_one_request_may() -> None:
    s = preempting(n1={"cpu": 70})
    for n in range(70):
        s.got({"cpu": 1}, holder=f"h{n}", priority="low", ttl=LONG)
    assert batch(s, {"cpu": 35}, {"cpu": 35}, priority="high") == ["queued"] * 2
    assert "ending" not in kinds(s.events)
    assert batch(s, {"cpu": 30}, {"cpu": 30}, priority="high", holder="g2") == ["queued"] * 2
    assert kinds(s.events).count("ending") == 60


def test_whom_nobody_makes_go_is_not_counted_on() -> None:
    s = preempting(n1={"cpu": 4}, n2={"cpu": 4})
    stays = s.got({"cpu": 4}, holder="v", priority="low", process=PROCESS)
    young = s.got({"cpu": 4}, holder="w", priority="low", ttl=LONG)
    s.on(
        Reclaim,
        stays,
        claim=Claim("ops", operator=True),
        cause="forced",
        process_alive=True,
        enforced=False,
    )
    s.waits({"cpu": 4}, holder="boss", priority="high", wait=LONG)
    assert state(s, young) == "ending"


# --- large pools -------------------------------------------------------------------------------------


def test_a_refusal_in_a_large_pool_names_the_same_node_with_a_table_and_without() -> None:
    said = []
    for least in (1, 2**60):
        with patch.object(tables, "NODES_LEAST", least), patch.object(tables, "PATIENCE", 0):
            s = Scenario()
            s.pool(n0={"cpu": 8}, n1={"cpu": 8}, n2={"cpu": 8}, n3={"cpu": 8})
            s.got({"cpu": 7}, ttl=LONG)
            for _ in range(3):
                s.got({"cpu": 8}, ttl=LONG)
            said.append(s.refused({"cpu": 3}, holder="h2"))
    assert said[0] == said[1]
    assert said[0].shortfall == {"n0": {"cpu": 2}}


def test_a_table_bars_many_nodes_and_remembers_selectors() -> None:
    specs = [NodeSpec(f"n{i:02}", {"cpu": 8}, {"at": str(i)}) for i in range(20)]
    nodes = {spec.name: node_from(spec) for spec in specs}
    table = tables.Table(nodes)
    barred = frozenset(f"n{i:02}" for i in range(10))
    assert table.first(None, barred, {"cpu": 8}) == "n10"
    assert table.first(None, barred, {"cpu": 8}) == "n10"
    assert table.first(None, (), {"disk": 1}) is None
    with patch.object(tables, "MASKS_MAX", 1):
        assert table.first(None, frozenset(f"n{i:02}" for i in range(12)), {"cpu": 1}) == "n12"
        assert table.first({"at": "3"}, (), {"cpu": 8}) == "n03"
        assert table.first({"at": "4"}, (), {"cpu": 8}) == "n04"
    assert len(table.masks) == 1


def test_a_table_takes_no_amount_of_cards_that_is_neither_whole_nor_a_share() -> None:
    nodes = {"n1": node_from(NodeSpec("n1", {"gpu": 4000}))}
    assert tables.Table(nodes).first(None, (), {"gpu": 1500}) is None
    assert tables.Table(nodes).first(None, (), {"gpu": 1000}) == "n1"


def test_without_numpy_the_nodes_themselves_are_looked_at() -> None:
    with (
        patch.object(tables, "NODES_LEAST", 1),
        patch.object(tables, "PATIENCE", 0),
        patch.object(tables, "_latest", ()),
        patch.dict(sys.modules, {"numpy": None}),
    ):
        space = space_of(a={"cpu": 4}, b={"cpu": 2})
        assert tables.of(space) is None
        s = Scenario()
        s.pool(a={"cpu": 4}, b={"cpu": 2})
        body = s.ask({"cpu": 2}, strategy="best_fit").body
        assert isinstance(body, Allocated)
        assert body.placements[0].node == "b"


def test_what_no_node_has_is_no_use_to_what_is_usually_asked() -> None:
    landed = []
    for least in (1, 2**60):
        with patch.object(tables, "NODES_LEAST", least), patch.object(tables, "PATIENCE", 0):
            s = Scenario()
            s.pool(
                policy={"strategy": "fragmentation_aware"},
                n1={"cpu": 8, "gpu": 2000},
                n2={"cpu": 8, "gpu": 1000},
            )
            assert s.refused({"gpu": 1000, "tape": 1}).reason == "exceeds_pool"
            body = s.ask({"gpu": 500, "cpu": 1}).body
            assert isinstance(body, Allocated)
            landed.append(body.placements)
    assert landed[0] == landed[1]


# --- facts -------------------------------------------------------------------------------------------

CPU = {"cpu": 4}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"request": Request({}, process=PROCESS), "began_at": 1}, "process or a parent"),
        ({"request": Request({f"r{n}": 1 for n in range(99)}), "began_at": 1}, "99 resources"),
        (
            {"began_at": 1, "placements": (Placement("n", CPU, {}, {"gpu": {"0": 1}}),)},
            "none of it",
        ),
        (
            {
                "began_at": 1,
                "placements": tuple(Placement(f"n{i}", CPU, {}) for i in range(20_001)),
            },
            "20001 nodes",
        ),
        (
            {
                "began_at": 1,
                "placements": (Placement("n", {"gpu": 1}, {}, {"gpu": {"0": -5}}),),
            },
            "-5",
        ),
    ],
)
def test_a_fact_that_cannot_be_so_is_invalid(said: dict[str, Any], words: str) -> None:
    s = Scenario()
    s.when(OpenPool(command_id="p", pool="far", nodes=(), kind="observed"))
    one = Fact(**{"key": "k", "holder": "ann", "request": Request(CPU), **said})
    with pytest.raises(InvalidInput, match=words):
        s.when(RecordFacts(command_id="f", pool="far", facts=(one,)))


def test_too_many_facts_at_once_are_invalid() -> None:
    s = Scenario()
    one = Fact(key="k", holder="ann", request=Request(CPU), began_at=1)
    with pytest.raises(InvalidInput, match="at once"):
        s.when(RecordFacts(command_id="f", pool="far", facts=(one,) * 10_001))


def test_a_placement_that_is_the_request_itself_is_looked_at_once() -> None:
    s = Scenario()
    s.when(OpenPool(command_id="p", pool="far", nodes=(), kind="observed"))
    request = Request(CPU)
    facts = tuple(
        Fact(
            key=f"k{n}",
            holder="ann",
            request=request,
            began_at=1,
            placements=(Placement("n1", request.amounts, {}),),
        )
        for n in range(2)
    )
    events = s.when(RecordFacts(command_id="f", pool="far", facts=facts))
    assert [e.body.placements[0].node for e in events] == ["n1", "n1"]  # type: ignore[union-attr]


def test_a_key_that_no_store_can_look_for_is_invalid() -> None:
    one = Fact(key="a\nb", holder="ann", request=Request(CPU), began_at=1)
    with pytest.raises(InvalidInput):
        keys_of(RecordFacts(command_id="f", pool="far", facts=(one,)))
    other = Fact(key="k", tenant="\n", holder="ann", request=Request(CPU), began_at=1)
    with pytest.raises(InvalidInput):
        keys_of(RecordFacts(command_id="f", pool="far", facts=(other,)))


def test_an_inventory_that_is_not_written_yet_is_known_by_its_key() -> None:
    s = Scenario()
    s.when(OpenPool(command_id="p", pool="far", nodes=(), kind="observed"))
    seen = RecordFacts(
        command_id="f", pool="far", facts=(), nodes=(NodeSpec("n1", CPU),), nodes_at=7
    )
    events = s.when(seen)
    assert kinds(events) == ["node_joined"]
    assert list(by_key([], [], events)) == [("", "nodes:far:part")]


@pytest.mark.parametrize(("cards", "says"), [(10_001, "at most 10000 cards"), (None, "whole")])
def test_a_nodes_cards_are_whole_and_not_without_end(cards: int | None, says: str) -> None:
    amount = 1_500 if cards is None else cards * 1_000
    with pytest.raises(InvalidInput, match=says):
        check_nodes((NodeSpec("n1", {"gpu": amount}),))
    check_nodes((NodeSpec("n1", {"gpu": 10_000_000}),))
