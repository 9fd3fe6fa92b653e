"""What-if unchanged: whatever was recorded comes out again, event for event and column for column."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.book import Book
from ledger.codec import to_row
from ledger.commands import (
    Adjust,
    AnyCommand,
    Claim,
    Fact,
    OpenPool,
    RecordFacts,
    Redact,
    RenewHolder,
    SetPolicy,
)
from ledger.errors import InvalidInput
from ledger.events import Allocated, Event, PoolOpened
from ledger.evolve import evolve
from ledger.group import Ticket
from ledger.log import GENESIS
from ledger.requests import NodeSpec, Placement, Request
from ledger.writer import Writer
from projections.past import Past
from reports.whatif import Answer, Changes, ask
from reports.whatif.actions import read_window
from reports.whatif.replay import Replay
from tests.ledgers import SECOND, Ledger
from tests.unit.command_maker import CommandMaker


def at_once(writer: Writer, commands: list[AnyCommand]) -> None:
    """Carry commands out in one transaction, without the threads that would have to wait for it."""
    writer._commit([Ticket(command) for command in commands])


def history(ledger: Ledger, seed: int, steps: int, *others: Writer) -> None:
    """Random commands through a real writer or several, a few to a commit now and then."""
    maker = CommandMaker(seed)
    for command in maker.opening()[1:]:
        ledger.do(command)
    for _ in range(steps):
        ledger.clock.run(maker.wait() / SECOND)
        if maker.random.random() < 0.03:
            ledger.clock.sleep(maker.random.choice((2, 30)))
        writer = maker.random.choice((ledger.writer, *others))
        book = writer.read(lambda found, now: found)
        count = maker.random.choice((1, 1, 1, 2, 5))
        at_once(writer, [maker.next(book) for _ in range(count)])


def past_of(ledger: Ledger) -> Past:
    return Past(ledger.writer.log, ledger.writer.snapshots)


def decided(ledger: Ledger, changes: Changes) -> tuple[Answer, list[Event]]:
    """An answer, and all the events that were decided for it."""
    events: list[Event] = []
    return ask(past_of(ledger), changes, taken=events.append), events


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path, "memory")


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_history_comes_out_again_exactly_as_it_was_recorded(tmp_path: Path, seed: int) -> None:
    ledger = Ledger(tmp_path, "memory")
    history(ledger, seed, 40)
    recorded = ledger.events()
    done: list[Event] = []
    replay = Replay(
        Book(),
        read_window(recorded, Book()),
        Changes(),
        lambda name: None,
        recorded=recorded,
        taken=done.append,
    )
    replay.run()
    assert replay.compared.differs is None
    rows = [to_row(event, GENESIS) for event in recorded]
    assert [to_row(event, GENESIS) for event in done] == rows
    ledger.close()


@given(seed=st.integers(0, 2**32), part=st.floats(0.1, 0.9))
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_stretch_of_a_history_comes_out_again_too(
    tmp_path: Path, seed: int, part: float
) -> None:
    ledger = Ledger(tmp_path, "memory")
    history(ledger, seed, 30)
    past = past_of(ledger)
    answer = ask(past, Changes(), int(part * past.log.head().position))
    assert answer.exact
    assert answer.ends == past.log.head().position
    assert not answer.fates
    assert answer.recorded.to_json() == answer.simulated.to_json()
    ledger.close()


CHANGES = (
    Changes(policy={"strategy": "worst_fit", "order": "fifo"}),
    Changes(policy={"preemption": "never", "duplicates": "allow"}),
    Changes(policy={"preemption": "lower_priority", "grace_ns": 0}, keep_strategies=False),
    Changes(nodes=1),
    Changes(nodes=-1, pool="box"),
    Changes(sizes={("box", "n1"): {"cpu": 9, "gpu": 4000}}),
    Changes(sizes={("box", "n2"): {"cpu": 1}, ("bag", "n1"): {"cpu": 2}}),
    Changes(quotas={"ann": {"cpu": 2}, "bob": {}}),
    Changes(ttl_ns=2 * SECOND),
    Changes(ttl_ns=500 * SECOND, nodes=2),
)


@given(seed=st.integers(0, 2**32), changes=st.sampled_from(CHANGES))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_changed_the_simulated_events_are_a_whole_ledger_of_their_own(
    tmp_path: Path, seed: int, changes: Changes
) -> None:
    ledger = Ledger(tmp_path, "memory")
    history(ledger, seed, 40)
    answer, events = decided(ledger, changes)
    book = Book()
    for event in events:
        # Raises where the accounts do not add up, or an event does not follow from the last.
        evolve(book, event)
    assert book.position == len(events)
    times = [event.recorded_at for event in events]
    assert times == sorted(times)
    assert answer.simulated.counts["asked"] <= answer.recorded.counts["asked"]
    # From the middle it goes on from a book that was changed outside the events: it must not fail,
    # but where the node is gone by then.
    with contextlib.suppress(InvalidInput):
        ask(past_of(ledger), changes, answer.ends // 2)
    ledger.close()


def test_a_stored_ledger_with_snapshots_is_asked_without_being_written_to(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "sqlite")
    history(ledger, 11, 40)
    head = ledger.writer.log.head()
    assert ask(past_of(ledger), Changes(), head.position // 2).exact
    assert ask(past_of(ledger), Changes(nodes=1)).recorded.counts
    assert ledger.writer.log.head() == head
    ledger.close()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_two_writers_on_one_ledger_leave_a_record_that_comes_out_again(
    tmp_path: Path, seed: int
) -> None:
    ledger = Ledger(tmp_path, "memory")
    history(ledger, seed, 40, ledger.another())
    assert ask(past_of(ledger), Changes()).exact
    ledger.close()


def test_refusals_counted_as_repeats_come_out_again(ledger: Ledger) -> None:
    ledger.pool(n1={"cpu": 1000})
    ledger.got()
    for _ in range(5):
        assert ledger.ask().outcome == "refused"
    ledger.clock.run(3)
    ledger.writer.settle()
    ledger.ask(holder="other")
    answer = ask(past_of(ledger), Changes())
    assert answer.exact
    assert answer.recorded.counts["repeated_refusals"] == 4


def test_imported_history_stands_as_it_was_and_counts_for_nothing(ledger: Ledger) -> None:
    ledger.pool(n1={"cpu": 1000})
    far = OpenPool(
        command_id="far", pool="far", kind="observed", nodes=(NodeSpec("x", {"cpu": 1}),)
    )
    ledger.do(far)
    for shift in (0, 7):
        fact = Fact(
            key="k",
            holder="h",
            request=Request({"cpu": 1000}),
            placements=(Placement("x", {"cpu": 1000}, {}),),
            began_at=SECOND + shift,
            ended_at=9 * SECOND,
        )
        ledger.do(RecordFacts(command_id=f"import-{shift}", pool="far", facts=(fact,)))
    ledger.ask(500)
    answer = ask(past_of(ledger), Changes())
    assert answer.exact
    assert answer.recorded.counts["asked"] == 1
    changed, events = decided(ledger, Changes(nodes=1))
    assert changed.simulated.counts["asked"] == 1
    there = [e.type for e in events if e.pool == "far"]
    assert there == [e.type for e in ledger.events() if e.pool == "far"]


def test_metadata_that_was_redacted_does_not_keep_a_record_from_coming_out(ledger: Ledger) -> None:
    from ledger.chain import metadata_hash

    ledger.pool(n1={"cpu": 1000})
    ledger.ask(metadata={"secret": "x"})
    position = ledger.writer.log.head().position
    row = next(ledger.writer.log.read(position - 1, position))
    digest = metadata_hash(row.metadata).hex()
    ledger.do(
        Redact(command_id="forget", position=position, metadata_sha256=digest, reason="r", by="me")
    )
    assert ask(past_of(ledger), Changes()).exact


def test_commands_whose_content_is_not_in_the_record_stay_refused(ledger: Ledger) -> None:
    ledger.pool(n1={"cpu": 1000})
    held = ledger.got(500)
    ledger.do(Adjust(command_id="more", allocation=held, claim=Claim("h1"), amounts={"cpu": 5000}))
    ledger.do(RenewHolder(command_id="all", holder="h1", ttl_ns=7 * SECOND))
    answer = ask(past_of(ledger), Changes())
    assert answer.exact
    assert answer.recorded.counts["refused_otherwise"] == 1
    changed = ask(past_of(ledger), Changes(sizes={("box", "n1"): {"cpu": 9000}}))
    assert any("stay refused" in each for each in changed.assumptions)


def test_a_policy_set_in_the_window_gives_way_to_the_one_that_is_asked_about(
    ledger: Ledger,
) -> None:
    ledger.pool(n1={"cpu": 1000}, n2={"cpu": 1000})
    ledger.do(SetPolicy(command_id="p", pool="box", policy={"strategy": "first_fit"}))
    ledger.ask(500)
    ledger.ask(500)
    answer, events = decided(ledger, Changes(policy={"strategy": "worst_fit"}))
    nodes = [e.body.placements[0].node for e in events if isinstance(e.body, Allocated)]
    assert nodes == ["n1", "n2"]
    assert answer.parted_at == 5


def test_a_node_spec_is_all_that_a_pool_needs_to_be_larger(ledger: Ledger) -> None:
    changes = Changes(nodes=2)
    ledger.pool(n1={"cpu": 1000})
    _, events = decided(ledger, changes)
    opened = next(e.body for e in events if isinstance(e.body, PoolOpened))
    assert [spec.name for spec in opened.nodes] == ["n1", "n1+1", "n1+2"]
    assert opened.nodes[2] == NodeSpec("n1+2", {"cpu": 1000}, None)
