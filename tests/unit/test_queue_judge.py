"""The judge of the queue rejects what the rules do not allow: logs that were changed on purpose.

Each test takes a true log, which the judge accepts, and changes it as a fault of the rules would
have. What is changed is only what the fault is about; positions stay without gaps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ledger.commands import (
    Adjust,
    AllocateBatch,
    Confirm,
    OpenPool,
    Release,
    SetQuota,
    Transfer,
)
from ledger.events import (
    Adjusted,
    Allocated,
    Ending,
    Event,
    Queued,
    Released,
    Replenished,
)
from ledger.requests import NodeSpec, Placement
from tests.model.queue_forging import (
    LONG,
    accepted,
    box,
    changed,
    grant_of,
    last,
    rejected,
    swapped,
    without,
)
from tests.scenario import SECOND, Scenario


def two_wait(**policy: Any) -> tuple[Scenario, str, Event]:
    """Somebody was served, and another one with the same need waits on."""
    s = box(**policy)
    held = s.got({"cpu": 8}, ttl=LONG)
    first = s.waits({"cpu": 8}, holder="a", priority="high", wait=LONG)
    s.waits({"cpu": 8}, holder="b", wait=LONG)
    second = s.events[-1]
    s.release(held)
    return s, first, second


def test_it_rejects_a_grant_to_one_with_a_worse_place() -> None:
    s, first, second = two_wait()
    rejected(swapped(accepted(s), first, second), "has a better place")


def test_it_rejects_a_grant_out_of_strict_order() -> None:
    s, first, second = two_wait(order="fifo")
    rejected(swapped(accepted(s), first, second), "came before it")


def test_it_rejects_a_log_in_which_nobody_is_served() -> None:
    s, first, _ = two_wait()
    events = accepted(s)
    served = without(events, lambda e: e.allocation == first and isinstance(e.body, Allocated))
    rejected(served, "waits though there is room")


def test_it_rejects_a_share_that_comes_last_within_a_rank() -> None:
    s = box()
    s.got({"cpu": 4}, tenant="rich", ttl=LONG)
    held = s.got({"cpu": 4}, tenant="poor", ttl=LONG)
    s.waits({"cpu": 4}, tenant="rich", wait=LONG)
    rich = s.events[-1]
    poor = s.waits({"cpu": 4}, tenant="poor", wait=LONG)
    s.when_released(held, tenant="poor")
    rejected(swapped(accepted(s), poor, rich), "has a better place")


def claimed() -> tuple[Scenario, str]:
    """A large request that was overtaken twice has a claim."""
    s = box(overtakes_max=2, claim_after_ns=2**61)
    s.got({"cpu": 4}, ttl=LONG)
    large = s.waits({"cpu": 8}, holder="large", wait=LONG)
    for _ in range(2):
        s.got({"cpu": 1}, holder="small", ttl=LONG)
    s.refused({"cpu": 1}, holder="small")
    return s, large


def test_it_rejects_what_lands_on_a_claimed_node() -> None:
    s, large = claimed()
    events = accepted(s)
    rejected([*events, grant_of(events, 7)], f"n1 is kept for {large}")


def test_it_rejects_a_third_overtaking_without_a_claim() -> None:
    s, large = claimed()
    events = without(
        accepted(s),
        lambda e: isinstance(e.body, Queued) and "n1" in e.body.shortfall and not e.cause,
    )
    events = without(events, lambda e: e.type == "refused")
    rejected([*events, grant_of(events, 7)], f"it passes {large}, which has no claim after 2")


def test_it_rejects_a_claim_that_was_not_due() -> None:
    s, _ = claimed()
    events = accepted(s)
    claim = last(events, Queued)
    small = last(events[:claim], Allocated)
    without_one = [event for i, event in enumerate(events) if i != small]
    rejected(without_one, "it was passed 1 times")


def gang() -> Scenario:
    s = box()
    one, two = s.got({"cpu": 4}), s.got({"cpu": 4})
    items = tuple(s.request({"cpu": 3}, wait=1000, holder="gang") for _ in range(2))
    s.when(AllocateBatch(command_id="gang", items=items, atomic=True))
    s.release(one)
    s.release(two)
    return s


def test_it_rejects_a_gang_that_is_granted_in_part() -> None:
    events = accepted(gang())
    del events[last(events, Allocated)]
    rejected(events, "waits in part")


def test_it_rejects_a_spread_in_uneven_parts() -> None:
    s = box(2)
    s.ask({"cpu": 6}, spread=2)
    parts = tuple(Placement(n, {"cpu": c}, {"cpu": c}) for n, c in (("n1", 4), ("n2", 2)))
    rejected(changed(accepted(s), -1, placements=parts), "even part")


def test_it_rejects_a_grant_beyond_what_a_node_has() -> None:
    s = box()
    s.got({"cpu": 8}, ttl=LONG)
    events = accepted(s)
    rejected(
        [*events, replace(grant_of(events, 9), holder="x")], "over by|not in its range|all of it"
    )


def test_it_rejects_figures_of_use_that_do_not_add_up() -> None:
    s = box()
    s.got({"cpu": 3}, ttl=LONG)
    part = Placement("n1", {"cpu": 3}, {"cpu": 4})
    rejected(changed(accepted(s), -1, placements=(part,)), "has 3 cpu in use, not 4")


def elastic() -> Scenario:
    s = box()
    s.got({"cpu": 2}, most={"cpu": 8}, ttl=LONG)
    s.got({"cpu": 5}, holder="h2", ttl=LONG)
    return s


def test_it_rejects_an_elastic_allocation_below_its_least() -> None:
    events = accepted(elastic())
    part = (Placement("n1", {"cpu": 1}, {"cpu": 1}),)
    index = last(events, Adjusted)
    rejected(changed(events, index, amounts={"cpu": 1}, placements=part), "not in its range")


def test_it_rejects_a_shrinking_by_more_than_was_needed() -> None:
    events = accepted(elastic())
    index = last(events, Adjusted)
    part = (Placement("n1", {"cpu": 2}, {"cpu": 2}),)
    events = changed(events, index, amounts={"cpu": 2}, placements=part)
    part = (Placement("n1", {"cpu": 5}, {"cpu": 7}),)
    rejected(changed(events, index + 1, placements=part), "1 cpu more than was needed")


def test_it_rejects_a_shrinking_by_which_nobody_gets_in() -> None:
    events = accepted(elastic())
    rejected(events[:-1], "nobody got in by it")


def preempted(victim: str = "low", grace: int = 30) -> Scenario:
    s = box(preemption="lower_priority", grace_ns=grace * SECOND)
    s.got({"cpu": 4}, holder="old", priority="low", ttl=LONG)
    s.got({"cpu": 4}, holder="young", priority=victim, ttl=LONG)
    s.ask({"cpu": 3}, holder="boss", priority="high", wait=1000)
    s.later(grace + 1)
    s.settle()
    return s


def test_it_rejects_a_victim_of_equal_priority() -> None:
    events = accepted(preempted())
    young = next(
        i for i, e in enumerate(events) if e.holder == "young" and isinstance(e.body, Allocated)
    )
    body: Any = events[young].body
    request = replace(body.request, priority="high")
    rejected(changed(events, young, request=request), "may not send it away")


def test_it_rejects_an_old_victim_where_a_young_one_does() -> None:
    events = accepted(preempted())
    old = next(e for e in events if e.holder == "old")
    index = last(events, Ending)
    events = events[: index + 1]
    events[index] = replace(events[index], allocation=old.allocation, holder="old")
    rejected(events, "is younger than")


def test_it_rejects_more_victims_than_are_needed() -> None:
    events = accepted(preempted())
    old = next(e for e in events if e.holder == "old")
    index = last(events, Ending)
    more = replace(events[index], allocation=old.allocation, holder="old")
    rejected([*events[: index + 1], more], "were enough")


def test_it_rejects_a_reclaim_before_the_grace_is_over() -> None:
    events = accepted(preempted())
    index = next(i for i, e in enumerate(events) if e.type == "reclaimed")
    events[index] = replace(events[index], at=events[index].at - SECOND)
    rejected(events, "when its grace is over")


def budget() -> Scenario:
    s = Scenario()
    policy = {"refill": "reset", "refill_every_ns": 100 * SECOND}
    node = NodeSpec("api", {"tokens": 1000})
    s.when(OpenPool(command_id="o", pool="api", nodes=(node,), consumable=True, policy=policy))
    held = s.got({"tokens": 500}, pool="api", ttl=LONG)
    s.on(Release, held, consumed={"tokens": 1200})
    s.later(150)
    s.ask({"tokens": 900}, pool="api")
    s.later(100)
    s.ask({"tokens": 1000}, pool="api")
    return s


def test_it_rejects_a_refill_that_comes_one_period_late() -> None:
    events = accepted(budget())
    first = next(i for i, e in enumerate(events) if isinstance(e.body, Replenished))
    del events[first]
    rejected(events, "was to be refilled")


def test_it_rejects_a_refill_at_another_time_than_its_boundary() -> None:
    events = accepted(budget())
    index = last(events, Replenished)
    events[index] = replace(events[index], at=events[index].at + 1)
    rejected(events, "it is refilled at")


def test_it_rejects_an_overdraft_that_is_forgotten() -> None:
    events = accepted(budget())
    first = next(i for i, e in enumerate(events) if isinstance(e.body, Replenished))
    rejected(
        changed(events, first, available={"tokens": 1000}, overdraft={}), "there are 800 tokens"
    )


def test_it_rejects_what_outlives_its_lease() -> None:
    s = box()
    s.got({"cpu": 4}, ttl=10)
    s.later(20)
    s.settle()
    s.ask({"cpu": 1})
    events = without(accepted(s), lambda e: e.type == "expired")
    rejected(events, "has outlived its time|in use")


def test_it_rejects_a_loan_that_nobody_left_unused() -> None:
    s = box()
    for tenant in ("ann", "bob"):
        s.when(SetQuota(command_id=tenant, tenant=tenant, limits={"cpu": 4}, cohort="c"))
    s.got({"cpu": 2}, tenant="bob", ttl=LONG)
    s.got({"cpu": 6}, tenant="ann", ttl=LONG)
    events = accepted(s)
    lent = next(i for i, e in enumerate(events) if e.type == "quota_set" and e.tenant == "bob")
    rejected(changed(events, lent, limits={"cpu": 3}), "allows 4 cpu, not 6")


def test_it_rejects_a_second_request_where_duplicates_are_refused() -> None:
    s = box(duplicates="allow")
    s.got({"cpu": 1}, task="t", ttl=LONG)
    s.got({"cpu": 1}, task="t", ttl=LONG)
    events = accepted(s)
    rejected(changed(events, 1, policy={"duplicates": "refuse"}), "is a duplicate of")


def test_it_rejects_a_priority_above_the_highest_allowed() -> None:
    s = box()
    s.got({"cpu": 1}, priority="critical")
    rejected(changed(accepted(s), 1, policy={"max_priority": "high"}), "are not allowed")


def test_it_rejects_an_ending_of_what_has_ended() -> None:
    s = box()
    held = s.got({"cpu": 1})
    s.release(held)
    events = accepted(s)
    rejected([*events, events[last(events, Released)]], "ended before")


@pytest.mark.parametrize("handed_on", [True, False])
def test_the_youngest_was_granted_or_confirmed_last_whatever_token_it_has(handed_on: bool) -> None:
    s = Scenario()
    s.pool(policy={"order": "fair", "preemption": "lower_priority"}, n1={"cpu": 2})
    first = s.got({"cpu": 1}, ttl=5_000, **({} if handed_on else {"reserve_ns": 100 * SECOND}))
    second = s.got({"cpu": 1}, holder="h2", ttl=5_000)
    if handed_on:
        s.on(Transfer, first, to_holder="h3")
    else:
        s.on(Confirm, first)
    s.waits({"cpu": 1}, priority="high", holder="hi")
    (ending,) = [e for e in accepted(s) if isinstance(e.body, Ending)]
    assert ending.allocation == (second if handed_on else first)
    other = first if handed_on else second
    rejected([replace(e, allocation=other) if e is ending else e for e in s.events], "is younger")


def test_an_elastic_request_is_repeated_by_one_of_the_size_that_was_chosen_by_hand() -> None:
    s = Scenario()
    s.pool(policy={"duplicates": "refuse"}, n1={"cpu": 8})
    held = s.got({"cpu": 1}, most={"cpu": 4}, task="t", ttl=LONG)
    s.on(Adjust, held, amounts={"cpu": 3})
    assert s.refused({"cpu": 3}, task="t").reason == "duplicate_request"
    refusal = accepted(s)[-1]
    s.got({"cpu": 1}, task="t", ttl=LONG)
    accepted(s)
    # As if nobody had chosen the size.
    events = [e for e in s.events if e.position <= refusal.position and e.type != "adjusted"]
    rejected(events, "no other such request")
