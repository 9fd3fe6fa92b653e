"""The judge of the queue rejects faults around what draws on another allocation, and of roll-outs.

As :mod:`tests.unit.test_queue_judge`: true logs, which the judge accepts, are changed on purpose.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ledger.commands import (
    Adjust,
    AllocateBatch,
    Claim,
    CordonNode,
    Reclaim,
)
from ledger.events import (
    Adjusted,
    Allocated,
    Ending,
    Event,
    Queued,
    Reclaimed,
    Withdrawn,
)
from ledger.requests import Placement
from tests.model.queue_forging import (
    LONG,
    accepted,
    box,
    changed,
    forged,
    last,
    rejected,
    swapped,
    times_swapped,
    without,
)
from tests.scenario import PROCESS, Scenario


def nested(**policy: Any) -> Scenario:
    """A3 on n1 lends: A4 holds 2 of its 4 cpu, and A5, which waits for 3, has been there since."""
    s = box(2, **policy)
    parent = s.got({"cpu": 4}, priority="low", ttl=LONG)
    s.got({"cpu": 2}, parent=parent, priority="low", ttl=LONG)
    s.waits({"cpu": 3}, parent=parent, priority="high", wait=LONG)
    return s


def grown(events: list[Event], cpu: int, node: str = "n1", **fields: Any) -> list[Event]:
    """The log in which the first that draws on A3 got other amounts than it did."""
    body: Any = events[3].body
    part = (Placement(node, {"cpu": cpu}, {"cpu": cpu}),)
    request = replace(body.request, amounts={"cpu": cpu})
    return changed(events, 3, request=request, amounts={"cpu": cpu}, placements=part, **fields)


def test_it_rejects_what_is_drawn_beyond_what_is_held_or_where_nothing_is_held() -> None:
    events = accepted(nested())
    rejected(grown(events, 5), "n1 cannot take it")
    rejected(grown(events, 2, "n2"), "there is no n2")
    held = last(events, Allocated)
    counted = (Placement("n1", {"cpu": 2}, {"cpu": 6}),)
    rejected(changed(events, held, placements=counted), "n1 has 2 cpu in use, not 6")
    small = (Placement("n1", {"cpu": 1}, {"cpu": 1}),)
    less = Adjusted({"cpu": 1}, {"cpu": 4}, small)
    by_hand = forged(events, events[2], less, cause=events[2].cause)
    rejected(by_hand, "1 cpu on n1 more than A3 has there")


def test_it_rejects_a_card_that_the_parent_has_not() -> None:
    s = Scenario()
    s.pool(n1={"gpu": 2000})
    parent = s.got({"gpu": 1000}, ttl=LONG)
    s.got({"gpu": 500}, parent=parent, ttl=LONG)
    part = Placement("n1", {"gpu": 500}, {"gpu": 500}, {"gpu": {"1": 500}})
    rejected(changed(accepted(s), -1, placements=(part,)), "card 1 of n1 holds 500")


def test_it_rejects_drawing_on_what_is_anothers_or_is_asked_to_end() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 8})
    parent = s.got({"cpu": 4}, process=PROCESS)
    s.got({"cpu": 1}, parent=parent, ttl=LONG)
    operator = Claim("ops", operator=True)
    s.on(Reclaim, parent, claim=operator, cause="forced", process_alive=True)
    events = accepted(s)
    rejected(times_swapped(events, 3, 4), "A3 lends it nothing")
    events[3] = replace(events[3], tenant="other")
    rejected(events, "A3 lends it nothing")


def test_it_rejects_more_by_hand_of_what_is_asked_to_end() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 8})
    parent = s.got({"cpu": 4}, process=PROCESS)
    child = s.got({"cpu": 1}, parent=parent, ttl=LONG)
    s.on(Adjust, child, amounts={"cpu": 2})
    operator = Claim("ops", operator=True)
    s.on(Reclaim, parent, claim=operator, cause="forced", process_alive=True)
    rejected(times_swapped(accepted(s), 4, 5), "A3 lends nothing more")


def test_it_rejects_what_outlives_or_ends_before_what_it_draws_on() -> None:
    s = nested()
    s.when_released("A3", tenant="default")
    events = accepted(s)
    leaked, gone = last(events, Reclaimed), last(events, Withdrawn)
    rejected(
        [e for e in events if e is not events[leaked]], "draws on A3, which has ended|more than"
    )
    rejected([e for e in events if e is not events[gone]], "A5 draws on A3, which has ended")
    rejected(events[:leaked] + events[leaked + 1 : -1], "A3, which it drew on, goes on")
    early = replace(events[leaked], at=events[leaked].at - 1)
    rejected([early if e is events[leaked] else e for e in events], "it ends with A3")
    other: Any = Reclaimed("leaked", {}, "ledger")
    as_held = [replace(e, body=other) if e is events[gone] else e for e in events]
    rejected(as_held, "what waited is withdrawn")


def test_it_rejects_a_lender_that_is_shrunk_though_others_draw_on_it() -> None:
    s = box()
    parent = s.got({"cpu": 2}, most={"cpu": 8}, ttl=LONG)
    s.got({"cpu": 1}, parent=parent, ttl=LONG)
    events = accepted(s)
    body = Adjusted({"cpu": 7}, {"cpu": 8}, (Placement("n1", {"cpu": 7}, {"cpu": 7}),))
    rejected(forged(events, events[2], body), "draw on it")


def test_it_rejects_claims_and_victims_of_those_who_draw_on_another() -> None:
    s = nested(preemption="lower_priority")
    s.got({"cpu": 4}, holder="low", priority="low", ttl=LONG)
    s.got({"cpu": 8}, holder="low", priority="low", ttl=LONG)
    s.waits({"cpu": 3}, holder="boss", wait=LONG)
    events = accepted(s)
    away = events[last(events, Ending)]
    body: Any = away.body
    mine = replace(body, reason="A5 of h1 comes first")
    rejected([replace(e, body=mine) if e is away else e for e in events], "A5 draws on A3")
    child = [replace(e, allocation="A4", holder="h1") if e is away else e for e in events]
    rejected(child, "it draws on A3")
    body = events[4].body
    claim = replace(body, shortfall={"n2": {"cpu": 3}})
    rejected(forged(events[:5], events[4], claim), "there is no n2")


def test_it_rejects_refusals_and_waits_inside_for_what_is_so_outside() -> None:
    s = nested()
    s.refused({"cpu": 3}, parent="A3")
    events = accepted(s)
    rejected(changed(events, 5, reason="quota_exceeded"), "no matter of what draws on another")
    rejected(changed(events, 5, reason="no_such_allocation"), "A3 is there to be drawn on")
    rejected(changed(events, 5, reason="exceeds_pool"), "if nobody else were there")
    fewer = without(events, lambda e: e.allocation in ("A4", "A5"))
    rejected(fewer, "insufficient_capacity, and there is room")
    s = nested()
    s.when_released("A4", tenant="default")
    served = without(accepted(s), lambda e: e.allocation == "A5" and isinstance(e.body, Allocated))
    rejected(served, "A5 waits though there is room")


def test_who_draws_on_another_is_served_in_a_queue_of_its_own() -> None:
    s = nested()
    s.waits({"cpu": 3}, parent="A3", wait=LONG)
    second = s.events[-1]
    # Nobody outside passes those inside, and their claims keep nothing there.
    for _ in range(10):
        s.got({"cpu": 1}, holder="outside", ttl=LONG)
    s.when_released("A4", tenant="default")
    events = accepted(s)
    assert all(
        not e.body.shortfall for e in events[5:] if isinstance(e.body, Queued) and not e.cause
    )
    rejected(swapped(events, "A5", second), "has a better place")


@pytest.mark.parametrize("permille", [0, 1, 300, 1000])
def test_it_rejects_a_strategy_that_is_not_the_one_that_the_share_asks_for(permille: int) -> None:
    s = box(rollout_strategy="best_fit", rollout_permille=permille, strategy="worst_fit")
    held = s.got({"cpu": 8}, strategy="random")
    items = tuple(s.request({"cpu": 1}) for _ in range(3))
    s.waits({"cpu": 1}, wait=LONG)
    s.release(held)
    s.when(AllocateBatch(command_id="batch", items=items))
    events = accepted(s)
    for index, event in enumerate(events):
        if isinstance(event.body, Allocated):
            for other in {"best_fit", "worst_fit", "random"} - {event.body.strategy}:
                rejected(changed(events, index, strategy=other), f"not by {other}")


def test_it_rejects_what_grows_on_a_cordoned_node() -> None:
    s = box()
    held = s.got({"cpu": 1}, ttl=LONG)
    s.on(Adjust, held, amounts={"cpu": 2})
    s.when(CordonNode(command_id="c", pool="box", node="n1"))
    rejected(times_swapped(accepted(s), 3, 4), "nothing grows on")
