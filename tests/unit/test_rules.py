"""The rules as given events, when command, then events."""

from __future__ import annotations

import pytest

from ledger.commands import (
    Adjust,
    AllocateBatch,
    Claim,
    ClosePool,
    Confirm,
    CordonNode,
    ExtendTime,
    JoinNode,
    LeaveNode,
    ObserveCapacity,
    OpenLedger,
    OpenPool,
    Reclaim,
    RecordUsage,
    Release,
    Renew,
    RenewHolder,
    ResizePool,
    SeeHolder,
    SetPolicy,
    Transfer,
    Withdraw,
)
from ledger.errors import InvalidInput
from ledger.events import Adjusted, Allocated, Ending, Expired, Reclaimed, Refused, Renewed
from ledger.fields import book_digest, dump, load
from ledger.requests import NodeSpec
from tests.scenario import GIB, PROCESS, SECOND, Scenario, kinds


@pytest.fixture
def box() -> Scenario:
    """One pool ``box`` with nodes n1 (4 cores, 8 GiB) and n2 (8 cores, 8 GiB)."""
    scenario = Scenario()
    scenario.pool(
        policy={"order": "fifo"},
        n1={"cpu": 4000, "memory": 8 * GIB},
        n2={"cpu": 8000, "memory": 8 * GIB},
    )
    return scenario


@pytest.fixture
def cards() -> Scenario:
    """A pool ``box`` with one node of four cards."""
    scenario = Scenario()
    scenario.pool(n1={"gpu": 4000, "cpu": 64_000})
    return scenario


def grant_of(scenario: Scenario, allocation: str) -> Allocated:
    body = next(
        e.body for e in scenario.events if e.allocation == allocation and e.type == "allocated"
    )
    assert isinstance(body, Allocated)
    return body


# --- placing -----------------------------------------------------------------------------------------


def test_first_fit_takes_the_first_node_in_the_pools_order_that_has_room(box: Scenario) -> None:
    assert grant_of(box, box.got({"cpu": 3000})).placements[0].node == "n1"
    assert grant_of(box, box.got({"cpu": 3000})).placements[0].node == "n2"
    assert grant_of(box, box.got({"cpu": 1000})).placements[0].node == "n1"


def test_best_fit_takes_the_node_with_least_left_and_the_first_name_when_equal(
    box: Scenario,
) -> None:
    box.got({"cpu": 5000}, strategy="best_fit")
    assert box.in_use("n2", "cpu") == 5000
    placed = grant_of(box, box.got({"cpu": 3000}, strategy="best_fit"))
    assert placed.placements[0].node == "n2"
    assert placed.strategy == "best_fit"
    even = Scenario()
    even.pool(b={"cpu": 4000}, a={"cpu": 4000})
    assert grant_of(even, even.got({"cpu": 1000}, strategy="best_fit")).placements[0].node == "a"


def test_a_request_lands_whole_on_one_node_or_not_at_all(box: Scenario) -> None:
    assert box.refused({"cpu": 9000}).reason == "exceeds_pool"
    box.got({"cpu": 2000})
    box.got({"cpu": 5000})
    # Five cores are free in all, but no node has more than three.
    assert box.refused({"cpu": 4000}).reason == "insufficient_capacity"


def test_a_grant_says_what_its_node_has_in_use_after_it(box: Scenario) -> None:
    box.got({"cpu": 1000, "memory": GIB})
    second = grant_of(box, box.got({"cpu": 2000}))
    assert second.placements[0].in_use == {"cpu": 3000}


def test_a_selector_narrows_to_nodes_with_the_label_and_a_bar_means_either() -> None:
    scenario = Scenario()
    scenario.pool(
        n1=NodeSpec("n1", {"cpu": 1000}, {"model": "P100"}),
        n2=NodeSpec("n2", {"cpu": 1000}, {"model": "T4"}),
    )
    wanted = grant_of(scenario, scenario.got({"cpu": 500}, select={"model": "T4"}))
    assert wanted.placements[0].node == "n2"
    either = grant_of(scenario, scenario.got({"cpu": 500}, select={"model": "T4|P100"}))
    assert either.placements[0].node == "n1"
    assert scenario.refused({"cpu": 500}, select={"model": "A100"}).reason == "exceeds_pool"


def test_eight_half_free_cards_are_not_four_free_ones(cards: Scenario) -> None:
    for _ in range(4):
        cards.got({"gpu": 600})
    refusal = cards.refused({"gpu": 1000})
    assert refusal.reason == "insufficient_capacity"
    assert refusal.shortfall == {"n1": {"gpu": 1000}}


def test_a_share_goes_to_the_card_with_least_room_so_that_whole_cards_stay_whole(
    cards: Scenario,
) -> None:
    first = grant_of(cards, cards.got({"gpu": 500}))
    second = grant_of(cards, cards.got({"gpu": 300}))
    assert first.placements[0].devices == {"gpu": {"0": 500}}
    assert second.placements[0].devices == {"gpu": {"0": 300}}
    whole = grant_of(cards, cards.got({"gpu": 3000}))
    assert whole.placements[0].devices == {"gpu": {"1": 1000, "2": 1000, "3": 1000}}


def test_more_cards_than_a_node_has_are_never_granted(cards: Scenario) -> None:
    assert cards.refused({"gpu": 5000}).reason == "exceeds_pool"
    cards.got({"gpu": 2000})
    assert cards.refused({"gpu": 3000}).reason == "insufficient_capacity"


def test_nothing_lands_on_a_cordoned_node_until_it_is_uncordoned(box: Scenario) -> None:
    cordon = {"command_id": "x1", "pool": "box", "node": "n2"}
    assert kinds(box.when(CordonNode(**cordon))) == ["node_cordoned"]
    assert box.refused({"cpu": 6000}).reason == "insufficient_capacity"
    waiting = box.waits({"cpu": 6000})
    granted = box.when(CordonNode(**{**cordon, "command_id": "x2", "cordoned": False}))
    assert kinds(granted) == ["node_uncordoned", "allocated"]
    assert granted[1].allocation == waiting
    assert kinds(box.when(CordonNode(**{**cordon, "command_id": "x3", "cordoned": False}))) == []


# --- refusals ----------------------------------------------------------------------------------------


def test_a_refusal_names_the_shortfall_the_blockers_and_what_fits(box: Scenario) -> None:
    box.got({"cpu": 4000}, holder="a", task="t")
    box.got({"cpu": 5000}, holder="b")
    refusal = box.refused({"cpu": 4000}, holder="c")
    assert refusal.shortfall == {"n2": {"cpu": 1000}}
    assert refusal.fits_now == {"cpu": 3000}
    assert [b["holder"] for b in refusal.blockers] == ["b"]
    assert refusal.blockers[0]["amounts"] == {"cpu": 5000}


def test_another_tenants_blockers_show_amounts_only(box: Scenario) -> None:
    box.got({"cpu": 8000}, holder="secret", tenant="other")
    box.got({"cpu": 4000}, holder="secret", tenant="other")
    refusal = box.refused({"cpu": 4000}, holder="me")
    assert refusal.blockers
    assert all(set(b) == {"amounts", "since"} for b in refusal.blockers)


REFUSALS = {
    "no_such_pool": lambda s: s.refused({"cpu": 1000}, pool="nowhere"),
    "exceeds_pool": lambda s: s.refused({"cpu": 64_000}),
    "exceeds_pool, unknown resource": lambda s: s.refused({"tokens": 1}),
    "insufficient_capacity": lambda s: s.refused({"cpu": 8000}),
    "quota_exceeded": lambda s: s.refused({"memory": GIB}, tenant="poor"),
    "priority_not_allowed": lambda s: s.refused({"cpu": 1}, pool="calm", priority="high"),
    "observed_pool": lambda s: s.refused({"cpu": 1}, pool="seen"),
    "queue_full": lambda s: s.refused({"cpu": 8000}, pool="calm", wait=9),
    "reserved_for_waiting": lambda s: (s.waits({"cpu": 8000}), s.refused({"cpu": 100}))[1],
    "no_such_allocation, no parent": lambda s: s.refused({"cpu": 1}, parent="A999"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_each_refusal_has_its_reason(case: str, box: Scenario) -> None:
    box.pool("calm", policy={"max_priority": "normal", "queue_limit": 0}, c={"cpu": 8000})
    box.got({"cpu": 1000}, pool="calm")
    from ledger.commands import OpenPool

    node = NodeSpec("s", {"cpu": 1})
    box.when(OpenPool(command_id="seen", pool="seen", nodes=(node,), kind="observed"))
    box.quota({"memory": GIB - 1}, tenant="poor")
    box.got({"cpu": 1000})
    box.got({"cpu": 1000}, strategy="best_fit")
    box.got({"cpu": 6000})
    refusal = REFUSALS[case](box)
    assert refusal.reason == case.split(",")[0]
    assert refusal.message


def test_a_closed_pool_grants_nothing_and_tells_those_who_wait(box: Scenario) -> None:
    kept = box.got({"cpu": 8000})
    waiting = box.waits({"cpu": 8000})
    events = box.when(ClosePool(command_id="close", pool="box"))
    assert kinds(events) == ["pool_closed", "withdrawn"]
    assert events[1].allocation == waiting
    assert box.refused({"cpu": 1}).reason == "no_such_pool"
    assert kinds(box.release(kept)) == ["released"]
    box.pool("box", n9={"cpu": 1000})
    assert box.got({"cpu": 1000})


def test_a_pool_that_is_open_cannot_be_opened_again(box: Scenario) -> None:
    box.pool("box", n9={"cpu": 1000})
    body = box.own[0].body
    assert isinstance(body, Refused)
    assert body.reason == "already_exists"


# --- bad input never reaches the book ----------------------------------------------------------------


@pytest.mark.parametrize(
    "amounts",
    [
        {},
        {"cpu": 0},
        {"cpu": -1},
        {"cpu": 2**63},
        {"cpu": 1.5},
        {"cpu": True},
        {"CPU!": 1},
        {"gpu": 1500},
        {f"r{i}": 1 for i in range(40)},
    ],
)
def test_impossible_amounts_are_invalid_and_change_nothing(box: Scenario, amounts: dict) -> None:  # type: ignore[type-arg]
    before = book_digest(box.book)
    with pytest.raises(InvalidInput):
        box.ask(amounts)
    assert book_digest(box.book) == before


@pytest.mark.parametrize(
    "options",
    [
        {"holder": ""},
        {"holder": " x"},
        {"holder": "a\nb"},
        {"holder": "x" * 201},
        {"task": "\x00"},
        {"ttl": -1},
        {"ttl": 10**12},
        {"wait": -5},
        {"ttl": None},
        {"priority": "urgent"},
        {"strategy": "magic"},
        {"process": PROCESS, "ttl_ns": 5},
    ],
)
def test_impossible_options_are_invalid(box: Scenario, options: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises((InvalidInput, TypeError)):
        box.ask({"cpu": 1}, **options)


# --- leases ------------------------------------------------------------------------------------------


def test_a_lease_past_its_end_ends_at_its_end_however_late_it_is_written_down(
    box: Scenario,
) -> None:
    held = box.got({"cpu": 8000}, ttl=10)
    end = box.now + 10 * SECOND
    box.later(500)
    box.got({"cpu": 8000})
    expired = next(e for e in box.events if e.allocation == held and e.type == "expired")
    assert isinstance(expired.body, Expired)
    assert expired.at == end == expired.body.lease_until
    assert expired.recorded_at > expired.at


def test_a_timeout_ends_an_allocation_even_if_nobody_asks_for_anything(box: Scenario) -> None:
    held = box.got({"cpu": 8000}, ttl=10)
    box.later(11)
    assert [(e.type, e.allocation) for e in box.settle()] == [("expired", held)]
    assert box.in_use("n2", "cpu") == 0


def test_renewing_extends_never_shortens_and_stops_at_the_maximum_age(box: Scenario) -> None:
    held = box.got({"cpu": 1000}, ttl=100, max_age_ns=150 * SECOND)
    granted = box.now
    assert box.book.allocations[held].lease_until == granted + 100 * SECOND
    box.on(Renew, held, ttl_ns=SECOND)
    assert box.book.allocations[held].lease_until == granted + 100 * SECOND
    box.later(60).on(Renew, held)
    assert box.book.allocations[held].lease_until == granted + 150 * SECOND
    (event,) = box.on(Renew, held)
    assert isinstance(event.body, Refused)
    assert event.body.reason == "max_age_reached"
    box.later(200)
    (ended,) = box.settle()
    assert isinstance(ended.body, Expired)
    assert ended.body.why == "max_age"


def test_a_pools_maximum_age_bounds_what_asks_for_none(box: Scenario) -> None:
    box.when(SetPolicy(command_id="p", pool="box", policy={"max_age_ns": 5 * SECOND}))
    held = box.got({"cpu": 1000}, ttl=100)
    assert box.book.allocations[held].lease_until == box.now + 5 * SECOND


def test_all_leases_of_a_holder_are_renewed_with_one_event(box: Scenario) -> None:
    one = box.got({"cpu": 1000}, ttl=50)
    two = box.got({"cpu": 1000}, ttl=60)
    other = box.got({"cpu": 1000}, ttl=50, holder="h2")
    bound = box.got({"cpu": 1000}, process=PROCESS)
    before = box.book.allocations[other].lease_until
    events = box.when(RenewHolder(command_id="r", holder="h1"))
    assert kinds(events) == ["renewed"]
    body = events[0].body
    assert isinstance(body, Renewed)
    assert body.allocations == (one, two)
    assert box.book.allocations[one].lease_until == box.now + 50 * SECOND
    assert box.book.allocations[two].lease_until == box.now + 60 * SECOND
    assert box.book.allocations[other].lease_until == before
    assert box.book.allocations[bound].lease_until is None
    nobody = box.when(RenewHolder(command_id="r2", holder="nobody"))
    assert kinds(nobody) == ["refused"]


def test_a_process_bound_allocation_never_ends_for_age_alone(box: Scenario) -> None:
    held = box.got({"cpu": 1000}, process=PROCESS, max_age_ns=SECOND)
    box.later(10**6)
    assert box.settle() == []
    assert held in box.book.allocations
    (event,) = box.on(Renew, held)
    assert isinstance(event.body, Refused)
    assert event.body.reason == "invalid"


def test_time_in_which_nobody_could_renew_extends_the_leases_it_touched(box: Scenario) -> None:
    held = box.got({"cpu": 1000}, ttl=100)
    end = box.book.allocations[held].lease_until
    assert end is not None
    since = box.now
    events = box.when(
        ExtendTime(
            command_id="slept", by_ns=500 * SECOND, since=since, until=since + 500 * SECOND, why="x"
        )
    )
    assert kinds(events) == ["time_extended"]
    box.later(550)
    assert box.settle() == []
    assert box.book.allocations[held].lease_until == end + 500 * SECOND
    box.later(100)
    assert kinds(box.settle()) == ["expired"]


# --- tenure ------------------------------------------------------------------------------------------


def test_a_complete_allocation_cycle_leaves_the_pool_as_it_was(box: Scenario) -> None:
    held = box.got({"cpu": 2000, "memory": GIB}, task="build")
    assert box.in_use("n1", "cpu") == 2000
    box.on(Adjust, held, amounts={"cpu": 3000})
    box.on(Renew, held)
    assert kinds(box.release(held)) == ["released"]
    assert box.in_use("n1", "cpu") == box.in_use("n1", "memory") == 0
    assert box.book.allocations == {}
    folded = box.fold(held)
    assert folded is not None
    assert (folded.state, folded.ended_by) == ("ended", "released")


def test_an_adjust_grows_only_into_what_is_free_on_the_same_node(box: Scenario) -> None:
    held = box.got({"cpu": 2000})
    box.got({"cpu": 1000})
    (event,) = box.on(Adjust, held, amounts={"cpu": 3000})
    assert isinstance(event.body, Adjusted)
    assert event.body.previous == {"cpu": 2000}
    (refusal,) = box.on(Adjust, held, amounts={"cpu": 4000})
    assert isinstance(refusal.body, Refused)
    assert refusal.body.reason == "insufficient_capacity"
    (never,) = box.on(Adjust, held, amounts={"cpu": 5000})
    assert isinstance(never.body, Refused)
    assert never.body.reason == "exceeds_pool"
    assert box.in_use("n1", "cpu") == 4000


def test_an_adjust_can_add_and_give_up_resources_but_not_all(box: Scenario) -> None:
    held = box.got({"cpu": 2000})
    box.on(Adjust, held, amounts={"memory": GIB})
    assert box.book.allocations[held].amounts == {"cpu": 2000, "memory": GIB}
    box.on(Adjust, held, amounts={"cpu": 0})
    assert box.book.allocations[held].amounts == {"memory": GIB}
    (event,) = box.on(Adjust, held, amounts={"memory": 0})
    assert isinstance(event.body, Refused)
    assert event.body.reason == "invalid"


def test_an_adjust_keeps_the_cards_it_has(cards: Scenario) -> None:
    cards.got({"gpu": 1000})
    held = cards.got({"gpu": 2000})
    assert cards.book.allocations[held].placements[0].devices == {"gpu": {"1": 1000, "2": 1000}}
    cards.on(Adjust, held, amounts={"gpu": 3000})
    assert cards.book.allocations[held].placements[0].devices == {
        "gpu": {"1": 1000, "2": 1000, "3": 1000}
    }
    cards.on(Adjust, held, amounts={"gpu": 1000})
    assert cards.book.allocations[held].placements[0].devices == {"gpu": {"1": 1000}}


def test_shrinking_hands_what_is_freed_to_the_queue_in_the_same_step(box: Scenario) -> None:
    held = box.got({"cpu": 8000})
    box.got({"cpu": 4000})
    waiting = box.waits({"cpu": 3000}, holder="h2")
    events = box.on(Adjust, held, amounts={"cpu": 5000})
    assert [(e.type, e.allocation) for e in events] == [("adjusted", held), ("allocated", waiting)]
    assert len({e.recorded_at for e in events}) == 1


def test_a_resize_below_what_is_in_use_grants_nothing_until_it_heals(box: Scenario) -> None:
    held = box.got({"cpu": 8000})
    box.when(ResizePool(command_id="small", pool="box", nodes=(NodeSpec("n2", {"cpu": 4000}),)))
    box.got({"cpu": 4000})
    assert box.refused({"cpu": 100}).reason == "insufficient_capacity"
    box.on(Adjust, held, amounts={"cpu": 6000})
    assert box.in_use("n2", "cpu") == 6000
    assert box.refused({"cpu": 100}).reason == "insufficient_capacity"
    box.on(Adjust, held, amounts={"cpu": 3000})
    assert box.got({"cpu": 1000})


def test_only_the_holder_or_the_token_may_touch_an_allocation(box: Scenario) -> None:
    held = box.got({"cpu": 1000})
    token = box.book.allocations[held].token
    (stranger,) = box.release(held, who="h2")
    assert isinstance(stranger.body, Refused)
    assert stranger.body.reason == "not_holder"
    (stale,) = box.on(Release, held, claim=Claim("h1", token=token - 1))
    assert isinstance(stale.body, Refused)
    assert stale.body.reason == "stale_token"
    assert kinds(box.on(Release, held, claim=Claim("someone", token=token))) == ["released"]


def test_a_transfer_changes_the_token_and_renewing_and_adjusting_keep_it(box: Scenario) -> None:
    held = box.got({"cpu": 1000})
    token = box.book.allocations[held].token
    box.on(Renew, held)
    box.on(Adjust, held, amounts={"cpu": 500})
    assert box.book.allocations[held].token == token
    (event,) = box.on(Transfer, held, to_holder="h2")
    after = box.book.allocations[held]
    assert (after.holder, after.token) == ("h2", event.position)
    (stale,) = box.on(Release, held, claim=Claim("h1", token=token))
    assert isinstance(stale.body, Refused)
    assert stale.body.reason == "stale_token"
    assert kinds(box.release(held, who="h2")) == ["released"]


def test_a_transfer_of_a_process_bound_allocation_needs_a_new_bound(box: Scenario) -> None:
    held = box.got({"cpu": 1000}, process=PROCESS)
    (refusal,) = box.on(Transfer, held, to_holder="h2")
    assert isinstance(refusal.body, Refused)
    assert refusal.body.reason == "invalid"
    box.on(Transfer, held, to_holder="h2", ttl_ns=5 * SECOND)
    assert box.book.allocations[held].lease_until == box.now + 5 * SECOND
    box.on(Transfer, held, who="h2", to_holder="h3", process=PROCESS)
    assert box.book.allocations[held].lease_until is None


def test_a_transfer_counts_against_the_new_holders_quota_not_the_tenants(box: Scenario) -> None:
    held = box.got({"cpu": 2000})
    box.quota({"cpu": 2000})
    box.quota({"cpu": 1000}, holder="h2")
    (refusal,) = box.on(Transfer, held, to_holder="h2")
    assert isinstance(refusal.body, Refused)
    assert refusal.body.reason == "quota_exceeded"
    assert kinds(box.on(Transfer, held, to_holder="h3")) == ["transferred"]


def test_what_has_ended_is_told_from_what_never_was(box: Scenario) -> None:
    held = box.got({"cpu": 1000})
    box.release(held)
    (again,) = box.release(held)
    assert isinstance(again.body, Refused)
    assert again.body.reason == "already_ended"
    (never,) = box.release("A999")
    assert isinstance(never.body, Refused)
    assert never.body.reason == "no_such_allocation"


def test_another_tenants_allocation_does_not_exist_as_far_as_a_caller_can_tell(
    box: Scenario,
) -> None:
    held = box.got({"cpu": 1000}, tenant="other")
    (event,) = box.release(held)
    assert isinstance(event.body, Refused)
    assert event.body.reason == "no_such_allocation"
    assert event.tenant == "default"


def test_a_reservation_is_confirmed_voided_or_runs_out(box: Scenario) -> None:
    held = box.got({"cpu": 8000}, reserve_ns=30 * SECOND, ttl=100)
    assert box.book.allocations[held].state == "reserved"
    assert box.refused({"cpu": 8000}).reason == "insufficient_capacity"
    box.on(Confirm, held)
    confirmed = box.book.allocations[held]
    assert (confirmed.state, confirmed.lease_until) == ("active", box.now + 100 * SECOND)
    (again,) = box.on(Confirm, held)
    assert again.type == "refused"
    box.release(held)
    void = box.got({"cpu": 8000}, reserve_ns=30 * SECOND)
    assert kinds(box.on(Withdraw, void, cause="voided")) == ["withdrawn"]
    late = box.got({"cpu": 8000}, reserve_ns=30 * SECOND)
    box.later(31)
    assert [(e.type, e.allocation) for e in box.settle()] == [("withdrawn", late)]
    assert box.in_use("n2", "cpu") == 0


# --- taking back -------------------------------------------------------------------------------------


def test_a_reclaim_of_a_live_process_asks_first_and_returns_capacity_when_it_is_gone(
    box: Scenario,
) -> None:
    operator = Claim("ops", operator=True)
    held = box.got({"cpu": 8000}, process=PROCESS)
    (asked,) = box.on(
        Reclaim, held, claim=operator, cause="forced", process_alive=True, reason="maintenance"
    )
    assert isinstance(asked.body, Ending)
    assert box.book.allocations[held].state == "ending"
    assert box.in_use("n2", "cpu") == 8000
    (again,) = box.on(Reclaim, held, claim=operator, cause="forced", process_alive=True)
    assert again.type == "refused"
    box.later(10**6)
    assert box.settle() == []
    (gone,) = box.on(Reclaim, held, claim=operator, cause="crashed", evidence={"pid": 4242})
    assert isinstance(gone.body, Reclaimed)
    assert gone.body.cause == "forced"
    assert box.in_use("n2", "cpu") == 0


def test_releasing_what_was_asked_to_end_keeps_the_cause_it_was_asked_for(box: Scenario) -> None:
    held = box.got({"cpu": 1000}, process=PROCESS)
    box.on(Reclaim, held, claim=Claim("ops", operator=True), cause="forced", process_alive=True)
    (event,) = box.release(held)
    assert isinstance(event.body, Reclaimed)
    assert event.body.cause == "forced"
    assert event.body.evidence == {"released_by": "h1"}


def test_a_crash_happened_when_it_happened_not_when_it_was_seen(box: Scenario) -> None:
    held = box.got({"cpu": 1000}, process=PROCESS)
    died = box.now + 5 * SECOND
    box.later(60)
    (event,) = box.on(
        Reclaim,
        held,
        claim=Claim("sweep", operator=True),
        cause="crashed",
        evidence={"pid": 4242, "how": "gone"},
        happened_at=died,
    )
    assert event.at == died
    assert event.recorded_at == box.now
    folded = box.fold(held)
    assert folded is not None
    assert (folded.ended_by, folded.ended_at) == ("crashed", died)


def test_a_reservation_ends_no_earlier_than_it_was_made_after_it_had_waited(box: Scenario) -> None:
    first = box.got({"cpu": 8000})
    held = box.waits({"cpu": 6000}, process=PROCESS, reserve_ns=100 * SECOND)
    died = box.now + 5 * SECOND
    box.later(60)
    (_, reserved) = box.release(first)
    assert (reserved.type, reserved.allocation) == ("reserved", held)
    box.later(20)
    sweep = Claim("sweep", operator=True)
    (event,) = box.on(Reclaim, held, claim=sweep, cause="crashed", happened_at=died)
    assert died < reserved.at == event.at < box.now


def test_a_reservation_is_not_asked_to_end_but_ends(box: Scenario) -> None:
    held = box.got({"cpu": 8000}, process=PROCESS, reserve_ns=100 * SECOND)
    sweep = Claim("sweep", operator=True)
    (event,) = box.on(Reclaim, held, claim=sweep, cause="forced", process_alive=True)
    assert (event.body.cause, event.at) == ("forced", box.now)
    assert box.book.allocations == {}


# --- drawing on an allocation ------------------------------------------------------------------------


def test_a_nested_request_draws_on_its_parent_and_never_on_the_pool(box: Scenario) -> None:
    parent = box.got({"cpu": 4000})
    child = box.got({"cpu": 3000}, parent=parent)
    assert box.in_use("n1", "cpu") == 4000
    assert box.refused({"cpu": 2000}, parent=parent).reason == "insufficient_capacity"
    assert box.refused({"cpu": 5000}, parent=parent).reason == "exceeds_pool"
    waiting = box.waits({"cpu": 2000}, parent=parent)
    events = box.release(child)
    assert [(e.type, e.allocation) for e in events] == [("released", child), ("allocated", waiting)]


def test_what_draws_on_an_allocation_ends_with_it(box: Scenario) -> None:
    parent = box.got({"cpu": 4000})
    child = box.got({"cpu": 3000}, parent=parent)
    grandchild = box.got({"cpu": 1000}, parent=child)
    waiting = box.waits({"cpu": 4000}, parent=parent)
    events = box.release(parent)
    ended = [(e.type, e.allocation) for e in events]
    assert ended == [
        ("reclaimed", grandchild),
        ("reclaimed", child),
        ("withdrawn", waiting),
        ("released", parent),
    ]
    assert box.book.allocations == {}
    assert box.book.lent == {}


def test_a_parent_cannot_shrink_below_what_it_lends(box: Scenario) -> None:
    parent = box.got({"cpu": 4000})
    box.got({"cpu": 3000}, parent=parent)
    (event,) = box.on(Adjust, parent, amounts={"cpu": 2000})
    assert isinstance(event.body, Refused)
    assert event.body.reason == "insufficient_capacity"
    box.on(Adjust, parent, amounts={"cpu": 3500})
    assert box.refused({"cpu": 1000}, parent=parent).reason == "insufficient_capacity"
    assert box.got({"cpu": 500}, parent=parent)


def test_a_child_gets_cards_of_its_parent_only(cards: Scenario) -> None:
    cards.got({"gpu": 2000})
    parent = cards.got({"gpu": 2000})
    child = cards.got({"gpu": 1000}, parent=parent)
    assert cards.book.allocations[child].placements[0].devices == {"gpu": {"2": 1000}}
    share = cards.got({"gpu": 400}, parent=parent)
    assert cards.book.allocations[share].placements[0].devices == {"gpu": {"3": 400}}


# --- quotas ------------------------------------------------------------------------------------------


def test_quotas_hold_for_tenants_and_holders_in_one_pool_and_in_all(box: Scenario) -> None:
    box.quota({"cpu": 5000})
    box.quota({"cpu": 2000}, holder="h1", pool="box")
    box.got({"cpu": 2000})
    assert box.refused({"cpu": 1}).reason == "quota_exceeded"
    box.got({"cpu": 3000}, holder="h2")
    refusal = box.refused({"cpu": 1}, holder="h3")
    assert refusal.reason == "quota_exceeded"
    assert refusal.shortfall == {"quota": {"cpu": 1}}
    assert box.got({"memory": GIB}, holder="h3")
    assert box.got({"cpu": 4000}, tenant="other")
    box.quota({})
    assert box.got({"cpu": 1}, holder="h3")


def test_a_quota_below_what_is_held_takes_nothing_away_and_lets_nothing_through(
    box: Scenario,
) -> None:
    held = box.got({"cpu": 3000})
    box.quota({"cpu": 1000})
    assert held in box.book.allocations
    assert box.refused({"cpu": 1}).reason == "quota_exceeded"
    box.on(Adjust, held, amounts={"cpu": 500})
    assert box.got({"cpu": 500})


def test_what_asks_for_more_than_its_whole_quota_is_told_what_is_held_of_it(box: Scenario) -> None:
    box.got({"cpu": 3000})
    box.quota({"cpu": 1000})
    refusal = box.refused({"cpu": 2000})
    assert (refusal.shortfall, refusal.fits_now) == ({"quota": {"cpu": 4000}}, {})
    assert "may hold 1 cpu in all pools, holds 3 and asks for 2 more" in refusal.message


def test_what_asks_for_more_than_its_whole_quota_is_refused_even_if_it_would_wait(
    box: Scenario,
) -> None:
    box.quota({"cpu": 1000})
    assert box.refused({"cpu": 1001}, wait=100).reason == "quota_exceeded"


def test_growing_counts_against_the_quota(box: Scenario) -> None:
    box.quota({"cpu": 1000})
    held = box.got({"cpu": 1000})
    (event,) = box.on(Adjust, held, amounts={"cpu": 1500})
    assert isinstance(event.body, Refused)
    assert event.body.reason == "quota_exceeded"


# --- the queue ---------------------------------------------------------------------------------------


def test_waiting_requests_are_served_first_come_first_served(box: Scenario) -> None:
    held = box.got({"cpu": 8000})
    box.got({"cpu": 4000})
    first = box.waits({"cpu": 6000}, holder="a")
    second = box.waits({"cpu": 2000}, holder="b")
    events = box.release(held)
    assert [(e.type, e.allocation) for e in events] == [
        ("released", held),
        ("allocated", first),
        ("allocated", second),
    ]
    assert box.fold(first).requested_at < box.fold(first).granted_at  # type: ignore[union-attr,operator]


def test_the_first_in_line_keeps_what_it_lacks_from_those_behind_it(box: Scenario) -> None:
    big = box.got({"cpu": 5000}, strategy="best_fit")
    box.got({"cpu": 2000}, strategy="best_fit")
    first = box.waits({"cpu": 8000}, holder="big")
    assert box.refused({"cpu": 1000}).reason == "reserved_for_waiting"
    behind = box.waits({"cpu": 1000}, holder="small")
    elsewhere = box.got({"memory": GIB})
    assert elsewhere
    events = box.release(big)
    assert "allocated" not in kinds(events)
    assert list(box.book.pools["box"].space.waiting) == [first, behind]


def test_a_request_blocked_by_its_quota_blocks_nobody(box: Scenario) -> None:
    box.quota({"cpu": 4000}, holder="a")
    first = box.got({"cpu": 4000}, holder="a")
    blocked = box.waits({"cpu": 2000}, holder="a")
    assert box.got({"cpu": 2000}, holder="b")
    events = box.release(first, who="a")
    assert (events[1].type, events[1].allocation) == ("allocated", blocked)


def test_a_place_in_the_queue_runs_out_at_its_deadline(box: Scenario) -> None:
    box.got({"cpu": 8000})
    box.got({"cpu": 4000})
    waiting = box.waits({"cpu": 5000}, wait=10)
    deadline = box.now + 10 * SECOND
    behind = box.waits({"cpu": 4000}, wait=1000)
    box.later(60)
    events = box.settle()
    assert [(e.type, e.allocation, e.at) for e in events] == [("withdrawn", waiting, deadline)]
    assert behind in box.book.allocations


def test_withdrawing_lets_those_behind_through(box: Scenario) -> None:
    box.got({"cpu": 4000})
    box.got({"cpu": 6000})
    waiting = box.waits({"cpu": 8000})
    behind = box.waits({"cpu": 1000})
    events = box.on(Withdraw, waiting)
    assert [(e.type, e.allocation) for e in events] == [
        ("withdrawn", waiting),
        ("allocated", behind),
    ]


def test_a_waiting_request_can_neither_be_released_nor_renewed_nor_adjusted(
    box: Scenario,
) -> None:
    box.got({"cpu": 8000})
    box.got({"cpu": 4000})
    waiting = box.waits({"cpu": 1000})
    for command, fields in ((Release, {}), (Renew, {}), (Adjust, {"amounts": {"cpu": 1}})):
        (event,) = box.on(command, waiting, **fields)
        assert isinstance(event.body, Refused)
        assert event.body.reason == "invalid"
    held = box.got({"memory": GIB})
    (event,) = box.on(Withdraw, held)
    assert isinstance(event.body, Refused)


# --- batches -----------------------------------------------------------------------------------------


def batch(scenario: Scenario, *amounts: dict[str, int], atomic: bool) -> AllocateBatch:
    items = tuple(scenario.request(each) for each in amounts)
    return AllocateBatch(command_id=scenario.next_id(), items=items, atomic=atomic)


def test_an_atomic_batch_grants_all_or_none(box: Scenario) -> None:
    events = box.when(batch(box, {"cpu": 8000}, {"cpu": 4000}, {"cpu": 1}, atomic=True))
    assert kinds(events) == ["refused"]
    body = events[0].body
    assert isinstance(body, Refused)
    assert "item 2" in body.message
    assert box.book.allocations == {}
    assert box.in_use("n1", "cpu") == box.in_use("n2", "cpu") == 0
    events = box.when(batch(box, {"cpu": 8000}, {"cpu": 4000}, atomic=True))
    assert kinds(events) == ["allocated", "allocated"]
    assert [e.allocation for e in events] == [f"A{e.position}" for e in events]


def test_a_batch_that_is_not_atomic_grants_what_it_can(box: Scenario) -> None:
    events = box.when(batch(box, {"cpu": 8000}, {"cpu": 8000}, {"cpu": 4000}, atomic=False))
    assert kinds(events) == ["allocated", "refused", "allocated"]
    assert [e.cause.item for e in events if e.cause] == [0, 1, 2]


# --- nodes -------------------------------------------------------------------------------------------


def test_a_node_joins_and_leaves_only_when_unused(box: Scenario) -> None:
    waiting_for_room = box.got({"cpu": 4000}), box.got({"cpu": 8000})
    waiting = box.waits({"cpu": 2000})
    events = box.when(JoinNode(command_id="j", pool="box", node=NodeSpec("n3", {"cpu": 2000})))
    assert [(e.type, e.allocation) for e in events] == [
        ("node_joined", None),
        ("allocated", waiting),
    ]
    (refused,) = box.when(LeaveNode(command_id="l", pool="box", node="n3"))
    assert refused.type == "refused"
    box.release(waiting)
    assert kinds(box.when(LeaveNode(command_id="l2", pool="box", node="n3"))) == ["node_left"]
    assert waiting_for_room


# --- repeats and folding -----------------------------------------------------------------------------


def test_a_refusal_repeated_within_a_second_is_not_written_again(box: Scenario) -> None:
    from ledger.step import take_step

    box.refused({"cpu": 9999})
    first = box.own[0]
    step = take_step(box.book, box.request({"cpu": 9999}), box.now + 1000)
    assert step.events == []
    assert [e.position for e in step.repeats] == [first.position]
    assert step.own[0].position == first.position
    box.later(1)
    box.refused({"cpu": 9999})
    assert box.own[0].position > first.position


def test_a_book_survives_being_written_out_and_read_back(box: Scenario) -> None:
    parent = box.got({"cpu": 4000})
    box.got({"cpu": 1000}, parent=parent)
    box.waits({"cpu": 4000}, parent=parent)
    box.got({"cpu": 8000}, process=PROCESS, task="t", select=None)
    box.waits({"cpu": 1000})
    box.quota({"cpu": 99_000})
    box.refused({"cpu": 10**6})
    again = load(dump(box.book))
    assert dump(again) == dump(box.book)
    assert again.pools["box"].held == box.book.pools["box"].held
    assert again.by_holder == box.book.by_holder
    assert again.lent[parent].nodes["n1"].in_use == box.book.lent[parent].nodes["n1"].in_use
    assert again.recent_refusals == box.book.recent_refusals


def test_refusals_of_different_askers_or_amounts_are_not_one_repeated(box: Scenario) -> None:
    from ledger.step import take_step

    held = box.got({"cpu": 4000})
    box.got({"cpu": 8000})
    at_once = []
    for number, (who, amount) in enumerate((("x", 1), ("y", 1), ("h1", 4500), ("h1", 4600))):
        command = Adjust(
            command_id=f"r{number}", allocation=held, claim=Claim(who), amounts={"cpu": amount}
        )
        at_once.append(take_step(box.book, command, box.now + 1 + number))
    assert [len(step.events) for step in at_once] == [1, 1, 1, 1]
    again = Adjust(command_id="again", allocation=held, claim=Claim("x"), amounts={"cpu": 1})
    assert take_step(box.book, again, box.now + 9).events == []


def test_what_waits_has_no_token_that_could_be_right(box: Scenario) -> None:
    box.got({"cpu": 8000})
    box.got({"cpu": 4000})
    waiting = box.waits({"cpu": 1000})
    (event,) = box.on(Withdraw, waiting, claim=Claim("thief", token=0))
    assert isinstance(event.body, Refused)
    assert event.body.reason == "stale_token"


def test_an_allocation_never_moves_to_other_cards_to_grow(cards: Scenario) -> None:
    held = cards.got({"gpu": 300})
    cards.got({"gpu": 500})
    (event,) = cards.on(Adjust, held, amounts={"gpu": 600})
    assert isinstance(event.body, Refused)
    assert event.body.reason == "insufficient_capacity"
    assert "move" in event.body.message
    assert cards.book.allocations[held].placements[0].devices == {"gpu": {"0": 300}}
    cards.on(Adjust, held, amounts={"gpu": 500})
    assert cards.book.allocations[held].placements[0].devices == {"gpu": {"0": 500}}


def test_growing_asks_nothing_of_resources_that_do_not_grow(box: Scenario) -> None:
    held = box.got({"cpu": 1000, "memory": 4 * GIB})
    spec = NodeSpec("n1", {"memory": 2 * GIB})
    box.when(ResizePool(command_id="less", pool="box", nodes=(spec,)))
    box.on(Adjust, held, amounts={"cpu": 2000})
    assert box.book.allocations[held].amounts == {"cpu": 2000, "memory": 4 * GIB}
    box.on(Adjust, held, amounts={"cpu": 3000, "memory": 3 * GIB})
    assert box.book.allocations[held].amounts == {"cpu": 3000, "memory": 3 * GIB}


def test_a_transfer_is_bound_by_a_ttl_or_a_process_not_by_both(box: Scenario) -> None:
    held = box.got({"cpu": 1000})
    with pytest.raises(InvalidInput):
        box.on(Transfer, held, to_holder="h2", ttl_ns=SECOND, process=PROCESS)
    with pytest.raises(InvalidInput):
        box.on(Renew, held, ttl_ns=0)
    with pytest.raises(InvalidInput):
        box.on(Release, held, who="")


def test_use_of_what_never_was_is_refused(box: Scenario) -> None:
    usage = RecordUsage(command_id="u", allocation="A999", since=1, until=2, used={}, peak={})
    (event,) = box.when(usage)
    assert isinstance(event.body, Refused)
    assert event.body.reason == "no_such_allocation"


def test_a_ledger_that_is_open_is_opened_only_by_a_higher_epoch(box: Scenario) -> None:
    assert box.when(OpenLedger(command_id="again", ledger_id="other")) == []
    events = box.when(OpenLedger(command_id="restored", ledger_id="test", epoch=2))
    assert kinds(events) == ["ledger_opened"]
    assert box.book.epoch == 2


def test_an_event_that_does_not_follow_is_damage(box: Scenario) -> None:
    from dataclasses import replace

    from ledger.errors import LedgerCorrupt
    from ledger.evolve import evolve

    last = box.events[-1]
    with pytest.raises(LedgerCorrupt) as caught:
        evolve(box.book, replace(last, position=last.position + 2))
    assert caught.value.position == last.position + 2
    with pytest.raises(LedgerCorrupt):
        evolve(box.book, last)


@pytest.mark.parametrize(
    "nodes",
    [
        (NodeSpec("n", {"cpu": 1}), NodeSpec("n", {"cpu": 1})),
        (NodeSpec("n", {"gpu": 1500}),),
        (NodeSpec("n", {"gpu": 500}),),
        (NodeSpec("n", {"cpu": 1}, {f"l{i}": "x" for i in range(65)}),),
        (NodeSpec("n", {"cpu": 1}, {"": "x"}),),
        (),
    ],
)
def test_impossible_nodes_are_invalid(box: Scenario, nodes: tuple[NodeSpec, ...]) -> None:
    with pytest.raises(InvalidInput):
        box.when(OpenPool(command_id="x", pool="x", nodes=nodes))


def test_a_pool_is_managed_or_observed_and_nothing_else(box: Scenario) -> None:
    with pytest.raises(InvalidInput):
        box.when(OpenPool(command_id="x", pool="x", nodes=(NodeSpec("n", {"cpu": 1}),), kind="odd"))


def test_what_a_probe_says_has_bounds(box: Scenario) -> None:
    many = {f"r{i}": "x" for i in range(33)}
    for basis in (many, {"cpu": "a\nb"}, {"cpu": "x" * 501}):
        with pytest.raises(InvalidInput):
            box.when(
                ObserveCapacity(command_id="o", pool="box", node="n1", outside={}, basis=basis)
            )
    (event,) = box.when(ObserveCapacity(command_id="o2", pool="nowhere", node="n1", outside={}))
    assert isinstance(event.body, Refused)
    assert event.body.reason == "no_such_pool"


def test_only_so_many_holders_are_remembered(
    box: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.evolve.HOLDERS_REMEMBERED", 2)
    for name in ("ann", "bob", "cid"):
        box.when(SeeHolder(command_id=f"see-{name}", holder=name, process=PROCESS))
    assert list(box.book.holders) == [("default", "bob"), ("default", "cid")]


def test_what_is_recorded_of_an_observed_pool_is_not_kept_account_of(box: Scenario) -> None:
    from dataclasses import replace

    from ledger.evolve import evolve

    node = NodeSpec("s", {"cpu": 1})
    box.when(OpenPool(command_id="seen", pool="seen", nodes=(node,), kind="observed"))
    box.got({"cpu": 1000})
    grant = box.own[0]
    evolve(box.book, replace(grant, position=grant.position + 1, pool="seen", allocation="A99"))
    assert "A99" not in box.book.allocations
    assert box.book.position == grant.position + 1
