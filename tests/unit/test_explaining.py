"""What is told of those who wait and of those who are refused: circles, who is in the way, why."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.commands import (
    Adjust,
    AllocateBatch,
    Confirm,
    CordonNode,
    OpenPool,
    SetPolicy,
    Transfer,
    Withdraw,
)
from ledger.events import AlertCleared, AlertRaised, Event
from ledger.requests import NodeSpec
from ledger.rules import cycles
from ledger.rules.cycles import alert_for
from ledger.rules.prospects import hold_up
from ledger.step import settle_due
from projections.sentences import sentence
from projections.stories import Story, at_present, story_of_allocation, story_of_refusal
from tests.scenario import PROCESS, SECOND, Scenario

LONG = 100_000


def raised(s: Scenario) -> list[AlertRaised]:
    return [e.body for e in s.events if isinstance(e.body, AlertRaised)]


def cleared(s: Scenario) -> list[str]:
    return [e.body.alert for e in s.events if isinstance(e.body, AlertCleared)]


def two_nodes(**policy: Any) -> Scenario:
    s = Scenario()
    s.pool(policy=policy, n1={"cpu": 4}, n2={"cpu": 4})
    return s


def ann_and_bob(s: Scenario | None = None, **options: Any) -> tuple[Scenario, str, str]:
    """Ann holds all cpu and wants disk, bob holds all disk and wants cpu: what waits."""
    if s is None:
        s = Scenario()
        s.pool(n1={"cpu": 4, "disk": 4})
        s.got({"cpu": 4}, holder="ann", ttl=LONG)
        s.got({"disk": 4}, holder="bob", ttl=LONG)
    first = s.waits({"disk": 1}, holder="ann", wait=LONG)
    return s, first, s.waits({"cpu": 1}, holder="bob", wait=LONG, **options)


# --- circles: what is one ----------------------------------------------------------------------------


def test_two_who_wait_for_what_a_third_holds_are_no_circle() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 64, "gpu": 2000})
    s.got({"gpu": 2000}, holder="cid", ttl=LONG)
    for holder in ("ann", "bob"):
        s.got({"cpu": 1}, holder=holder, ttl=LONG)
    for holder in ("ann", "bob"):
        s.waits({"cpu": 1, "gpu": 1000}, holder=holder)
    assert not raised(s)


def test_who_is_held_up_by_his_own_quota_is_in_no_circle() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4})
    for holder in ("ann", "bob"):
        s.quota({"cpu": 2}, holder=holder)
        s.got({"cpu": 2}, holder=holder, ttl=LONG)
    for holder in ("ann", "bob"):
        s.waits({"cpu": 1}, holder=holder)
    assert not raised(s)


@pytest.mark.parametrize("third", [False, True])
def test_a_circle_is_in_the_way_on_every_node_that_could_take_the_request(third: bool) -> None:
    s = two_nodes()
    if third:
        # Another pool is none of theirs.
        s.pool("other", x={"cpu": 4})
    for holder in ("ann", "bob"):
        s.got({"cpu": 4}, holder=holder, ttl=LONG)
    s.waits({"cpu": 4}, holder="ann")
    assert not raised(s)
    second = s.waits({"cpu": 1}, holder="bob")
    (alert,) = raised(s)
    assert alert.details == {"holders": ["ann", "bob"], "closed_by": second}
    assert alert.message.startswith("ann and bob each wait for what the others hold")


def test_a_node_where_somebody_else_can_make_room_breaks_the_circle() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4}, n2={"cpu": 4}, n3={"cpu": 4})
    for holder in ("ann", "bob", "cid"):
        s.got({"cpu": 4}, holder=holder, ttl=LONG)
    for holder in ("ann", "bob"):
        s.waits({"cpu": 4}, holder=holder)
    assert not raised(s)
    s.waits({"cpu": 4}, holder="cid")
    assert [alert.details["holders"] for alert in raised(s)] == [["ann", "bob", "cid"]]


def test_who_waits_for_something_else_too_that_can_be_had_is_in_no_circle() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4, "disk": 4, "gpu": 1000})
    s.got({"gpu": 1000}, holder="cid", ttl=LONG)
    s.got({"cpu": 4}, holder="ann", ttl=LONG)
    s.got({"disk": 4}, holder="bob", ttl=LONG)
    s.waits({"gpu": 1000}, holder="ann")
    ann_and_bob(s)
    assert not raised(s)


def test_who_only_waits_for_a_circle_raises_no_second_alert() -> None:
    s, _, _ = ann_and_bob()
    assert len(raised(s)) == 1
    s.pool("bag", b1={"tokens": 5})
    s.got({"tokens": 5}, pool="bag", holder="cid", ttl=LONG)
    s.waits({"cpu": 1}, holder="cid")
    s.waits({"disk": 1}, holder="ann")
    assert len(raised(s)) == 1


def test_one_holder_that_waits_for_what_it_holds_itself_is_no_circle() -> None:
    s = two_nodes()
    for _ in range(2):
        s.got({"cpu": 4}, holder="ann", ttl=LONG)
    s.waits({"cpu": 1}, holder="ann")
    s.pool("bag", b1={"tokens": 5})
    s.got({"tokens": 5}, pool="bag", holder="bob", ttl=LONG)
    s.waits({"cpu": 1}, holder="bob")
    assert not raised(s)


def test_shares_of_cards_are_reckoned_card_by_card() -> None:
    s = Scenario()
    s.pool(n1={"gpu": 2000, "disk": 4})
    s.got({"gpu": 600}, holder="ann", ttl=LONG)
    s.got({"gpu": 600}, holder="bob", ttl=LONG)
    s.waits({"gpu": 1000}, holder="ann")
    assert not raised(s)
    s.waits({"gpu": 500}, holder="bob")
    assert len(raised(s)) == 1


def test_what_goes_or_shrinks_or_comes_back_by_itself_is_in_nobodys_way() -> None:
    def both(s: Scenario, **options: Any) -> list[AlertRaised]:
        s.waits({"cpu": 4}, holder="ann", **options)
        s.waits({"cpu": 4}, holder="bob", **options)
        return raised(s)

    stretched = two_nodes()
    for holder in ("ann", "bob"):
        stretched.got({"cpu": 1}, most={"cpu": 4}, holder=holder, ttl=LONG)
    for parent in ("A3", "A4"):
        stretched.got({"cpu": 1}, parent=parent, ttl=LONG)
    assert both(stretched)  # What others draw on keeps its size.
    shrinking = Scenario()
    shrinking.pool(n1={"cpu": 8}, n2={"cpu": 8})
    for node_of, holder in enumerate(("ann", "bob")):
        shrinking.got({"cpu": 1}, most={"cpu": 6}, holder=holder, ttl=LONG, strategy="worst_fit")
        shrinking.got({"cpu": 2}, holder=f"cid{node_of}", ttl=LONG, strategy="best_fit")
    assert [n.in_use for n in shrinking.book.pools["box"].space.nodes.values()] == [{"cpu": 8}] * 2
    for holder in ("ann", "bob"):
        shrinking.waits({"cpu": 6}, holder=holder)
    assert not raised(shrinking)

    sending = two_nodes(preemption="lower_priority", grace_ns=0)
    for holder in ("ann", "bob"):
        sending.got({"cpu": 4}, holder=holder, ttl=LONG, priority="low", process=PROCESS)
    assert not both(sending, priority="high")

    spent = Scenario()
    node = NodeSpec("api", {"cpu": 8})
    spent.when(OpenPool(command_id="o", pool="box", nodes=(node,), consumable=True))
    for holder in ("ann", "bob"):
        spent.got({"cpu": 4}, holder=holder, ttl=LONG)
    assert not both(spent)

    lending = two_nodes()
    for tenant in ("default", "t2"):
        lending.quota({"cpu": 100}, tenant=tenant, pool="box", cohort="c")
    for holder in ("ann", "bob"):
        lending.got({"cpu": 4}, holder=holder, ttl=LONG)
    assert not both(lending)


def test_what_is_stretched_counts_with_its_least() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 8})
    s.got({"cpu": 3}, holder="ann", ttl=LONG)
    s.got({"cpu": 3}, most={"cpu": 5}, holder="bob", ttl=LONG)
    s.waits({"cpu": 8}, holder="ann")
    s.waits({"cpu": 6}, holder="bob")
    assert len(raised(s)) == 1
    s = Scenario()
    s.pool(n1={"gpu": 4000})
    s.got({"gpu": 1000}, holder="ann", ttl=LONG)
    s.got({"gpu": 1000}, most={"gpu": 3000}, holder="bob", ttl=LONG)
    s.waits({"gpu": 4000}, holder="ann")
    s.waits({"gpu": 3000}, holder="bob")
    assert len(raised(s)) == 1


def test_spreads_are_stuck_when_too_few_nodes_are_left_for_their_parts() -> None:
    s = two_nodes()
    for holder in ("ann", "bob"):
        s.got({"cpu": 3}, holder=holder, ttl=LONG, strategy="worst_fit")
    s.waits({"cpu": 4}, spread=2, holder="ann")
    assert not raised(s)
    s.waits({"cpu": 4}, holder="bob")
    assert len(raised(s)) == 1
    s = two_nodes()
    for holder in ("ann", "bob"):
        s.got({"cpu": 3}, holder=holder, ttl=LONG, strategy="worst_fit")
    s.waits({"cpu": 8}, spread=0, holder="ann")
    s.waits({"cpu": 4}, holder="bob")
    s.waits({"cpu": 2}, holder="bob")
    # Over how many nodes it goes is open.
    assert not raised(s)


def test_what_lies_on_several_nodes_is_in_the_way_on_each() -> None:
    s = two_nodes()
    s.got({"cpu": 6}, spread=2, holder="ann", ttl=LONG)
    s.got({"cpu": 2}, spread=2, holder="bob", ttl=LONG)
    s.waits({"cpu": 2}, holder="ann")
    s.waits({"cpu": 2}, holder="bob")
    assert len(raised(s)) == 1


def test_one_of_a_batch_that_is_stuck_holds_up_its_holder() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4, "disk": 4})
    s.got({"cpu": 4}, holder="ann", ttl=LONG)
    s.got({"disk": 3}, holder="bob", ttl=LONG)
    items = tuple(s.request({"disk": n}, holder="ann", wait=LONG) for n in (1, 2))
    s.when(AllocateBatch(command_id="b", items=items, atomic=True))
    s.waits({"cpu": 1}, holder="bob")
    assert len(raised(s)) == 1


def test_labels_cordons_and_nodes_too_few_tell_which_nodes_count() -> None:
    s = Scenario()
    s.pool(
        n1=NodeSpec("n1", {"cpu": 4}, {"zone": "a"}),
        n2=NodeSpec("n2", {"cpu": 4}, {"zone": "a"}),
        n3=NodeSpec("n3", {"cpu": 4}, {"zone": "b"}),
    )
    for holder, node in (("ann", "a"), ("bob", "a"), ("cid", "b")):
        s.got({"cpu": 4}, holder=holder, ttl=LONG, select={"zone": node})
    s.waits({"cpu": 4}, holder="ann", select={"zone": "a"})
    s.waits({"cpu": 4}, holder="bob")
    assert not raised(s)
    s.when(CordonNode(command_id="x", pool="box", node="n3"))
    s.waits({"cpu": 4}, holder="bob", select={"zone": "a"})
    assert len(raised(s)) == 1
    s.waits({"cpu": 4}, holder="cid", select={"zone": "b"})
    assert len(raised(s)) == 1


# --- circles: limits ---------------------------------------------------------------------------------


def test_who_waits_for_many_things_at_once_is_in_no_circle() -> None:
    s, _, _ = ann_and_bob()
    assert len(raised(s)) == 1
    for _ in range(cycles.WAITING_MAX):
        s.waits({"cpu": 1}, holder="bob")
    s = Scenario()
    s.pool(n1={"cpu": 4, "disk": 4})
    s.got({"cpu": 4}, holder="ann", ttl=LONG)
    s.got({"disk": 4}, holder="bob", ttl=LONG)
    for _ in range(cycles.WAITING_MAX + 1):
        s.waits({"disk": 1}, holder="ann")
    s.waits({"cpu": 1}, holder="bob")
    assert not raised(s)


def test_who_holds_very_much_is_in_no_circle() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 100, "disk": 4})
    for _ in range(100):
        s.got({"cpu": 1}, holder="ann", ttl=LONG)
    s.got({"disk": 4}, holder="bob", ttl=LONG)
    ann_and_bob(s)
    assert not raised(s)


@pytest.mark.parametrize(("name", "limit"), [("HOLDERS_MAX", 1), ("LOOKS_MAX", 3)])
def test_a_search_that_grows_too_large_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    s, _, _ = ann_and_bob()
    assert len(raised(s)) == 1
    monkeypatch.setattr(cycles, name, limit)
    s, _, _ = ann_and_bob()
    assert not raised(s)


def test_of_a_large_circle_the_first_are_named() -> None:
    s = Scenario()
    count = cycles.NAMED_MAX + 3
    s.pool(**{f"n{i:02}": {"cpu": 4} for i in range(count)})
    for i in range(count):
        s.got({"cpu": 4}, holder=f"h{i:02}", ttl=LONG)
    ids = [s.waits({"cpu": 4}, holder=f"h{i:02}") for i in range(count)]
    (alert,) = raised(s)
    assert alert.alert == "hold_and_wait:" + ",".join(ids[: cycles.NAMED_MAX])
    assert " and 3 more each wait" in alert.message
    assert len(alert.details["holders"]) == count


# --- circles: their end ------------------------------------------------------------------------------


def test_a_circle_that_closes_again_is_told_again() -> None:
    s = two_nodes()
    for times in (1, 2):
        held = {h: s.got({"cpu": 4}, holder=h, ttl=LONG) for h in ("ann", "bob")}
        waiting = {h: s.waits({"cpu": 4}, holder=h) for h in ("ann", "bob")}
        assert len(raised(s)) == times
        assert len(cleared(s)) == times - 1
        assert len(s.book.alerts) == 1
        for holder in ("ann", "bob"):
            s.on(Withdraw, waiting[holder], holder)
        for holder in ("ann", "bob"):
            s.release(held[holder], holder)
    assert raised(s)[0] != raised(s)[1]


def test_alerts_of_another_kind_are_left_alone() -> None:
    s, first, _ = ann_and_bob()
    s.book.alerts = {"hold_and_wait:ann,bob": {"message": "m", "at": 1}, "clock_jumped": {}}
    draft = alert_for(s.book, s.book.allocations[first], s.now)
    assert draft is not None and [e.type for e in draft.events] == ["alert_raised"]


NEEDS = st.sampled_from(({"cpu": 1}, {"cpu": 2}, {"cpu": 4}, {"disk": 1}, {"cpu": 1, "disk": 2}))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), NEEDS), min_size=4, max_size=24))
def test_whom_a_circle_names_nobody_else_can_help(asked: list[tuple[str, dict[str, int]]]) -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4, "disk": 2}, n2={"cpu": 4, "disk": 2})
    for holder, amounts in asked:
        s.ask(amounts, holder=holder, wait=LONG, ttl=LONG)
        if raised(s):
            break
    else:
        return
    circle = set(raised(s)[0].details["holders"])
    theirs = {a.id: a.state for a in s.book.allocations.values() if a.holder in circle}
    assert {a.holder for a in s.book.allocations.values() if a.state == "waiting"} >= circle
    for a in sorted(s.book.allocations.values(), key=lambda a: a.state != "waiting"):
        if a.holder not in circle and a.id in s.book.allocations:
            waits = s.book.allocations[a.id].state == "waiting"
            s.on(Withdraw, a.id, a.holder) if waits else s.release(a.id, a.holder)
    assert theirs == {a.id: a.state for a in s.book.allocations.values()}


# --- who is in the way -------------------------------------------------------------------------------


def test_only_who_holds_what_is_lacking_is_in_the_way() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 64, "gpu": 1000})
    for n in range(11):
        s.got({"cpu": 1}, holder=f"c{n}", ttl=10)
    s.got({"gpu": 1000, "cpu": 1}, holder="g", task="t", ttl=LONG)
    told = s.refused({"gpu": 1000})
    assert [each["holder"] for each in told.blockers] == ["g"]
    waiting = s.waits({"gpu": 1000, "cpu": 1})
    assert [each["holder"] for each in why(s, waiting).facts["blockers"]] == ["g"]
    assert "ends of leases" in s.refused({"gpu": 1000}).hint


def test_what_is_kept_is_told_with_who_waits_for_it_and_where() -> None:
    s = two_nodes(overtakes_max=0)
    for _ in range(2):
        s.got({"cpu": 3}, ttl=LONG)
    first = s.waits({"cpu": 4}, holder="ann", wait=LONG)
    asked = s.now
    s.waits({"cpu": 4}, holder="bob", wait=LONG)
    told = s.refused({"cpu": 1}, holder="cid")
    assert told.reason == "reserved_for_waiting"
    assert f"{first} of ann" in told.message
    assert told.blockers[0] == {
        "amounts": {"cpu": 4},
        "since": asked,
        "state": "waiting",
        "allocation": first,
        "holder": "ann",
        "nodes": ["n1"],
    }
    answer = story_of_refusal(s.events[-1]).answer
    assert f"ann ({first}) waits for cpu=4m since " in answer
    assert "and n1 is kept for it" in answer
    assert "holds" not in answer
    other = s.refused({"cpu": 1}, tenant="other")
    assert "ann" not in other.message
    assert set(other.blockers[0]) == {"amounts", "since", "state"}


def test_in_strict_order_whoever_comes_first_is_in_the_way() -> None:
    s = two_nodes(order="fifo")
    s.got({"cpu": 3}, holder="ann", ttl=LONG)
    s.got({"cpu": 3}, holder="bob", ttl=LONG)
    first = s.waits({"cpu": 4}, holder="cid", wait=LONG)
    told = s.refused({"cpu": 1}, holder="dan")
    assert [each["allocation"] for each in told.blockers] == [first]
    second = s.waits({"cpu": 1}, holder="dan", wait=LONG)
    answer = why(s, second).answer
    assert f"{first} of cid waits for box and comes first" in answer
    assert "1 served first" in answer
    batch = tuple(s.request({"cpu": 4}, holder="eve", wait=LONG) for _ in range(2))
    s.when(AllocateBatch(command_id="b", items=batch, atomic=True))
    s.on(Withdraw, first, "cid")
    last = [e.allocation for e in s.events if e.holder == "eve"][-1]
    assert last is not None and "comes first" not in why(s, last).answer
    s.when(CordonNode(command_id="c1", pool="box", node="n1"))
    s.when(CordonNode(command_id="c2", pool="box", node="n2"))
    assert s.refused({"cpu": 1}, holder="fay").reason == "reserved_for_waiting"


# --- why it waits ------------------------------------------------------------------------------------


def events_of(s: Scenario, allocation: str) -> list[Event]:
    return [e for e in s.events if e.allocation == allocation]


def why(s: Scenario, allocation: str) -> Story:
    story = story_of_allocation(events_of(s, allocation), s.now)
    return at_present(story, s.book, s.now)


def test_why_tells_what_is_lacking_now_who_holds_it_what_fits_and_when() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4000})
    s.got({"cpu": 1000}, holder="ann", ttl=50)
    s.got({"cpu": 2000}, holder="bob", ttl=100)
    waiting = s.waits({"cpu": 3000}, holder="cid", wait=LONG)
    answer = why(s, waiting).answer
    assert "short by cpu=2 on n1" in answer
    assert "ann (A3) holds cpu=1 since 1970-01-01 00:16:4" in answer
    assert "cpu=1 fits now" in answer
    assert "there may be room at 1970-01-01 00:18:24 UTC, going by the ends of leases" in answer
    s.release("A3", "ann")
    later = why(s, waiting)
    assert "short by cpu=1 on n1" in later.answer
    assert "ann" not in later.answer
    assert later.facts["shortfall"] == {"n1": {"cpu": "1"}}
    assert later.facts["hint"] == "wait on, or withdraw it and ask for what fits now"


def test_why_tells_of_a_quota_that_was_set_since() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4000})
    s.got({"cpu": 4000}, holder="ann", ttl=LONG)
    waiting = s.waits({"cpu": 1000}, holder="bob", wait=LONG)
    s.quota({"cpu": 0}, holder="bob")
    told = why(s, waiting)
    assert told.facts["reason"] == "quota_exceeded"
    assert "holder bob of tenant default may hold 0 cpu" in told.answer
    assert "n1" not in told.answer


def test_why_tells_that_what_it_draws_on_is_to_end() -> None:
    s = Scenario()
    s.pool(policy={"preemption": "lower_priority", "grace_ns": 60 * SECOND}, n1={"cpu": 4})
    parent = s.got({"cpu": 4}, priority="low", ttl=LONG)
    s.got({"cpu": 4}, parent=parent, ttl=LONG)
    waiting = s.waits({"cpu": 1}, parent=parent, wait=LONG)
    assert "has no room" in why(s, waiting).answer
    s.waits({"cpu": 4}, priority="high", wait=LONG)
    assert f"{parent}, on which it draws, was asked to end" in why(s, waiting).answer


def test_why_tells_that_all_nodes_which_could_take_it_are_cordoned() -> None:
    s = two_nodes()
    for node in ("n1", "n2"):
        s.when(CordonNode(command_id=node, pool="box", node=node))
    waiting = s.waits({"cpu": 4}, wait=LONG)
    answer = why(s, waiting).answer
    assert "every node of box that could take this is cordoned; nothing tells when" in answer


def test_why_tells_that_there_is_room_which_nobody_has_handed_on_yet() -> None:
    for options in ({}, {"spread": 1}):
        s = Scenario()
        s.pool(n1={"cpu": 4})
        s.got({"cpu": 4}, ttl=10)
        waiting = s.waits({"cpu": 1}, wait=LONG, **options)
        s.later(20)
        settle_due(s.book, s.now, grant=False)
        told = hold_up(s.book, s.book.allocations[waiting], s.now)
        assert "there is room for it now" in told.message
        assert "sweep" in told.hint


def test_why_tells_what_is_still_held_of_the_nodes_that_are_kept() -> None:
    s = two_nodes(overtakes_max=0)
    held = [s.got({"cpu": n}, holder=h, ttl=LONG) for h, n in (("ann", 3), ("bob", 2))]
    waiting = s.waits({"cpu": 4}, holder="cid", wait=LONG)
    s.refused({"cpu": 4}, holder="dan")
    told = why(s, waiting)
    assert "n2 is kept for it, but not free yet; short by cpu=2m on n2; bob" in told.answer
    s.on(Withdraw, waiting, "cid")
    batch = tuple(s.request({"cpu": 4}, holder="eve", wait=LONG) for _ in range(2))
    s.when(AllocateBatch(command_id="b", items=batch, atomic=True))
    first = s.own[0].allocation
    assert first is not None
    s.refused({"cpu": 4}, holder="dan")
    told = why(s, first)
    assert "n1, n2 are kept for it, but not free yet" in told.answer
    assert told.facts["blockers"][0]["allocation"] == held[0]
    s.book.pools["box"].space.nodes.clear()
    assert not hold_up(s.book, s.book.allocations[first], s.now).blockers


def test_why_tells_of_a_batch_what_one_of_it_lacks_or_all_of_it() -> None:
    s = two_nodes()
    s.got({"cpu": 3}, holder="ann", ttl=LONG)
    s.got({"cpu": 1}, holder="bob", ttl=LONG, strategy="worst_fit")
    items = tuple(s.request({"cpu": n}, holder="eve", wait=LONG) for n in (1, 4))
    s.when(AllocateBatch(command_id="b", items=items, atomic=True))
    small, large = (e.allocation for e in s.own)
    assert small is not None and large is not None
    at_once = "the 2 requests of its batch are granted at once, and for"
    assert f"{at_once} {large}: box has no room" in why(s, small).answer
    assert f"{at_once} it: box has no room" in why(s, large).answer
    s.on(Withdraw, small, "eve")
    s.on(Withdraw, large, "eve")
    items = tuple(s.request({"cpu": 3}, holder="eve", wait=LONG) for _ in range(2))
    s.when(AllocateBatch(command_id="b2", items=items, atomic=True))
    first = s.own[0].allocation
    assert first is not None
    assert "no room for all of them now" in why(s, first).answer


def test_a_claim_that_preemption_makes_is_not_told_as_a_long_wait() -> None:
    s = Scenario()
    s.pool(policy={"preemption": "lower_priority", "grace_ns": 30 * SECOND}, n1={"cpu": 4})
    s.got({"cpu": 4}, priority="low", ttl=LONG)
    waiting = s.waits({"cpu": 4}, holder="boss", priority="high", wait=LONG)
    told = [sentence(e) for e in events_of(s, waiting)]
    assert told[-1] == "boss waits on, and what comes free on n1 is kept for it"


# --- why it holds ------------------------------------------------------------------------------------


def test_why_of_one_that_was_granted_after_a_wait_tells_of_the_grant() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4000})
    held = s.got({"cpu": 4000}, holder="ann", ttl=LONG)
    waiting = s.waits({"cpu": 2000}, holder="boss", wait=LONG)
    assert "when it asked, insufficient capacity (n1 lacked cpu=2)" in (
        story_of_allocation(events_of(s, waiting), s.now).answer
    )
    s.release(held, "ann")
    answer = why(s, waiting).answer
    assert answer.startswith(f"{waiting} is active: boss got cpu=2 of box on n1 after waiting")
    s.on(Adjust, waiting, "boss", amounts={"cpu": 1000})
    s.on(Transfer, waiting, "boss", to_holder="heir")
    assert why(s, waiting).answer.endswith("; it holds cpu=1 now; it is heir's now")


def test_why_of_a_reservation_tells_of_it_and_of_its_confirmation() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4000})
    a = s.got({"cpu": 4000}, holder="ann", reserve_ns=60 * SECOND)
    assert f"{a} is reserved: cpu=4 of box was reserved for ann on n1" in why(s, a).answer
    s.on(Confirm, a, "ann")
    answer = why(s, a).answer
    assert f"{a} is active: cpu=4 of box was reserved for ann" in answer
    assert "; ann confirmed the reservation" in answer


# --- which refusals are one --------------------------------------------------------------------------

FURTHER = (
    {"select": {"zone": "a"}},
    {"select": {"zone": "zzz"}},
    {"spread": 2},
    {"spread": 9},
    {"most": {"cpu": 9}},
    {"priority": "high"},
    {},
)


def test_refusals_of_requests_that_differ_in_more_than_amounts_are_not_one() -> None:
    s = Scenario()
    s.pool(
        policy={"claim_after_ns": 2**60},
        n1=NodeSpec("n1", {"cpu": 4}, {"zone": "a"}),
        n2=NodeSpec("n2", {"cpu": 4}, {"zone": "b"}),
    )
    for _ in range(2):
        s.got({"cpu": 4}, ttl=LONG)
    s.when(SetPolicy(command_id="p", pool="box", policy={"overtakes_max": 9}))
    told = []
    for _ in range(2):
        for options in FURTHER:
            s.now -= SECOND
            told.append(s.ask({"cpu": 2}, **options).position)
    half = len(FURTHER)
    assert len(set(told[:half])) == half, "each is one of its own"
    assert told[half:] == told[:half], "and the same again is a repeat"
