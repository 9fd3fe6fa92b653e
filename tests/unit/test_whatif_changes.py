"""What-if changed: who fares otherwise, from where on, and what is assumed about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.commands import Claim, Correct, OpenPool, Renew, SetQuota, Withdraw
from ledger.errors import InvalidInput
from ledger.events import Corrected, Event, PoolOpened
from ledger.identity import ProcessIdentity
from ledger.requests import NodeSpec
from projections.past import Past
from reports.whatif import Answer, Changes, ask
from reports.whatif.measures import Fate
from tests.ledgers import SECOND, Ledger

LARGER = Changes(sizes={("box", "n1"): {"cpu": 4000}})
SMALLER = Changes(sizes={("box", "n1"): {"cpu": 1000}})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path, "memory")
    made.pool(n1={"cpu": 2000})
    return made


def asked(ledger: Ledger, changes: Changes, since: int | None = None) -> Answer:
    return ask(Past(ledger.writer.log), changes, since)


def fates(answer: Answer) -> dict[str, tuple[Fate, Fate | None]]:
    return {each.recorded_id: (each.recorded, each.simulated) for each in answer.fates}


def seconds(fate: Fate | None) -> tuple[float | None, float | None]:
    """How long it waited, and how long it held."""
    assert fate is not None
    held = None
    if fate.granted_at is not None and fate.ended_at is not None:
        held = (fate.ended_at - fate.granted_at) / SECOND
    return (None if fate.wait_ns is None else fate.wait_ns / SECOND), held


def test_what_waited_is_granted_at_once_in_a_larger_pool_and_held_as_long(ledger: Ledger) -> None:
    first = ledger.got(2000)
    waiting = ledger.ask(2000, wait=600, holder="h2")
    ledger.clock.run(30)
    ledger.release(first)
    ledger.clock.run(40)
    assert waiting.allocation is not None
    ledger.release(waiting.allocation.id, "h2")
    ledger.clock.run(5)
    ledger.ask(100)
    answer = asked(ledger, LARGER)
    recorded, simulated = fates(answer)[waiting.allocation.id]
    assert seconds(recorded) == pytest.approx((30, 40), abs=0.001)
    assert seconds(simulated) == pytest.approx((0, 40), abs=0.001)
    assert answer.parted_at == waiting.positions[0]
    assert answer.simulated.counts["waited"] == 0


def test_in_a_smaller_pool_everyone_is_later_and_releases_move_along(ledger: Ledger) -> None:
    a, b = ledger.got(1000), ledger.ask(1000, wait=600, holder="h2")
    assert b.allocation is not None
    ledger.clock.run(10)
    ledger.release(a)
    ledger.clock.run(10)
    ledger.release(b.allocation.id, "h2")
    ledger.clock.run(60)
    ledger.ask(100)
    answer = asked(ledger, SMALLER)
    recorded, simulated = fates(answer)[b.allocation.id]
    assert seconds(recorded) == pytest.approx((0, 20), abs=0.001)
    assert seconds(simulated) == pytest.approx((10, 20), abs=0.001)


def test_renewals_move_along_with_a_grant_that_came_later(ledger: Ledger) -> None:
    a, b = ledger.got(1000), ledger.ask(1000, wait=600, holder="h2", ttl=15)
    assert b.allocation is not None
    ledger.clock.run(10)
    ledger.do(Renew(command_id="renew", allocation=b.allocation.id, claim=Claim("h2")))
    ledger.release(a)
    ledger.clock.run(100)
    ledger.ask(100)
    _, simulated = fates(asked(ledger, SMALLER))[b.allocation.id]
    # Granted at 10, renewed at 20, so good until 35.
    assert seconds(simulated) == pytest.approx((10, 25), abs=0.001)
    assert simulated is not None and simulated.state == "expired"


def test_what_was_refused_is_held_for_the_median_of_its_task(ledger: Ledger) -> None:
    for held in (3, 5, 9):
        name = ledger.got(1000, task="build")
        ledger.clock.run(held)
        ledger.release(name)
    ledger.got(2000)
    refused = ledger.ask(1000, task="build", holder="h2")
    assert refused.refusal_id is not None
    ledger.clock.run(60)
    ledger.ask(100, holder="h3")
    answer = asked(ledger, LARGER)
    _, simulated = fates(answer)[refused.refusal_id]
    assert seconds(simulated) == pytest.approx((0, 5), abs=0.001)
    assert any("median" in each for each in answer.assumptions)
    assert answer.simulated.counts["refused"] == 0
    assert not answer.simulated.unmet


def test_a_retry_of_what_is_granted_here_is_the_same_request(ledger: Ledger) -> None:
    blocker = ledger.got(2000)
    refused = ledger.ask(1000, holder="h2")
    assert refused.refusal_id is not None
    ledger.clock.run(20)
    ledger.release(blocker)
    again = ledger.got(1000, holder="h2")
    ledger.clock.run(30)
    ledger.release(again, "h2")
    ledger.clock.run(30)
    ledger.ask(100)
    events: list[Event] = []
    ask(Past(ledger.writer.log), LARGER, taken=events.append)
    granted = [e for e in events if e.type == "allocated" and e.holder == "h2"]
    assert len(granted) == 1
    ended = [e for e in events if e.type == "released" and e.allocation == granted[0].allocation]
    # It is given back when the retry was: 20 s of the record's wait, and 30 s of work.
    assert [e.at - granted[0].at for e in ended] == [pytest.approx(50 * SECOND, abs=SECOND / 100)]


def test_what_is_refused_here_has_nothing_done_to_it(ledger: Ledger) -> None:
    a, b = ledger.got(1000), ledger.got(1000, holder="h2")
    ledger.clock.run(5)
    ledger.release(a)
    ledger.release(b, "h2")
    answer = asked(ledger, SMALLER)
    recorded, simulated = fates(answer)[b]
    assert recorded.state == "released"
    assert simulated is None
    assert answer.simulated.counts["refused"] == 1
    assert answer.simulated.unmet == {"box": {"cpu": 1000}}
    assert any("left out" in each for each in answer.assumptions)


def test_whoever_gave_up_waiting_is_granted_where_there_is_room(ledger: Ledger) -> None:
    ledger.got(2000)
    waiting = ledger.ask(1000, wait=600, holder="h2").allocation
    assert waiting is not None
    ledger.clock.run(5)
    ledger.do(Withdraw(command_id="w", allocation=waiting.id, claim=Claim("h2")))
    answer = asked(ledger, LARGER)
    recorded, simulated = fates(answer)[waiting.id]
    assert recorded.state == "withdrawn"
    assert simulated is not None and simulated.state == "active"


def test_a_shorter_ttl_expires_what_was_released_later(ledger: Ledger) -> None:
    a = ledger.got(1000)
    ledger.clock.run(60)
    ledger.release(a)
    ledger.clock.run(10)
    ledger.ask(100)
    answer = asked(ledger, Changes(ttl_ns=20 * SECOND))
    _, simulated = fates(answer)[a]
    assert simulated is not None and simulated.state == "expired"
    assert seconds(simulated) == pytest.approx((0, 20), abs=0.001)
    assert answer.simulated.counts["ended_expired"] == 1


def test_a_quota_holds_up_only_its_tenant(ledger: Ledger) -> None:
    ledger.ask(1000)
    second = ledger.ask(1000, wait=600)
    other = ledger.ask(500, tenant="other", wait=600)
    assert second.allocation is not None and other.allocation is not None
    answer = asked(ledger, Changes(quotas={"default": {"cpu": 1000}}))
    recorded, simulated = fates(answer)[second.allocation.id]
    assert simulated is not None
    assert (recorded.state, simulated.state) == ("active", "waiting")
    freed = fates(answer)[other.allocation.id][1]
    assert freed is not None and freed.granted_at is not None


def test_a_quota_set_in_the_window_gives_way(ledger: Ledger) -> None:
    ledger.do(SetQuota(command_id="q", limits={"cpu": 500}))
    refused = ledger.ask(1000)
    assert refused.outcome == "refused"
    answer = asked(ledger, Changes(quotas={"default": {"cpu": 2000}}))
    assert answer.simulated.counts["granted"] == 1


def test_whoever_was_preempted_goes_on_where_nobody_preempts(tmp_path: Path) -> None:
    from ledger.commands import OpenPool
    from ledger.requests import NodeSpec

    ledger = Ledger(tmp_path, "memory")
    ledger.do(
        OpenPool(
            command_id="p",
            pool="box",
            nodes=(NodeSpec("n1", {"cpu": 1000}),),
            policy={"preemption": "lower_priority", "grace_ns": 0},
        )
    )
    low = ledger.got(1000, priority="low")
    ledger.clock.run(10)
    high = ledger.ask(1000, priority="high", wait=600, holder="h2")
    assert high.outcome == "granted" and high.allocation is not None
    ledger.clock.run(20)
    ledger.release(high.allocation.id, "h2")
    ledger.clock.run(60)
    ledger.ask(10)
    answer = asked(ledger, Changes(policy={"preemption": "never"}))
    assert (answer.recorded.counts["preempted"], answer.simulated.counts["preempted"]) == (1, 0)
    found = fates(answer)
    assert found[low][0].state == "preempted"
    goes_on = found[low][1]
    assert goes_on is not None and goes_on.state == "released"
    waited = found[high.allocation.id][1]
    assert waited is not None and (waited.wait_ns or 0) > 0


def test_fewer_nodes_take_nothing_new_where_one_is_in_use(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "memory")
    ledger.pool(n1={"cpu": 1000}, n2={"cpu": 1000})
    held = [ledger.got(1000), ledger.got(1000)]
    ledger.release(held[1])
    position = ledger.writer.log.head().position
    ledger.ask(1000, process=ProcessIdentity("host", 1, 2, "boot", "ns"))
    answer = asked(ledger, Changes(nodes=-1), position + 1)
    assert answer.simulated.counts["refused"] == 1
    assert (
        answer.simulated.utilization()["box"]["cpu"] >= 0 if answer.since < answer.until else True
    )


def test_a_change_that_makes_no_difference_says_so(ledger: Ledger) -> None:
    ledger.ask(1000)
    answer = asked(ledger, Changes(policy={"order": "fifo"}), 3)
    assert answer.exact
    assert answer.parted_at is None


def test_utilization_is_the_share_of_capacity_over_the_window(ledger: Ledger) -> None:
    a = ledger.got(1000)
    ledger.clock.run(30)
    ledger.release(a)
    ledger.clock.run(30)
    ledger.ask(2000)
    answer = asked(ledger, Changes(), 3)
    assert answer.recorded.utilization() == {"box": {"cpu": pytest.approx(0.25, abs=1e-6)}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (Changes(pool="nowhere", nodes=1), "no pool 'nowhere'"),
        (Changes(sizes={("box", "n9"): {"cpu": 1}}), "has no node 'n9'"),
        (Changes(policy={"order": "sideways"}), "cannot be 'sideways'"),
    ],
)
def test_a_change_that_cannot_be_is_refused(ledger: Ledger, changes: Changes, says: str) -> None:
    ledger.ask(100)
    with pytest.raises(InvalidInput, match=says):
        asked(ledger, changes, 3 if "n9" in says or "sideways" in says else None)


def test_an_empty_window_is_refused(ledger: Ledger) -> None:
    with pytest.raises(InvalidInput, match="nothing was recorded"):
        asked(ledger, Changes(), 99)


def test_what_ends_sooner_here_is_handed_on_when_it_ends(ledger: Ledger) -> None:
    ledger.got(2000)
    waits = ledger.ask(1000, wait=600, holder="h2").allocation
    assert waits is not None
    # Nothing happens for long: nobody wrote in between, but who waits would have been told.
    ledger.clock.run(300)
    ledger.ask(100, holder="h3")
    _, simulated = fates(asked(ledger, Changes(ttl_ns=20 * SECOND)))[waits.id]
    assert seconds(simulated)[0] == pytest.approx(20, abs=0.001)


def test_what_would_have_ended_while_the_machine_slept_gains_that_time(ledger: Ledger) -> None:
    held = ledger.got(2000)
    waits = ledger.ask(1000, wait=600, holder="h2").allocation
    assert waits is not None
    ledger.clock.run(10)
    ledger.clock.sleep(60)
    ledger.ask(100, holder="h3")
    ledger.clock.run(60)
    ledger.ask(100, holder="h3")
    found = fates(asked(ledger, Changes(ttl_ns=30 * SECOND)))
    # 10 s awake, 60 asleep, and 20 more: nobody could have renewed it in between.
    assert seconds(found[held][1])[1] == pytest.approx(90, abs=0.001)
    assert seconds(found[waits.id][1])[0] == pytest.approx(90, abs=0.001)


def test_repeats_of_a_refusal_that_is_none_here_are_left_out(ledger: Ledger) -> None:
    ledger.got(2000)
    for _ in range(3):
        assert ledger.ask(1000, holder="h2").outcome == "refused"
    ledger.clock.run(5)
    ledger.writer.settle()
    ledger.ask(100, holder="h3")
    events: list[Event] = []
    answer = ask(Past(ledger.writer.log), LARGER, taken=events.append)
    assert answer.recorded.counts["repeated_refusals"] == 2
    assert answer.simulated.counts["repeated_refusals"] == 0
    assert any("repeats of refusals" in each for each in answer.assumptions)
    assert not [event for event in events if event.type == "refused"]


def test_a_correction_follows_what_it_is_about(ledger: Ledger) -> None:
    first = ledger.got(2000)
    ledger.ask(1000, wait=600, holder="h2")
    ledger.release(first)
    held = ledger.got(1000, holder="h3")
    position = ledger.writer.log.head().position
    ledger.do(
        Correct(command_id="k", reason="r", by="me", pool="box", allocation=held, corrects=position)
    )
    events: list[Event] = []
    # Who waited has it at once here, with one event instead of two: all that follows moves up.
    ask(Past(ledger.writer.log), LARGER, taken=events.append)
    corrected = next(event for event in events if event.type == "corrected")
    there = next(event for event in events if event.holder == "h3")
    assert there.allocation != held
    assert corrected.allocation == there.allocation
    body = corrected.body
    assert isinstance(body, Corrected)
    assert body.corrects == there.position


def test_more_nodes_have_names_that_no_other_has(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "memory")
    ledger.do(
        OpenPool(
            command_id="p",
            pool="box",
            nodes=(NodeSpec("n1+1", {"cpu": 1000}), NodeSpec("n1", {"cpu": 1000})),
        )
    )
    events: list[Event] = []
    ask(Past(ledger.writer.log), Changes(nodes=2), taken=events.append)
    opened = next(event.body for event in events if isinstance(event.body, PoolOpened))
    assert [spec.name for spec in opened.nodes] == ["n1+1", "n1", "n1+2", "n1+3"]
    for number in range(4):
        ledger.ask(1000, holder=f"h{number}")
    assert asked(ledger, Changes(nodes=2), 3).simulated.counts["granted"] == 4


@pytest.mark.parametrize("since", [None, 3])
def test_more_nodes_than_a_pool_may_have_are_refused_at_once(
    ledger: Ledger, since: int | None
) -> None:
    ledger.ask(100)
    with pytest.raises(InvalidInput, match="may have 20000"):
        asked(ledger, Changes(nodes=20_000), since)


def test_a_policy_that_a_later_pool_cannot_have_is_refused_and_the_pool_is_not_left_out(
    ledger: Ledger,
) -> None:
    node = (NodeSpec("api", {"cpu": 5}),)
    ledger.do(
        OpenPool(
            command_id="api",
            pool="api",
            nodes=node,
            consumable=True,
            policy={"refill": "reset", "refill_every_ns": 9 * SECOND},
        )
    )
    with pytest.raises(InvalidInput, match="pool api: policy refill and refill_every_ns"):
        asked(ledger, Changes(policy={"refill": None}), 1)
