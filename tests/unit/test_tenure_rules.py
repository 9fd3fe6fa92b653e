"""Elastic requests, preemption, cohorts, budgets, unmanaged use: what changes while it is held."""

from __future__ import annotations

import pytest

from ledger.commands import (
    Adjust,
    Claim,
    ObserveCapacity,
    OpenPool,
    Reclaim,
    Release,
    SetPolicy,
    SetQuota,
)
from ledger.errors import InvalidInput
from ledger.events import Adjusted, Allocated, Ending, Reclaimed, Refused, Replenished
from ledger.fields import dump, load
from ledger.requests import NodeSpec
from tests.scenario import PROCESS, SECOND, Scenario, kinds


@pytest.fixture
def box() -> Scenario:
    s = Scenario()
    s.pool(n1={"cpu": 8000, "gpu": 4000})
    return s


def amounts(s: Scenario, allocation: str) -> dict[str, int]:
    return s.book.allocations[allocation].amounts


# --- elastic -----------------------------------------------------------------------------------------


def test_an_elastic_request_gets_what_is_free_in_its_range(box: Scenario) -> None:
    assert amounts(box, box.got({"cpu": 2000}, most={"cpu": 6000})) == {"cpu": 6000}
    assert amounts(box, box.got({"cpu": 1000}, most={"cpu": 6000}, holder="h2")) == {"cpu": 2000}


def test_an_elastic_allocation_shrinks_for_a_newcomer_but_never_below_its_least(
    box: Scenario,
) -> None:
    elastic = box.got({"cpu": 2000}, most={"cpu": 8000})
    events = box.when(box.request({"cpu": 5000}, holder="h2"))
    assert kinds(events) == ["adjusted", "allocated"]
    body = events[0].body
    assert isinstance(body, Adjusted)
    assert (body.amounts, body.previous, body.by) == ({"cpu": 3000}, {"cpu": 8000}, "ledger")
    assert amounts(box, elastic) == {"cpu": 3000}
    assert box.refused({"cpu": 2000}, holder="h3").reason == "insufficient_capacity"
    assert amounts(box, elastic) == {"cpu": 3000}
    assert box.got({"cpu": 1000}, holder="h3")
    assert amounts(box, elastic) == {"cpu": 2000}


def test_an_elastic_allocation_grows_into_what_is_freed(box: Scenario) -> None:
    other = box.got({"cpu": 6000}, holder="h2")
    elastic = box.got({"cpu": 1000}, most={"cpu": 5000})
    assert amounts(box, elastic) == {"cpu": 2000}
    events = box.release(other, who="h2")
    assert kinds(events) == ["released", "adjusted"]
    assert amounts(box, elastic) == {"cpu": 5000}
    assert box.in_use("n1", "cpu") == 5000


def test_nothing_grows_while_somebody_waits_for_what_it_would_take(box: Scenario) -> None:
    one = box.got({"cpu": 3000}, holder="a")
    box.got({"cpu": 4000}, holder="b")
    elastic = box.got({"cpu": 1000}, most={"cpu": 8000})
    waiting = box.waits({"cpu": 4000}, holder="c")
    box.release(one, who="a")
    assert amounts(box, elastic) == {"cpu": 1000}
    assert waiting in box.book.pools["box"].space.waiting


def test_a_waiting_request_is_served_by_shrinking(box: Scenario) -> None:
    held = box.got({"cpu": 6000}, holder="a")
    elastic = box.got({"cpu": 1000}, most={"cpu": 2000})
    waiting = box.waits({"cpu": 7000}, holder="c")
    events = box.release(held, who="a")
    assert [(e.type, e.allocation) for e in events] == [
        ("released", held),
        ("adjusted", elastic),
        ("allocated", waiting),
    ]


def test_whoever_sets_the_size_by_hand_is_stretched_no_more(box: Scenario) -> None:
    elastic = box.got({"cpu": 1000}, most={"cpu": 8000})
    box.on(Adjust, elastic, amounts={"cpu": 3000})
    assert amounts(box, elastic) == {"cpu": 3000}
    box.release(box.got({"cpu": 1000}, holder="h2"), who="h2")
    assert amounts(box, elastic) == {"cpu": 3000}


def test_elastic_cards_come_and_go_whole(box: Scenario) -> None:
    elastic = box.got({"gpu": 1000}, most={"gpu": 4000})
    assert amounts(box, elastic) == {"gpu": 4000}
    box.got({"gpu": 500}, holder="h2")
    assert amounts(box, elastic) == {"gpu": 3000}
    box.got({"gpu": 2000}, holder="h3")
    assert amounts(box, elastic) == {"gpu": 1000}
    assert box.refused({"gpu": 1000}, holder="h4").reason == "insufficient_capacity"


def test_stretching_respects_the_quota(box: Scenario) -> None:
    box.quota({"cpu": 3000})
    elastic = box.got({"cpu": 1000}, most={"cpu": 8000})
    assert amounts(box, elastic)["cpu"] <= 3000


# --- preemption --------------------------------------------------------------------------------------


def preempting(grace_s: int = 30) -> Scenario:
    s = Scenario()
    policy = {"preemption": "lower_priority", "grace_ns": grace_s * SECOND}
    s.pool(policy=policy, n1={"cpu": 8000})
    return s


def test_a_higher_priority_asks_the_youngest_of_the_fewest_to_go() -> None:
    s = preempting()
    s.got({"cpu": 4000}, holder="old", priority="low", ttl=10**6)
    young = s.got({"cpu": 4000}, holder="young", priority="low", ttl=10**6)
    events = s.when(s.request({"cpu": 3000}, holder="boss", priority="high", wait=1000))
    waiting = events[0].allocation
    assert [(e.type, e.allocation) for e in events] == [
        ("queued", waiting),
        ("ending", young),
        ("queued", waiting),
    ]
    body = events[1].body
    assert isinstance(body, Ending)
    assert body.cause == "preempted"
    assert waiting is not None and waiting in body.reason
    assert s.book.allocations[young].state == "ending"
    s.later(31)
    events = s.settle()
    assert [(e.type, e.allocation) for e in events] == [
        ("reclaimed", young),
        ("allocated", waiting),
    ]
    assert isinstance(events[0].body, Reclaimed)
    assert events[0].body.cause == "preempted"
    assert events[0].body.enforced is False


def test_a_preempted_process_keeps_its_capacity_until_it_is_gone() -> None:
    s = preempting()
    victim = s.got({"cpu": 8000}, holder="v", priority="low", process=PROCESS)
    waiting = s.waits({"cpu": 8000}, holder="boss", priority="high", wait=10**5)
    s.later(1000)
    assert s.settle() == []
    assert s.in_use("n1", "cpu") == 8000
    events = s.on(
        Reclaim, victim, claim=Claim("sweep", operator=True), cause="crashed", evidence={"pid": 1}
    )
    assert [(e.type, e.allocation) for e in events] == [
        ("reclaimed", victim),
        ("allocated", waiting),
    ]
    assert events[0].body.cause == "preempted"  # type: ignore[union-attr]


def test_without_grace_what_has_no_process_goes_at_once() -> None:
    s = preempting(0)
    victim = s.got({"cpu": 8000}, holder="v", priority="low", ttl=10**6)
    events = s.when(s.request({"cpu": 1000}, holder="boss", priority="normal", wait=100))
    assert kinds(events)[:2] == ["queued", "reclaimed"]
    assert events[1].allocation == victim
    assert kinds(events)[-1] == "allocated"


def test_equal_or_higher_priorities_and_ageing_never_preempt() -> None:
    s = preempting()
    s.got({"cpu": 8000}, holder="v", priority="normal", ttl=10**6)
    s.waits({"cpu": 1000}, holder="same", priority="normal", wait=10**6)
    s.waits({"cpu": 1000}, holder="aged", priority="low", wait=10**6)
    s.later(10**5)
    s.ask({"cpu": 1}, holder="tick", priority="low")
    assert "ending" not in kinds(s.events)


def test_nobody_is_sent_away_in_vain() -> None:
    s = preempting()
    s.got({"cpu": 6000}, holder="peer", priority="high", ttl=10**6)
    s.got({"cpu": 2000}, holder="low", priority="low", ttl=10**6)
    s.waits({"cpu": 3000}, holder="boss", priority="high", wait=1000)
    assert "ending" not in kinds(s.events)


def test_a_pool_that_never_preempts_does_not(box: Scenario) -> None:
    box.got({"cpu": 8000}, priority="low")
    box.waits({"cpu": 1000}, priority="critical", holder="h2")
    assert "ending" not in kinds(box.events)


# --- cohorts -----------------------------------------------------------------------------------------


def cohort() -> Scenario:
    s = Scenario()
    s.pool(policy={"grace_ns": 10 * SECOND}, n1={"cpu": 8000})
    for tenant in ("ann", "bob"):
        s.when(SetQuota(command_id=f"q-{tenant}", tenant=tenant, limits={"cpu": 4000}, cohort="c"))
    return s


def test_a_tenant_borrows_what_its_cohort_leaves_unused_and_no_more() -> None:
    s = cohort()
    assert s.got({"cpu": 7000}, tenant="ann")
    assert s.refused({"cpu": 2000}, tenant="ann").reason == "quota_exceeded"
    assert s.refused({"cpu": 9000}, tenant="ann").reason in ("quota_exceeded", "exceeds_pool")


def test_what_was_borrowed_is_given_back_when_its_owner_asks() -> None:
    s = cohort()
    own = s.got({"cpu": 4000}, tenant="ann", ttl=10**6)
    borrowed = s.got({"cpu": 4000}, tenant="ann", ttl=10**6)
    waiting = s.waits({"cpu": 3000}, tenant="bob", wait=10**5)
    assert s.book.allocations[borrowed].state == "ending"
    assert s.book.allocations[own].state == "active"
    s.later(11)
    s.settle()
    assert s.fold(waiting).state == "active"  # type: ignore[union-attr]


def test_within_its_own_quota_a_tenant_is_not_sent_away() -> None:
    s = cohort()
    s.got({"cpu": 4000}, tenant="ann", ttl=10**6)
    s.got({"cpu": 4000}, tenant="bob", ttl=10**6)
    s.ask({"cpu": 1000}, tenant="bob", wait=10)
    assert "ending" not in kinds(s.events)


# --- budgets -----------------------------------------------------------------------------------------

HOUR = 3600


def budget(**policy: object) -> Scenario:
    s = Scenario()
    settings = {"refill": "reset", "refill_every_ns": HOUR * SECOND, **policy}
    s.when(
        OpenPool(
            command_id="open-api",
            pool="api",
            nodes=(NodeSpec("api", {"tokens": 1000}),),
            consumable=True,
            policy=settings,
        )
    )
    return s


def spend(s: Scenario, reserve: int, consumed: int | None, **options: object) -> str:
    held = s.got({"tokens": reserve}, pool="api", **options)
    s.on(Release, held, consumed=None if consumed is None else {"tokens": consumed})
    return held


def available(s: Scenario) -> int:
    node = s.book.pools["api"].space.nodes["api"]
    return node.capacity["tokens"] - node.in_use.get("tokens", 0)


def test_a_release_settles_what_was_reserved_with_what_was_consumed() -> None:
    s = budget()
    spend(s, 500, 88)
    assert available(s) == 912


def test_what_nobody_settled_counts_as_consumed() -> None:
    s = budget()
    spend(s, 300, None)
    s.got({"tokens": 200}, pool="api", ttl=5)
    s.later(10)
    s.settle()
    assert available(s) == 500


def test_a_budget_is_refilled_when_due_whether_or_not_anybody_has_come_by() -> None:
    s = budget()
    opened = s.now
    spend(s, 1000, None)
    assert s.refused({"tokens": 1}, pool="api").reason == "insufficient_capacity"
    s.later(3 * HOUR + 100)
    assert s.got({"tokens": 1000}, pool="api")
    refills = [e for e in s.events if e.type == "replenished"]
    assert [e.at for e in refills] == [opened + 3 * HOUR * SECOND]
    assert refills[0].body.available == {"tokens": 1000}  # type: ignore[union-attr]


def test_a_waiting_request_is_granted_by_the_refill() -> None:
    s = budget()
    spend(s, 900, None)
    waiting = s.waits({"tokens": 500}, pool="api", wait=2 * HOUR)
    s.later(HOUR)
    events = s.settle()
    assert [(e.type, e.allocation) for e in events] == [
        ("replenished", None),
        ("allocated", waiting),
    ]


def test_over_consumption_is_an_overdraft_charged_to_the_periods_that_follow() -> None:
    s = budget()
    spend(s, 1000, 2500)
    assert available(s) == -1500
    s.later(HOUR)
    (event,) = s.settle()
    assert isinstance(event.body, Replenished)
    assert event.body.overdraft == {"tokens": 1500}
    assert available(s) == -500
    s.later(HOUR)
    s.settle()
    assert available(s) == 500
    s.later(HOUR)
    s.settle()
    assert available(s) == 1000


def test_reserved_tokens_survive_a_refill_and_are_not_doubled() -> None:
    s = budget()
    held = s.got({"tokens": 400}, pool="api", ttl=10**6)
    s.later(HOUR)
    s.settle()
    assert available(s) == 600
    s.on(Release, held, consumed={"tokens": 100})
    assert available(s) == 900


def test_a_budget_that_is_added_to_never_exceeds_its_capacity() -> None:
    s = budget(refill="add", refill_amounts={"tokens": 200})
    spend(s, 500, None)
    s.later(HOUR)
    s.settle()
    assert available(s) == 700
    s.later(10 * HOUR)
    s.settle()
    assert available(s) == 1000


def test_a_schedule_that_begins_in_the_past_is_caught_up_at_once() -> None:
    s = budget(refill_from=1)
    assert s.book.pools["api"].next_refill == 1 + HOUR * SECOND
    spend(s, 10, None)
    assert s.book.pools["api"].refilled_at > 1 or available(s) == 990


def test_consumption_is_refused_where_nothing_is_consumed(box: Scenario) -> None:
    held = box.got({"cpu": 1000})
    (event,) = box.on(Release, held, consumed={"cpu": 1})
    assert isinstance(event.body, Refused)
    assert event.body.reason == "invalid"
    s = budget()
    tokens = s.got({"tokens": 5}, pool="api")
    (event,) = s.on(Release, tokens, consumed={"dollars": 1})
    assert isinstance(event.body, Refused)


@pytest.mark.parametrize(
    ("consumable", "count", "policy"),
    [(True, 2, {}), (False, 1, {"refill": "reset", "refill_every_ns": 10**9})],
)
def test_impossible_budgets_are_invalid(
    box: Scenario, consumable: bool, count: int, policy: dict[str, object]
) -> None:
    nodes = tuple(NodeSpec(f"n{i}", {"tokens": 5}) for i in range(count))
    with pytest.raises(InvalidInput):
        box.when(
            OpenPool(
                command_id="x", pool="x", nodes=nodes, consumable=consumable, policy=dict(policy)
            )
        )


def test_a_budget_survives_being_written_out_and_read_back() -> None:
    s = budget()
    spend(s, 1000, 1200)
    again = load(dump(s.book))
    assert dump(again) == dump(s.book)
    assert again.pools["api"].next_refill == s.book.pools["api"].next_refill


# --- roll-outs, unmanaged use, estimates -------------------------------------------------------------


def test_a_rollout_sends_its_share_of_requests_through_another_strategy_and_records_it() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 10**7}, n2={"cpu": 10**6})
    policy = {"rollout_strategy": "best_fit", "rollout_permille": 300}
    s.when(SetPolicy(command_id="p", pool="box", policy=policy))
    used = [s.ask({"cpu": 1}, holder=f"h{i}").body.strategy for i in range(400)]  # type: ignore[union-attr]
    assert 70 <= used.count("best_fit") <= 170
    assert set(used) == {"first_fit", "best_fit"}


def test_what_others_use_outside_the_ledger_is_not_handed_out(box: Scenario) -> None:
    see = ObserveCapacity(command_id="o1", pool="box", node="n1", outside={"cpu": 5000})
    assert kinds(box.when(see)) == ["capacity_observed"]
    refusal = box.refused({"cpu": 4000})
    assert refusal.reason == "unmanaged_use"
    assert refusal.shortfall == {"n1": {"cpu": 1000}}
    assert refusal.fits_now == {"cpu": 3000}
    assert box.got({"cpu": 3000})
    waiting = box.waits({"cpu": 4000}, holder="h2")
    gone = ObserveCapacity(command_id="o2", pool="box", node="n1", outside={"cpu": 0})
    events = box.when(gone)
    assert [(e.type, e.allocation) for e in events] == [
        ("capacity_observed", None),
        ("allocated", waiting),
    ]
    same = ObserveCapacity(command_id="o3", pool="box", node="n1", outside={})
    assert box.when(same) == []


def test_a_refusal_says_when_it_may_fit_going_by_leases(box: Scenario) -> None:
    box.got({"cpu": 8000}, ttl=100)
    refusal = box.refused({"cpu": 1000}, holder="h2")
    assert "99 s" in refusal.hint
    assert "ends of leases" in refusal.hint


def test_a_refusal_says_when_it_may_fit_going_by_habit(box: Scenario) -> None:
    for _ in range(3):
        held = box.got({"cpu": 1000}, task="build")
        box.later(39)
        box.release(held)
    box.got({"cpu": 8000}, task="build", process=PROCESS)
    refusal = box.refused({"cpu": 1000}, holder="h2")
    assert "39 s" in refusal.hint
    assert "usually" in refusal.hint


def test_where_nothing_tells_no_time_is_invented(box: Scenario) -> None:
    box.got({"cpu": 8000}, process=PROCESS)
    refusal = box.refused({"cpu": 1000}, holder="h2")
    assert "may fit" not in refusal.hint


def test_a_grant_body_keeps_the_request_as_it_was_asked(box: Scenario) -> None:
    body = box.ask({"cpu": 1000}, most={"cpu": 2000}).body
    assert isinstance(body, Allocated)
    assert body.request.amounts == {"cpu": 1000}
    assert body.request.most == {"cpu": 2000}
    assert body.amounts == {"cpu": 2000}
