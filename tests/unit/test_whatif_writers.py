"""What-if unchanged, for what the record says nothing of: whose turn it was to write, what led to
nothing, and what was forgotten since."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.chain import metadata_hash
from ledger.codec import from_row, to_row
from ledger.commands import (
    Adjust,
    Allocate,
    AllocateBatch,
    Claim,
    OpenPool,
    RaiseAlert,
    Redact,
    Renew,
    RenewHolder,
    SetPolicy,
    TakeCheckpoint,
    Withdraw,
)
from ledger.events import Allocated, Event, Queued, Reserved, TimeExtended
from ledger.log import GENESIS, Row
from ledger.requests import NodeSpec, Request
from ledger.writer import Writer
from projections.past import Past
from reports.whatif import Changes, ask
from tests.ledgers import SECOND, Ledger
from tests.unit.everything_maker import EverythingMaker
from tests.unit.test_whatif import at_once, past_of

QUIET = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def history(ledger: Ledger, seed: int, steps: int, anew: float) -> None:
    """Commands of every kind. ``anew`` is how often somebody opens the ledger to give the next one, as
    each command line does; else three that hold it open take turns."""
    maker = EverythingMaker(seed, ledger.writer.log)
    r = maker.random
    for command in maker.opening()[1:]:
        ledger.do(command)
    writers = [ledger.writer, ledger.another(), ledger.another()]
    for _ in range(steps):
        ledger.clock.run(maker.wait() / SECOND)
        if r.random() < 0.03:
            ledger.clock.sleep(r.choice((2, 30)))
        if r.random() < 0.02:
            ledger.clock.set_wall(r.choice((-5, -3_600, 400)))
        writer = ledger.another() if r.random() < anew else r.choice(writers)
        if r.random() < 0.05:
            writer.settle()
        book = writer.read(lambda found, now: found)
        at_once(writer, [maker.next(book) for _ in range(r.choice((1, 1, 1, 2, 5)))])
        if r.random() < 0.03:
            writer._commit([], flush=True)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path, "memory")


@given(
    seed=st.integers(0, 2**32),
    anew=st.sampled_from((0, 0.3, 1)),
    begins=st.floats(0, 1),
    lasts=st.floats(0, 1),
)
@QUIET
def test_any_stretch_of_anything_by_any_number_of_writers_comes_out_again(
    tmp_path: Path, seed: int, anew: float, begins: float, lasts: float
) -> None:
    ledger = Ledger(tmp_path, "memory")
    history(ledger, seed, 60, anew)
    past = past_of(ledger)
    head = past.log.head().position
    assert ask(past, Changes()).exact
    first = 1 + int(begins * (head - 1))
    answer = ask(past, Changes(), first, first + int(lasts * (head - first)))
    assert answer.exact, answer.first
    assert answer.same == answer.ends - answer.begins + 1
    ledger.close()


@given(seed=st.integers(0, 2**32), anew=st.sampled_from((0, 1)))
@QUIET
def test_a_change_that_concerns_nobody_parts_no_fates_whoever_wrote(
    tmp_path: Path, seed: int, anew: float
) -> None:
    ledger = Ledger(tmp_path, "memory")
    history(ledger, seed, 60, anew)
    answer = ask(past_of(ledger), Changes(pool="api", policy={"queue_limit": 99}))
    assert answer.parted_at is None, answer.first
    assert not answer.fates
    ledger.close()


def waiting_for_a_claim(ledger: Ledger) -> str:
    """Somebody waits who will have a node kept for it once it has waited for 20 s; its id."""
    nodes = (NodeSpec("n1", {"cpu": 2000}),)
    policy = {"claim_after_ns": 20 * SECOND}
    ledger.do(OpenPool(command_id="open", pool="box", nodes=nodes, policy=policy))
    ledger.got(1500)
    little = ledger.got(500)
    waits = ledger.ask(2000, wait=600, holder="h2").allocation
    assert waits is not None
    ledger.release(little)
    ledger.clock.run(30)
    return waits.id


def claims(ledger: Ledger) -> int:
    """How often a node was kept for somebody."""
    events = map(from_row, ledger.writer.log.read())
    return sum(event.type == "queued" and event.cause is None for event in events)


def test_who_comes_anew_sees_what_was_freed_at_its_own_time(ledger: Ledger) -> None:
    waiting_for_a_claim(ledger)
    # It has read all that there was, and knows of nobody who has looked at it since.
    ledger.another().execute(RaiseAlert(command_id="a", alert="x", message="m"))
    assert claims(ledger) == 1
    assert ask(past_of(ledger), Changes()).exact
    answer = ask(past_of(ledger), Changes(pool="box", policy={"queue_limit": 7}))
    assert answer.parted_at is None


def test_a_command_that_changes_nothing_hands_on_what_was_freed(ledger: Ledger) -> None:
    ledger.do(RaiseAlert(command_id="a", alert="x", message="m"))
    waiting_for_a_claim(ledger)
    ledger.another().execute(RaiseAlert(command_id="again", alert="x", message="m"))
    assert claims(ledger) == 1
    assert ledger.events()[-1].type == "queued"
    assert ask(past_of(ledger), Changes()).exact


def test_behind_a_refused_command_freed_room_is_handed_on(ledger: Ledger) -> None:
    name = waiting_for_a_claim(ledger)
    held = next(event.allocation for event in ledger.events() if event.type == "allocated")
    assert held is not None
    more = Adjust(command_id="more", allocation=held, claim=Claim("h1"), amounts={"cpu": 9000})
    # The claim comes before the refusal, for it is asked for room; a writer that is new to all
    # of it looks once more behind it.
    assert ledger.another().execute(more).outcome == "refused"
    assert [event.type for event in ledger.events()[-2:]] == ["queued", "refused"]
    assert ask(past_of(ledger), Changes()).exact
    ledger.release(held)
    assert ledger.state(name) == "active"
    assert ask(past_of(ledger), Changes()).exact


def test_the_clocks_findings_go_before_what_is_due_whatever_they_hand_on(ledger: Ledger) -> None:
    waiting_for_a_claim(ledger)
    ledger.clock.sleep(20)
    ledger.clock.set_wall(400)
    ledger.another().execute(RaiseAlert(command_id="a", alert="x", message="m"))
    found = ledger.types()[-4:]
    assert found[0] == "time_extended"
    assert sorted(found[1:]) == ["alert_raised", "alert_raised", "queued"]
    assert ask(past_of(ledger), Changes()).exact


def test_a_batch_with_a_request_to_an_observed_pool_is_decided_like_any_other(
    ledger: Ledger,
) -> None:
    ledger.pool(n1={"cpu": 2000})
    node = (NodeSpec("x", {"cpu": 1}),)
    ledger.do(OpenPool(command_id="far", pool="far", kind="observed", nodes=node))
    asked = tuple(
        Allocate(
            command_id=f"i{pool}", pool=pool, holder="h", request=Request({"cpu": 1000}, ttl_ns=9)
        )
        for pool in ("box", "far")
    )
    assert ledger.do(AllocateBatch(command_id="b", items=asked)).outcome == "partial"
    assert ask(past_of(ledger), Changes()).exact


def test_a_refused_batch_comes_before_the_checkpoint_that_follows_it(
    ledger: Ledger,
) -> None:
    ledger.pool(n1={"cpu": 2000})
    items = tuple(
        Allocate(
            command_id=f"i{n}", pool="box", holder="h", request=Request({"cpu": 1500}, ttl_ns=9)
        )
        for n in range(2)
    )
    whole = AllocateBatch(command_id="b", items=items, atomic=True)
    at_once(ledger.writer, [whole, TakeCheckpoint(command_id="")])
    assert ledger.types()[-2:] == ["refused", "checkpointed"]
    assert ask(past_of(ledger), Changes()).exact


def test_a_reservation_that_is_given_up_for_a_reason_keeps_the_reason(ledger: Ledger) -> None:
    ledger.pool(n1={"cpu": 2000})
    reserved = ledger.ask(1000, reserve_ns=9 * SECOND).allocation
    assert reserved is not None
    gone = Withdraw(
        command_id="w", allocation=reserved.id, claim=Claim("h1"), cause="voided", reason="moved on"
    )
    assert ledger.do(gone).outcome == "withdrawn"
    assert ask(past_of(ledger), Changes()).exact


def test_renewing_all_of_a_holder_passes_by_those_that_it_passed_by(ledger: Ledger) -> None:
    ledger.pool(n1={"cpu": 9000})
    # At its maximum age already: its own short ttl would leave it as it is, a longer one passes it by.
    first = ledger.got(1000, ttl=3, max_age_ns=15 * SECOND)
    second = ledger.got(1000, ttl=20)
    ledger.clock.run(2)
    longer = Renew(command_id="r", allocation=first, claim=Claim("h1"), ttl_ns=20 * SECOND)
    assert ledger.do(longer).outcome == "renewed"
    ledger.clock.run(9)
    ledger.do(RenewHolder(command_id="all", holder="h1", ttl_ns=20 * SECOND))
    renewed = ledger.events()[-1].body
    assert getattr(renewed, "allocations", None) == (second,)
    assert ask(past_of(ledger), Changes()).exact


def test_an_atomic_batch_that_had_to_be_packed_is_told_although_metadata_was_erased(
    ledger: Ledger,
) -> None:
    ledger.pool(n1={"cpu": 3000}, n2={"cpu": 2000})
    ledger.do(SetPolicy(command_id="p", pool="box", policy={"strategy": "first_fit"}))
    # In their order the first takes n1, and the second fits nowhere.
    items = tuple(
        Allocate(
            command_id=f"i{cpu}",
            pool="box",
            holder="h",
            metadata={"secret": cpu},
            request=Request({"cpu": cpu}, ttl_ns=99 * SECOND),
        )
        for cpu in (2000, 3000)
    )
    assert ledger.do(AllocateBatch(command_id="b", items=items, atomic=True)).outcome == "granted"
    position = ledger.writer.log.head().position
    erase(ledger, position)
    assert ask(past_of(ledger), Changes()).exact


def test_a_batch_that_could_not_have_been_atomic_was_not(ledger: Ledger) -> None:
    ledger.pool(n1={"cpu": 3000})
    ledger.pool("bag", n1={"cpu": 3000})
    items = tuple(
        Allocate(
            command_id=pool,
            pool=pool,
            holder="h",
            metadata={"secret": pool},
            request=Request({"cpu": 1000}, ttl_ns=99 * SECOND, wait_ns=SECOND),
        )
        for pool in ("box", "bag")
    )
    assert ledger.do(AllocateBatch(command_id="b", items=items)).outcome == "granted"
    erase(ledger, ledger.writer.log.head().position)
    assert ask(past_of(ledger), Changes()).exact


def erase(ledger: Ledger, position: int) -> None:
    """Redact the metadata of one event."""
    row = next(ledger.writer.log.read(position - 1, position))
    digest = metadata_hash(row.metadata).hex()
    ledger.do(
        Redact(command_id="forget", position=position, metadata_sha256=digest, reason="r", by="me")
    )


def test_a_record_that_the_rules_do_not_lead_to_is_told_from_where_on(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "memory")
    ledger.pool(n1={"cpu": 2000}, n2={"cpu": 2000})
    ledger.got(1000)
    ledger.got(1000)
    told = ledger.events()[3]
    body = told.body
    assert isinstance(body, Allocated)
    (placed,) = body.placements
    assert placed.node == "n1"
    elsewhere = (replace(placed, node="n2", in_use={"cpu": 1000}),)
    instead = replace(told, body=replace(body, placements=elsewhere))
    past = Past(_Altered(ledger.writer, {4: instead}))
    answer = ask(past, Changes())
    assert (answer.exact, answer.same, answer.parted_at) == (False, 3, 4)
    first = answer.to_json()["first_difference"]
    assert first["differs_in"] == ["data.placements"]
    assert "on n2" in first["recorded"]
    assert "on n1" in first["simulated"]
    changed = ask(past, Changes(nodes=1), 3)
    assert any("from event 4 on" in each for each in changed.assumptions)


class _Altered:
    """A log in which some events say something else."""

    def __init__(self, writer: Writer, instead: dict[int, Event]) -> None:
        self._log = writer.log
        self._instead = instead
        self.head = self._log.head
        self.rows_of_allocation = self._log.rows_of_allocation

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Row]:
        for row in self._log.read(after, upto):
            event = self._instead.get(row.position)
            yield row if event is None else to_row(event, GENESIS)


def test_nothing_is_handed_on_before_what_is_due_is_settled_when_the_machine_had_slept(
    ledger: Ledger,
) -> None:
    history(ledger, 316, 60, 0)
    waits: dict[str, int] = {}
    for event in ledger.events():
        body = event.body
        if isinstance(body, Queued) and event.allocation is not None:
            waits[event.allocation] = body.until
        elif isinstance(body, TimeExtended):
            waits = {
                name: until + body.by_ns if until > body.since else until
                for name, until in waits.items()
            }
        elif isinstance(body, Allocated | Reserved) and event.allocation in waits:
            assert event.at <= waits[event.allocation], event


def test_a_reader_hands_nothing_on_when_the_machine_had_slept(ledger: Ledger) -> None:
    # It did, in a book that keeps no account of what stands where.
    history(ledger, 21431, 60, 0)
    assert ledger.events()
