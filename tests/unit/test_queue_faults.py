"""Where the rules once parted from their statement in ``docs/queue.md``, as given / when / then.

Found by the state machine in ``tests/integration/test_queue_machine.py``.
"""

from __future__ import annotations

from ledger.commands import CordonNode, ObserveCapacity, SetQuota
from tests.scenario import PROCESS, SECOND, Scenario

LONG = 10**6


def test_a_claimant_that_sends_others_away_waits_no_longer_than_its_first_claim_promised() -> None:
    s = Scenario()
    policy = {"overtakes_max": 0, "preemption": "lower_priority", "grace_ns": 10 * SECOND}
    s.pool(policy=policy, n1={"cpu": 4}, n2={"cpu": 4})
    s.got({"cpu": 1}, holder="short", ttl=60)
    pad = s.got({"cpu": 3}, holder="pad", ttl=LONG)
    high = s.got({"cpu": 2}, holder="high", priority="high", ttl=LONG)
    s.release(pad, who="pad")
    waiting = s.waits({"cpu": 4}, holder="large", wait=LONG)
    assert s.book.pools["box"].space.claims == {"n1": waiting}
    # The other node is not kept: somebody of a lower priority may land there.
    s.got({"cpu": 2}, holder="low", priority="low", process=PROCESS)
    s.release(high, who="high")
    # What is bound to a process goes when it likes; until then nothing else may take the first node.
    s.ask({"cpu": 1}, holder="newcomer", ttl=LONG)
    s.later(61)
    s.settle()
    folded = s.fold(waiting)
    assert folded is not None and folded.state == "active"


def test_a_tenant_that_borrows_is_not_limited_in_what_only_others_are_limited_in() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 12, "memory": 12})
    for tenant, limits in (("ann", {"cpu": 4}), ("bob", {"cpu": 4, "memory": 2})):
        s.when(SetQuota(command_id=tenant, tenant=tenant, limits=limits, cohort="kin"))
    s.got({"cpu": 3, "memory": 3}, tenant="ann", ttl=LONG)
    assert s.got({"cpu": 2, "memory": 3}, tenant="ann", ttl=LONG)


def test_the_younger_of_two_goes_where_either_would_make_room() -> None:
    s = Scenario()
    policy = {"preemption": "lower_priority", "grace_ns": 0}
    s.pool(policy=policy, n1={"cpu": 9, "memory": 6, "gpu": 1000})
    share = s.got({"cpu": 1, "gpu": 500}, holder="share", ttl=LONG)
    old = s.got({"memory": 3}, holder="old", ttl=LONG)
    young = s.got({"memory": 3}, holder="young", ttl=LONG)
    s.waits({"gpu": 1000, "memory": 2}, holder="large", priority="high")
    gone = [each for each in (share, old, young) if each not in s.book.allocations]
    assert gone == [share, young]


def test_one_large_allocation_goes_rather_than_two_younger_ones() -> None:
    s = Scenario()
    policy = {"preemption": "lower_priority", "grace_ns": 0}
    s.pool(policy=policy, n1={"cpu": 8})
    large = s.got({"cpu": 4}, holder="large", ttl=LONG)
    small = [s.got({"cpu": 2}, holder="small", ttl=LONG) for _ in range(2)]
    s.waits({"cpu": 4}, holder="high", priority="high")
    assert large not in s.book.allocations
    assert all(each in s.book.allocations for each in small)


def test_nobody_is_sent_away_for_what_an_elastic_one_can_give_back() -> None:
    s = Scenario()
    policy = {"preemption": "lower_priority", "grace_ns": 0}
    s.pool(policy=policy, n1={"cpu": 6, "memory": 6})
    elastic = s.got({"cpu": 3, "memory": 1}, most={"cpu": 3, "memory": 3}, holder="e", ttl=LONG)
    other = s.got({"cpu": 3, "memory": 3}, holder="other", ttl=LONG)
    waiting = s.waits({"cpu": 2, "memory": 4}, holder="high", priority="high")
    assert elastic in s.book.allocations
    assert other not in s.book.allocations
    assert s.book.allocations[waiting].state == "active"


def test_whoever_is_due_a_claim_is_not_passed_at_the_moment_its_node_is_free_of_claims() -> None:
    s = Scenario()
    s.pool(policy={"overtakes_max": 0, "ageing_ns": 10**9 * SECOND}, n1={"cpu": 10})
    first = s.got({"cpu": 10}, holder="first", ttl=LONG)
    claimant = s.waits({"cpu": 1}, holder="claimant", tenant="ann", wait=LONG)
    low = s.waits({"cpu": 7}, holder="low", tenant="bob", wait=LONG)
    high = s.waits({"cpu": 7}, holder="high", tenant="cid", priority="high", wait=LONG)
    assert s.book.pools["box"].space.claims == {"n1": claimant}
    s.release(first, who="first")
    assert s.book.allocations[low].state == "active"
    assert s.book.allocations[high].state == "waiting"


def test_a_claim_moves_from_a_node_that_outside_use_makes_too_small() -> None:
    s = Scenario()
    s.pool(policy={"overtakes_max": 0}, n1={"cpu": 4}, n2={"cpu": 4})
    s.got({"cpu": 2}, holder="one", ttl=LONG)
    s.got({"cpu": 3}, holder="two", ttl=LONG)
    waiting = s.waits({"cpu": 4}, holder="large", wait=LONG)
    s.refused({"cpu": 2}, holder="late")
    claims = s.book.pools["box"].space.claims
    assert claims == {"n1": waiting}
    s.when(ObserveCapacity(command_id="seen", pool="box", node="n1", outside={"cpu": 1}))
    assert s.book.pools["box"].space.claims == {"n2": waiting}
    # Where both are too small it stays: what is used outside may end at any time.
    s.when(ObserveCapacity(command_id="too", pool="box", node="n2", outside={"cpu": 1}))
    assert s.book.pools["box"].space.claims == {"n2": waiting}
    s.when(ObserveCapacity(command_id="gone", pool="box", node="n1", outside={}))
    assert s.book.pools["box"].space.claims == {"n1": waiting}


def ending(s: Scenario) -> list[str]:
    return [a.holder for a in s.book.allocations.values() if a.state == "ending"]


def test_one_old_and_large_is_sent_away_rather_than_two_young_and_small() -> None:
    s = Scenario()
    s.pool(policy={"preemption": "lower_priority", "grace_ns": 10 * SECOND}, n1={"cpu": 8})
    for holder, cpu in (("large", 4), ("small", 2), ("smaller", 2)):
        s.got({"cpu": cpu}, holder=holder, priority="low", ttl=LONG)
    s.waits({"cpu": 4}, holder="boss", priority="high", wait=LONG)
    assert ending(s) == ["large"]


def test_the_search_for_fewer_to_send_away_ends_and_the_first_choice_stands() -> None:
    s = Scenario()
    s.pool(policy={"preemption": "lower_priority", "grace_ns": 10 * SECOND}, n1={"cpu": 64})
    for number in range(32):
        s.got({"cpu": 2}, holder=f"h{number}", priority="low", ttl=LONG)
    s.waits({"cpu": 40}, holder="boss", priority="high", wait=LONG)
    assert ending(s) == [f"h{number}" for number in range(12, 32)]


def test_what_is_given_back_of_lent_quota_is_the_fewest_too() -> None:
    s = Scenario()
    s.pool(policy={"grace_ns": 10 * SECOND}, n1={"cpu": 8})
    for tenant in ("ann", "bob"):
        s.when(SetQuota(command_id=tenant, tenant=tenant, limits={"cpu": 4}, cohort="kin"))
    for holder, cpu in (("large", 4), ("small", 2), ("smaller", 2)):
        s.got({"cpu": cpu}, tenant="bob", holder=holder, ttl=LONG)
    s.waits({"cpu": 4}, tenant="ann", holder="owner", wait=LONG)
    assert ending(s) == ["large"]


def test_of_lent_quota_no_more_is_given_back_than_was_borrowed_however_much_is_missing() -> None:
    s = Scenario()
    s.pool(policy={"grace_ns": 10 * SECOND}, n1={"cpu": 8})
    for tenant in ("ann", "bob"):
        s.when(SetQuota(command_id=tenant, tenant=tenant, limits={"cpu": 4}, cohort="kin"))
    s.got({"cpu": 2}, tenant="eve", holder="outside", ttl=LONG)
    for holder in ("first", "second"):
        s.got({"cpu": 3}, tenant="bob", holder=holder, ttl=LONG)
    # Either may go, and then bob is within his own again: both together may not.
    s.waits({"cpu": 4}, tenant="ann", holder="owner", wait=LONG)
    assert ending(s) == []


def test_who_sent_others_away_does_not_land_on_the_node_once_it_is_cordoned() -> None:
    s = Scenario()
    policy = {"order": "fifo", "preemption": "lower_priority", "grace_ns": 10 * SECOND}
    s.pool(policy=policy, n1={"cpu": 4})
    low = s.got({"cpu": 4}, priority="low", ttl=LONG)
    waiting = s.waits({"cpu": 4}, priority="high", wait=LONG)
    assert s.book.allocations[low].state == "ending"
    assert s.book.allocations[waiting].claim == "n1"
    s.when(CordonNode(command_id="c", pool="box", node="n1"))
    s.release(low)
    assert s.book.allocations[waiting].state == "waiting"
    s.when(CordonNode(command_id="u", pool="box", node="n1", cordoned=False))
    assert s.book.allocations[waiting].state == "active"
