"""What the writer promises on every log: one effect for each command id, receipts that never lie,
one instant for each commit, and a book that is what the log adds up to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest

from ledger import commands as c
from ledger import writer as writer_module
from ledger.book import Book
from ledger.canonical import canonical_json
from ledger.chain import metadata_hash
from ledger.codec import from_row
from ledger.errors import InvalidInput, Reason
from ledger.events import Checkpointed, Refused
from ledger.evolve import evolve
from ledger.fields import book_digest
from ledger.identity import ProcessIdentity
from ledger.receipts import Receipt
from ledger.requests import NodeSpec, Request
from tests.ledgers import (
    SECOND,
    Ledger,
    allocate,
    check_whole,
    refolded,
    release,
    together,
)

NOTE = {"note": "mine"}
NOTE_HASH = metadata_hash(canonical_json(NOTE).decode()).hex()
PROCESS = ProcessIdentity("elsewhere", 4242, 77, "boot", "ns")


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger in which something of everything is there to command."""
    made = Ledger(tmp_path, request.param)
    made.pool(n1={"cpu": 8000}, n2={"cpu": 4000})
    made.pool("tight", n1={"cpu": 1000})
    yield made
    made.close()


@dataclass(frozen=True)
class Case:
    """A command to give, what comes of it, and another content under the same id."""

    outcome: str
    command: Callable[[Ledger], c.AnyCommand]
    other: dict[str, Any] = field(default_factory=dict)


def held(ledger: Ledger, **options: Any) -> str:
    return ledger.got(holder="h1", metadata=NOTE, **options)


def waiting(ledger: Ledger, asker: ProcessIdentity | None = None) -> str:
    ledger.got(pool="tight", holder="h2")
    receipt = ledger.do(replace(allocate("W", pool="tight", wait=900), asker=asker))
    assert receipt.allocation is not None
    return receipt.allocation.id


def reserved(ledger: Ledger) -> str:
    receipt = ledger.ask(reserve_ns=900 * SECOND)
    assert receipt.allocation is not None
    return receipt.allocation.id


def on(command: type[Any], allocation: str, **fields: Any) -> Any:
    claim = fields.pop("claim", c.Claim("h1"))
    return command(command_id="X", allocation=allocation, claim=claim, **fields)


def wide(command: type[Any], **fields: Any) -> Any:
    return command(command_id="X", **fields)


def with_task(ledger: Ledger) -> c.AnyCommand:
    ledger.do(c.StartTask(command_id="task", task="t0", by="h1"))
    return c.FinishTask(command_id="X", task="t0", by="h1")


def with_alert(ledger: Ledger) -> c.AnyCommand:
    ledger.do(c.RaiseAlert(command_id="alert", alert="smoke", message="there is smoke"))
    return c.ClearAlert(command_id="X", alert="smoke", by="op")


def redaction(ledger: Ledger) -> c.AnyCommand:
    position = int(held(ledger)[1:])
    return c.Redact(
        command_id="X", position=position, metadata_sha256=NOTE_HASH, reason="asked", by="op"
    )


def batch(*items: c.Allocate, atomic: bool = False) -> c.AllocateBatch:
    return c.AllocateBatch(
        command_id="X",
        items=tuple(replace(item, command_id="X") for item in items),
        atomic=atomic,
    )


def ahead(receipt: Receipt) -> int | None:
    return None if receipt.prospect is None else receipt.prospect.ahead


NODE = NodeSpec("n9", {"cpu": 1000})
CASES = {
    "open a ledger": Case(
        "ledger_opened",
        lambda _: wide(c.OpenLedger, ledger_id="test-ledger", epoch=2),
        {"ledger_id": "other"},
    ),
    "allocate": Case(
        "granted", lambda _: allocate("X", metadata={"k": [1, {"x": None}]}), {"holder": "h2"}
    ),
    "allocate and wait": Case(
        "waiting",
        lambda b: [b.got(pool="tight"), allocate("X", pool="tight", wait=900)][1],
        {"task": "another"},
    ),
    "allocate and reserve": Case(
        "granted", lambda _: allocate("X", reserve_ns=SECOND), {"metadata": {"k": 1}}
    ),
    "allocate a batch": Case(
        "partial",
        lambda _: batch(allocate("1", 5000), allocate("2", 9000), allocate("3", 2000)),
        {"atomic": True},
    ),
    "allocate a batch whole": Case(
        "granted", lambda _: batch(allocate("1"), allocate("2"), atomic=True), {"items": ()}
    ),
    "allocate a gang that waits": Case(
        "waiting",
        lambda b: (
            batch(allocate("1", 8000, wait=900), allocate("2", 8000, wait=900), atomic=True)
            if b.do(c.JoinNode(command_id="j", pool="box", node=NodeSpec("n3", {"cpu": 8000})))
            and b.got(8000)
            else None
        ),
        {"items": ()},
    ),
    "confirm": Case(
        "confirmed", lambda b: on(c.Confirm, reserved(b)), {"claim": c.Claim("h1", token=1)}
    ),
    "adjust": Case(
        "adjusted", lambda b: on(c.Adjust, held(b), amounts={"cpu": 3000}), {"amounts": {"cpu": 1}}
    ),
    "renew": Case("renewed", lambda b: on(c.Renew, held(b), ttl_ns=9_000 * SECOND), {"ttl_ns": 1}),
    "renew a holder": Case(
        "renewed",
        lambda b: [held(b), wide(c.RenewHolder, holder="h1", ttl_ns=9_000 * SECOND)][1],
        {"ttl_ns": 5},
    ),
    "release": Case("released", lambda b: on(c.Release, held(b)), {"consumed": {"cpu": 1}}),
    "transfer": Case(
        "transferred", lambda b: on(c.Transfer, held(b), to_holder="h2"), {"to_holder": "h3"}
    ),
    "withdraw": Case("withdrawn", lambda b: on(c.Withdraw, waiting(b)), {"reason": "bored"}),
    "wait for another's": Case(
        "waiting", lambda b: on(c.Await, waiting(b, PROCESS)), {"claim": c.Claim("op", None, True)}
    ),
    "reclaim": Case(
        "reclaimed",
        lambda b: on(c.Reclaim, held(b), claim=c.Claim("op", operator=True), cause="forced"),
        {"cause": "idle"},
    ),
    "ask to end": Case(
        "ending",
        lambda b: on(
            c.Reclaim,
            b.got(process=PROCESS),
            claim=c.Claim("op", operator=True),
            cause="forced",
            process_alive=True,
        ),
        {"grace_ns": 5},
    ),
    "start a task": Case(
        "task_started", lambda _: wide(c.StartTask, task="t", by="h"), {"by": "i"}
    ),
    "finish a task": Case("task_finished", with_task, {"outcome": "ok"}),
    "see a holder": Case(
        "holder_seen",
        lambda _: wide(c.SeeHolder, holder="h1", process=PROCESS),
        {"process": replace(PROCESS, pid=5)},
    ),
    "record usage": Case(
        "usage_recorded",
        lambda b: wide(
            c.RecordUsage, allocation=held(b), since=1, until=2, used={"cpu": 5}, peak={"cpu": 9}
        ),
        {"final": True},
    ),
    "open a pool": Case(
        "pool_opened", lambda _: wide(c.OpenPool, pool="new", nodes=(NODE,)), {"basis": "a guess"}
    ),
    "resize a pool": Case(
        "pool_resized",
        lambda _: wide(c.ResizePool, pool="box", nodes=(NodeSpec("n2", {"cpu": 5000}),)),
        {"nodes": (NodeSpec("n1", {"cpu": 5000}),)},
    ),
    "close a pool": Case("pool_closed", lambda _: wide(c.ClosePool, pool="tight"), {"pool": "box"}),
    "join a node": Case(
        "node_joined", lambda _: wide(c.JoinNode, pool="box", node=NODE), {"pool": "tight"}
    ),
    "take a node out": Case(
        "node_left", lambda _: wide(c.LeaveNode, pool="box", node="n2"), {"node": "n1"}
    ),
    "cordon a node": Case(
        "node_cordoned", lambda _: wide(c.CordonNode, pool="box", node="n2"), {"reason": "rust"}
    ),
    "set a quota": Case(
        "quota_set", lambda _: wide(c.SetQuota, limits={"cpu": 9000}), {"limits": {"cpu": 1}}
    ),
    "observe capacity": Case(
        "capacity_observed",
        lambda _: wide(c.ObserveCapacity, pool="box", node="n2", outside={"cpu": 500}),
        {"outside": {"cpu": 600}},
    ),
    "set a policy": Case(
        "policy_set",
        lambda _: wide(c.SetPolicy, pool="box", policy={"queue_limit": 7}),
        {"policy": {"queue_limit": 8}},
    ),
    "raise an alert": Case(
        "alert_raised", lambda _: wide(c.RaiseAlert, alert="fire", message="m"), {"message": "n"}
    ),
    "clear an alert": Case("alert_cleared", with_alert, {"reason": "put out"}),
    "give time back": Case(
        "time_extended",
        lambda _: wide(c.ExtendTime, by_ns=5, since=1, until=6, why="nobody served"),
        {"by_ns": 6},
    ),
    "correct": Case(
        "corrected", lambda _: wide(c.Correct, corrects=2, reason="wrong", by="op"), {"corrects": 3}
    ),
    "redact": Case("redacted", redaction, {"reason": "for fun"}),
}
COMMANDS = list(CASES)


def test_every_command_stands_in_the_table_of_cases(tmp_path: Path) -> None:
    given = set()
    for case in CASES.values():
        made = Ledger(tmp_path, "memory")
        made.pool(n1={"cpu": 8000}, n2={"cpu": 4000})
        made.pool("tight", n1={"cpu": 1000})
        given.add(type(case.command(made)))
        made.close()
    # Two are the ledger's own and carry no id; of RecordFacts, it is the facts that bear ids.
    without = {c.WriteDue, c.TakeCheckpoint, c.RecordFacts}
    assert given == set(get_args(c.AnyCommand)) - without


# --- one effect for each command id ----------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("way", ["again", "reopened", "another writer", "a snapshot"])
def test_a_retry_has_no_second_effect_and_gives_the_first_receipt(
    ledger: Ledger, name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    command = case.command(ledger)
    first = ledger.do(command)
    assert (first.outcome, first.replayed) == (case.outcome, False)
    head = ledger.writer.log.head()
    if way == "a snapshot":
        monkeypatch.setattr(writer_module, "CHECKPOINT_EVERY", 1)
        ledger.do(c.StartTask(command_id="to have a checkpoint", task="t1", by="h"))
        head = ledger.writer.log.head()
        monkeypatch.undo()
    if way in ("reopened", "a snapshot"):
        ledger.reopen()
    writer = ledger.another() if way == "another writer" else ledger.writer
    again = writer.execute(command)
    assert again.replayed
    assert (again.outcome, again.positions) == (first.outcome, first.positions)
    assert again.allocation == first.allocation
    assert again.event == first.event
    assert [r.outcome for r in again.results] == [r.outcome for r in first.results]
    assert [r.positions for r in again.results] == [r.positions for r in first.results]
    assert all(r.replayed for r in again.results)
    assert writer.log.head() == head
    check_whole(ledger.writer)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_command_twice_in_one_commit_has_one_effect(ledger: Ledger, name: str) -> None:
    command = CASES[name].command(ledger)
    before = ledger.writer.log.head().position
    first, second, third = together(ledger.writer, command, command, command)
    assert [r.replayed for r in (first, second, third)] == [False, True, True]
    assert first.outcome == second.outcome == third.outcome == CASES[name].outcome
    assert first.positions == second.positions == third.positions
    new = [row for row in ledger.writer.log.read(before) if row.command_id == "X"]
    assert [row.position for row in new] == list(first.positions)
    check_whole(ledger.writer)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("way", ["later", "in the same commit"])
def test_an_id_that_was_used_for_something_else_is_refused(
    ledger: Ledger, name: str, way: str
) -> None:
    command = CASES[name].command(ledger)
    other = replace(command, **CASES[name].other)
    if way == "later":
        receipts = [ledger.do(command), ledger.do(other)]
    else:
        receipts = together(ledger.writer, command, other)
    head = ledger.writer.log.head()
    receipts.append(ledger.do(other))
    for refusal in receipts[1:]:
        assert (refusal.outcome, refusal.reason) == ("refused", Reason.COMMAND_ID_REUSED)
        assert refusal.positions[0] == receipts[0].positions[0]
        assert not refusal.replayed
        assert refusal.allocation is None
    assert ledger.writer.log.head() == head
    assert ledger.do(command).replayed


def test_a_command_id_is_a_tenants_own(ledger: Ledger) -> None:
    mine = ledger.do(allocate("X", tenant="a"))
    theirs = ledger.do(allocate("X", 2000, tenant="b"))
    assert mine.outcome == theirs.outcome == "granted"
    assert mine.positions != theirs.positions
    assert ledger.do(allocate("X", tenant="a")).positions == mine.positions
    assert ledger.do(allocate("X", 2000, tenant="b")).positions == theirs.positions
    both = together(ledger.writer, allocate("Y", tenant="a"), allocate("Y", 2000, tenant="b"))
    assert [r.replayed for r in both] == [False, False]


def test_a_retry_of_a_pools_opening_after_the_pool_has_changed_is_still_the_first(
    ledger: Ledger,
) -> None:
    command = c.OpenPool(command_id="X", pool="new", nodes=(NODE,))
    first = ledger.do(command)
    ledger.do(c.ClosePool(command_id="close", pool="new"))
    again = ledger.do(command)
    assert again.replayed
    assert again.positions == first.positions
    assert ledger.writer.read(lambda book, now: book.pools["new"].closed)


def test_a_forced_reclaim_can_be_retried_though_the_process_looks_different_by_now(
    ledger: Ledger,
) -> None:
    allocation = ledger.got(process=PROCESS)
    command = on(
        c.Reclaim,
        allocation,
        claim=c.Claim("op", operator=True),
        cause="forced",
        process_alive=True,
        evidence={"observed_at": 1},
    )
    assert ledger.do(command).outcome == "ending"
    later = replace(command, process_alive=False, evidence={"observed_at": 2}, happened_at=5)
    again = ledger.do(later)
    assert (again.outcome, again.replayed) == ("ending", True)
    assert ledger.state(allocation) == "ending"


def test_a_refusal_for_lack_of_capacity_does_not_use_the_id_up(ledger: Ledger) -> None:
    held_by_other = ledger.got(pool="tight", holder="h2")
    command = allocate("X", pool="tight")
    assert ledger.do(command).reason == Reason.INSUFFICIENT_CAPACITY
    assert ledger.do(command).reason == Reason.INSUFFICIENT_CAPACITY
    ledger.release(held_by_other, "h2")
    granted = ledger.do(command)
    assert (granted.outcome, granted.replayed) == ("granted", False)
    ledger.reopen()
    again = ledger.do(command)
    assert (again.outcome, again.replayed, again.positions) == ("granted", True, granted.positions)


def test_a_refused_id_may_be_used_for_something_else(ledger: Ledger) -> None:
    ledger.got(pool="tight")
    assert ledger.do(allocate("X", pool="tight")).outcome == "refused"
    assert ledger.do(allocate("X", pool="box")).outcome == "granted"
    assert ledger.do(allocate("X", pool="tight")).reason == Reason.COMMAND_ID_REUSED


def test_within_one_commit_a_refused_id_can_be_granted_once_there_is_room(ledger: Ledger) -> None:
    other = ledger.got(pool="tight", holder="h2")
    ask = allocate("X", pool="tight")
    first, freed, second, third = together(ledger.writer, ask, release("r", other, "h2"), ask, ask)
    assert [first.outcome, freed.outcome, second.outcome] == ["refused", "released", "granted"]
    assert not second.replayed
    assert third.replayed
    assert ledger.do(ask).positions == second.positions == third.positions


# --- a retry shows what has become of it -------------------------------------------------------------


def test_a_retry_of_a_waiting_request_goes_on_waiting_then_is_granted_then_has_ended(
    ledger: Ledger,
) -> None:
    other = ledger.got(pool="tight", holder="h2")
    command = allocate("X", pool="tight", wait=900)
    first = ledger.do(command)
    assert (first.outcome, ahead(first), first.replayed) == ("waiting", 0, False)
    behind = ledger.do(allocate("Y", pool="tight", wait=900))
    assert ahead(behind) == 1
    ledger.reopen()
    again = ledger.do(command)
    assert (again.outcome, ahead(again), again.replayed) == ("waiting", 0, True)
    assert ahead(ledger.do(allocate("Y", pool="tight", wait=900))) == 1
    ledger.release(other, "h2")
    granted = ledger.do(command)
    assert (granted.outcome, granted.replayed, ahead(granted)) == ("granted", True, None)
    assert granted.positions == first.positions
    assert granted.allocation is not None
    assert granted.allocation.state == "active"
    assert granted.allocation.token > first.positions[0]
    assert ahead(ledger.do(allocate("Y", pool="tight", wait=900))) == 0
    ledger.release(granted.allocation.id)
    ended = ledger.reopen().execute(command)
    assert (ended.outcome, ended.replayed) == ("granted", True)
    assert ended.allocation is not None
    assert (ended.allocation.state, ended.allocation.ended_by) == ("ended", "released")
    assert ledger.types().count("queued") == 2


def test_a_retry_of_a_wait_that_is_over_says_that_it_timed_out(ledger: Ledger) -> None:
    ledger.got(pool="tight", holder="h2", ttl=5000)
    command = allocate("X", pool="tight", wait=10)
    ledger.do(command)
    ledger.clock.run(11)
    late = ledger.do(command)
    assert (late.outcome, late.reason, late.replayed) == ("refused", Reason.WAIT_TIMED_OUT, True)
    assert late.allocation is not None
    assert late.allocation.ended_by == "timed_out"
    assert ledger.do(allocate("X2", pool="tight", wait=10)).outcome == "waiting"


def test_a_retry_of_a_wait_that_was_given_up_does_not_say_that_it_timed_out(
    ledger: Ledger,
) -> None:
    ledger.got(pool="tight", holder="h2")
    command = allocate("X", pool="tight", wait=900)
    first = ledger.do(command)
    assert first.allocation is not None
    ledger.do(c.Withdraw(command_id="w", allocation=first.allocation.id, claim=c.Claim("h1")))
    late = ledger.do(command)
    assert (late.outcome, late.reason) == ("refused", Reason.ALREADY_ENDED)
    assert "withdrawn" in late.message


def test_a_retry_of_a_grant_shows_its_present_state(ledger: Ledger) -> None:
    command = allocate("X", ttl=100)
    first = ledger.do(command)
    assert first.allocation is not None
    allocation = first.allocation.id
    ledger.do(
        c.Adjust(command_id="a", allocation=allocation, claim=c.Claim("h1"), amounts={"cpu": 2500})
    )
    ledger.do(
        c.Transfer(command_id="t", allocation=allocation, claim=c.Claim("h1"), to_holder="h2")
    )
    again = ledger.do(command)
    assert again.event == first.event
    assert again.allocation is not None
    assert (again.allocation.amounts, again.allocation.holder) == ({"cpu": 2500}, "h2")
    assert again.allocation.token > first.allocation.token
    ledger.clock.run(101)
    expired = ledger.do(command)
    assert expired.allocation is not None
    assert (expired.allocation.state, expired.allocation.ended_by) == ("ended", "expired")
    assert expired.allocation.ended_at == first.allocation.lease_until


def test_a_receipt_of_a_release_shows_what_it_ended(ledger: Ledger) -> None:
    allocation = ledger.got(2000, task="t")
    receipt = ledger.release(allocation)
    assert receipt.allocation is not None
    assert receipt.allocation == ledger.writer.present(allocation)
    assert (receipt.allocation.state, receipt.allocation.ended_by) == ("ended", "released")
    assert receipt.allocation.amounts == {"cpu": 2000}
    twice = ledger.release(allocation)
    assert (twice.outcome, twice.reason) == ("refused", Reason.ALREADY_ENDED)


def test_a_release_and_what_it_hands_on_are_one_commit_and_two_receipts(ledger: Ledger) -> None:
    other = ledger.got(pool="tight", holder="h2")
    queued = allocate("X", pool="tight", wait=900)
    first, freed, again = together(ledger.writer, queued, release("r", other, "h2"), queued)
    assert first.outcome == "waiting"
    assert first.allocation is not None
    assert freed.positions == (first.positions[0] + 1,)
    assert (again.outcome, again.replayed) == ("granted", True)
    grant = ledger.events()[-1]
    assert (grant.type, grant.cause, grant.allocation) == ("allocated", None, first.allocation.id)


def test_a_request_that_a_pool_answers_with_its_twin_has_the_twins_receipt_and_no_effect(
    ledger: Ledger,
) -> None:
    ledger.do(c.SetPolicy(command_id="p", pool="tight", policy={"duplicates": "answer"}))
    first = ledger.do(allocate("one", pool="tight", task="t"))
    head = ledger.writer.log.head()
    twin = ledger.do(allocate("two", pool="tight", task="t"))
    assert (twin.outcome, twin.replayed) == ("granted", True)
    assert twin.allocation == first.allocation
    assert ledger.writer.log.head() == head
    waiting = ledger.do(allocate("three", pool="tight", task="u", wait=900))
    assert (waiting.outcome, ahead(waiting)) == ("waiting", 0)
    again = ledger.do(allocate("four", pool="tight", task="u", wait=900))
    assert (again.outcome, again.allocation, ahead(again)) == ("waiting", waiting.allocation, 0)


# --- batches -----------------------------------------------------------------------------------------


def test_a_partial_batch_keeps_its_refused_items_on_every_replay(ledger: Ledger) -> None:
    command = batch(
        allocate("1", 9000), allocate("2", 8000), allocate("3", 8000), allocate("4", 4000)
    )
    first = ledger.do(command)
    assert first.outcome == "partial"
    assert [r.outcome for r in first.results] == ["refused", "granted", "refused", "granted"]
    assert [r.reason for r in first.results] == [
        Reason.EXCEEDS_POOL,
        None,
        Reason.INSUFFICIENT_CAPACITY,
        None,
    ]
    for receipt in (ledger.do(command), ledger.reopen().execute(command)):
        assert receipt.replayed
        assert [r.outcome for r in receipt.results] == [r.outcome for r in first.results]
        assert [r.event for r in receipt.results] == [r.event for r in first.results]


def test_a_batch_whose_items_are_all_refused_uses_nothing_up(ledger: Ledger) -> None:
    command = batch(allocate("1", 9000), allocate("2", 9500))
    first = ledger.do(command)
    assert first.outcome == "refused"
    assert [r.reason for r in first.results] == [Reason.EXCEEDS_POOL] * 2
    ledger.do(c.JoinNode(command_id="j", pool="box", node=NodeSpec("big", {"cpu": 9000})))
    second = ledger.do(command)
    assert (second.outcome, second.replayed) == ("partial", False)
    assert [r.outcome for r in second.results] == ["granted", "refused"]
    assert ledger.do(command).replayed


def test_a_refused_try_of_a_batch_in_the_same_commit_is_no_part_of_its_receipt(
    ledger: Ledger,
) -> None:
    other = ledger.got(pool="tight", holder="h2")
    command = batch(allocate("1", pool="tight"), allocate("2", pool="tight"))
    tried, _, done = together(ledger.writer, command, release("r", other, "h2"), command)
    assert [r.outcome for r in tried.results] == ["refused", "refused"]
    assert [r.outcome for r in done.results] == ["granted", "refused"]
    again = ledger.reopen().execute(command)
    assert again.replayed
    assert [(r.outcome, r.positions) for r in again.results] == [
        (r.outcome, r.positions) for r in done.results
    ]


def test_an_atomic_batch_that_does_not_fit_grants_nothing_and_keeps_its_id(ledger: Ledger) -> None:
    command = batch(allocate("1", 8000), allocate("2", 8000), atomic=True)
    before = ledger.types().count("allocated")
    refusal = ledger.do(command)
    assert (refusal.outcome, refusal.reason) == ("refused", Reason.INSUFFICIENT_CAPACITY)
    assert "item 1" in refusal.message
    assert ledger.types().count("allocated") == before
    ledger.do(c.JoinNode(command_id="j", pool="box", node=NodeSpec("big", {"cpu": 8000})))
    granted = ledger.do(command)
    assert (granted.outcome, granted.replayed) == ("granted", False)


def test_the_waiting_items_of_a_batch_are_granted_later_and_its_replay_shows_it(
    ledger: Ledger,
) -> None:
    command = batch(
        allocate("1", pool="tight"),
        allocate("2", pool="tight", wait=900),
        allocate("3", pool="tight", wait=900),
    )
    first = ledger.do(command)
    assert first.outcome == "partial"
    assert [(r.outcome, ahead(r)) for r in first.results] == [
        ("granted", None),
        ("waiting", 0),
        ("waiting", 1),
    ]
    held_one = first.results[0].allocation
    assert held_one is not None
    ledger.release(held_one.id)
    again = ledger.reopen().execute(command)
    assert [(r.outcome, ahead(r)) for r in again.results] == [
        ("granted", None),
        ("granted", None),
        ("waiting", 0),
    ]


# --- bad input harms only its own --------------------------------------------------------------------


BAD: list[c.AnyCommand] = [
    allocate("", 1000),
    allocate("\ud800", 1000),
    allocate("x\n", 1000),
    allocate("x" * 201, 1000),
    allocate(None, 1000),  # type: ignore[arg-type]
    allocate(["x"], 1000),  # type: ignore[arg-type]
    allocate("ok", 1000, tenant="\udfff"),
    allocate("ok", 1000, tenant=7),
    allocate("ok", 1000, holder=""),
    allocate("ok", 0),
    allocate("ok", -5),
    allocate("ok", 2**63),
    allocate("ok", 1000, ttl=0),
    allocate("ok", 1000, metadata={"a": 1.5}),
    allocate("ok", 1000, metadata={"a": "\ud800"}),
    allocate("ok", 1000, metadata={"a": {1, 2}}),
    allocate("ok", 1000, metadata={"a": "x" * 20_000}),
    allocate("ok", 1000, select={"a": "\ud800"}),
    batch(),
    batch(allocate("1"), allocate("2", 0)),
    batch(allocate("1"), allocate("2", tenant="else")),
    release("ok", "A\ud800"),
    release("ok", ""),
    release("ok", "A2", holder="\ud800"),
    c.Withdraw(command_id="ok", allocation="A2", claim=c.Claim("h"), reason="\ud800"),
    c.RaiseAlert(command_id="ok", alert="x", message="\ud800"),
    c.SetPolicy(command_id="ok", pool="box", policy={"order": "by beauty"}),
    c.OpenPool(command_id="ok", pool="new", nodes=()),
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_bad_input_fails_alone_and_changes_nothing(ledger: Ledger, bad: c.AnyCommand) -> None:
    before = refolded(ledger.writer.log).position
    good = allocate("good")
    first, error, second = together(ledger.writer, allocate("before"), bad, good)
    assert isinstance(error, InvalidInput)
    assert "\n" not in error.message
    assert [first.outcome, second.outcome] == ["granted", "granted"]
    assert second.positions == (before + 2,)
    with pytest.raises(InvalidInput):
        ledger.do(bad)
    assert ledger.do(good).replayed
    check_whole(ledger.writer)


# --- time --------------------------------------------------------------------------------------------


def test_recorded_at_is_one_instant_in_a_commit_and_later_in_the_next(ledger: Ledger) -> None:
    # The clock stands still: ledger time must go on all the same.
    commits = []
    for number in range(20):
        writer = ledger.writer if number % 2 else ledger.another()
        before = writer.log.head().position
        together(writer, allocate(f"a{number}", 10), allocate(f"b{number}", 10))
        commits.append({row.recorded_at for row in writer.log.read(before)})
    assert [len(instants) for instants in commits] == [1] * 20
    instants = [instant for (instant,) in commits]
    assert instants == sorted(set(instants))
    ledger.clock.set_wall(-3_600)
    ledger.do(allocate("after the wall clock went back", 10))
    assert ledger.writer.log.head().recorded_at > instants[-1]


def test_what_a_reader_sees_has_ended_at_the_leases_end_though_nobody_wrote_it_down(
    ledger: Ledger,
) -> None:
    allocation = ledger.got(ttl=10)
    before = ledger.writer.present(allocation)
    assert before is not None
    ledger.clock.run(11)
    head = ledger.writer.log.head()
    assert ledger.writer.read(lambda book, now: allocation in book.allocations) is False
    late = ledger.writer.present(allocation)
    assert late is not None
    assert (late.state, late.ended_by, late.ended_at) == ("ended", "expired", before.lease_until)
    assert ledger.writer.log.head() == head
    ledger.writer.settle()
    assert ledger.events()[-1].type == "expired"
    assert ledger.writer.present(allocation) == late


def test_what_is_drawn_on_an_expired_allocation_reads_as_ended_for_its_own_cause(
    ledger: Ledger,
) -> None:
    parent = ledger.got(4000, ttl=10)
    child = ledger.got(1000, parent=parent, ttl=900)
    ledger.clock.run(11)
    unwritten = ledger.writer.present(child)
    assert unwritten is not None
    assert (unwritten.state, unwritten.ended_by) == ("ended", "leaked")
    ledger.writer.settle()
    assert ledger.writer.present(child) == unwritten


# --- refusals that repeat ----------------------------------------------------------------------------


def refusals(ledger: Ledger) -> list[tuple[int, Refused]]:
    return [
        (event.position, event.body) for event in ledger.events() if isinstance(event.body, Refused)
    ]


def test_repeats_of_a_refusal_within_a_second_are_counted_and_written_once(ledger: Ledger) -> None:
    ledger.got(pool="tight", holder="h2")
    first = ledger.ask(pool="tight")
    for _ in range(4):
        ledger.clock.run(0.1)
        repeat = ledger.ask(pool="tight")
        assert repeat.refusal_id == first.refusal_id
    assert len(refusals(ledger)) == 1
    ledger.clock.run(1)
    ledger.do(c.StartTask(command_id="t", task="t", by="h"))
    (position, _), (_, counted) = refusals(ledger)
    assert (counted.repeats, counted.repeats_of) == (4, position)
    ledger.do(c.StartTask(command_id="u", task="u", by="h"))
    assert len(refusals(ledger)) == 2


def test_a_refusal_after_its_second_is_recorded_in_full_also_beside_the_count(
    ledger: Ledger,
) -> None:
    ledger.got(pool="tight", holder="h2")
    for _ in range(3):
        ledger.ask(pool="tight")
        ledger.clock.run(0.3)
    ledger.clock.run(1)
    fresh = ledger.ask(pool="tight")
    (first, _), (_, counted), (last, full) = refusals(ledger)
    assert (counted.repeats, counted.repeats_of) == (2, first)
    assert fresh.refusal_id == f"R{last}"
    assert (full.repeats, full.repeats_of) == (0, None)
    assert full.shortfall == {"n1": {"cpu": 1000}}


def test_counted_repeats_are_written_down_on_close(tmp_path: Path) -> None:
    made = Ledger(tmp_path, "sqlite")
    made.pool("tight", n1={"cpu": 1000})
    made.got(pool="tight", holder="h2")
    for _ in range(3):
        made.ask(pool="tight")
    made.reopen()
    assert [body.repeats for _, body in refusals(made)] == [0, 2]
    check_whole(made.writer)
    made.close()


# --- checkpoints -------------------------------------------------------------------------------------


def test_checkpoints_stand_in_the_log_with_the_digest_of_a_fold(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "CHECKPOINT_EVERY", 7)
    for number in range(30):
        allocation = ledger.got(100, ttl=5 + number, task=f"t{number % 3}")
        ledger.clock.run(0.7)
        if number % 4 == 0:
            ledger.release(allocation)
        if number % 5 == 0:
            ledger.ask(9_000)
    book = Book()
    seen = []
    for row in ledger.writer.log.read():
        event = from_row(row)
        if isinstance(event.body, Checkpointed):
            assert event.body.book == book_digest(book)
            seen.append(event.position)
        evolve(book, event)
    assert len(seen) >= 5
    assert all(later - earlier >= 7 for earlier, later in pairwise(seen))
    check_whole(ledger.writer)


def test_events_that_touch_many_leases_bring_the_next_checkpoint_sooner(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "CHECKPOINT_EVERY", 100)
    for _ in range(30):
        ledger.got(cpu=1)
    begun = len(ledger.events())
    for number in range(10):
        renewal = c.RenewHolder(
            command_id=f"r{number}", holder="h1", ttl_ns=(2_000 + number) * SECOND
        )
        assert ledger.do(renewal).outcome == "renewed"
    # Four times the 30 leases are more than 100, and are touched by four events.
    assert ledger.types()[begun:] == [
        *["renewed"] * 4,
        "checkpointed",
        *["renewed"] * 4,
        "checkpointed",
        *["renewed"] * 2,
    ]
    # Who opens the ledger anew counts the same, from the events that it folds.
    ledger.reopen()
    for number in range(10, 13):
        ledger.do(
            c.RenewHolder(command_id=f"r{number}", holder="h1", ttl_ns=9_000 * SECOND + number)
        )
    assert ledger.types()[-3:] == ["renewed", "checkpointed", "renewed"]


# --- listeners ---------------------------------------------------------------------------------------


def test_a_listener_hears_every_event_once_and_in_order_also_those_of_other_writers(
    ledger: Ledger,
) -> None:
    heard: list[int] = []
    ledger.got()
    stop = ledger.writer.listen(lambda events: heard.extend(e.position for e in events))
    start = ledger.writer.log.head().position
    other = ledger.another()
    ledger.got(100)
    other.execute(allocate("o1", 100))
    # What another has added is taken in by a read here, which tells nobody.
    ledger.writer.read(lambda book, now: None)
    assert heard == [start + 1]
    ledger.writer.refresh()
    assert heard == [start + 1, start + 2]
    other.execute(allocate("o2", 100))
    ledger.got(100)
    other.execute(allocate("o3", 100))
    ledger.writer.refresh()
    ledger.writer.refresh()
    assert heard == list(range(start + 1, start + 6))
    stop()
    ledger.got(100)
    assert len(heard) == 5
    stop()


def test_a_listener_that_fails_harms_neither_the_caller_nor_the_other_listeners(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(events: Any) -> None:
        raise ValueError("deaf")

    heard: list[Any] = []
    ledger.writer.listen(fail)
    ledger.writer.listen(heard.append)
    assert ledger.ask().outcome == "granted"
    assert len(heard) == 1
    assert "a listener failed" in caplog.text


# --- redaction ---------------------------------------------------------------------------------------


def test_redactions_share_a_commit_with_other_commands(ledger: Ledger) -> None:
    one, two = held(ledger), held(ledger)
    redact = [
        c.Redact(
            command_id=f"redact {a}",
            position=int(a[1:]),
            metadata_sha256=NOTE_HASH,
            reason="asked",
            by="op",
        )
        for a in (one, two)
    ]
    answers = together(ledger.writer, allocate("a"), redact[0], allocate("b"), redact[1], redact[0])
    assert [a.outcome for a in answers] == [
        "granted",
        "redacted",
        "granted",
        "redacted",
        "redacted",
    ]
    rows = {row.position: row for row in ledger.writer.log.read()}
    assert rows[int(one[1:])].metadata is None
    assert rows[int(two[1:])].metadata is None


def test_a_book_is_never_seen_ahead_of_what_was_committed(ledger: Ledger) -> None:
    seen: list[tuple[int, int]] = []
    other = ledger.another()
    inner = ledger.writer.log.transaction()
    with inner as transaction:
        seen.append((other.log.head().position, transaction.head().position))
    ledger.writer.listen(
        lambda events: seen.append(
            (
                other.read(lambda book, now: book.position),
                ledger.writer.read(lambda book, now: book.position),
            )
        )
    )
    ledger.got()
    assert all(one == two for one, two in seen)


def test_an_id_that_a_batch_has_used_is_not_free_for_a_single_request(ledger: Ledger) -> None:
    command = batch(replace(allocate("1"), request=Request({"cpu": 1}, ttl_ns=SECOND)))
    first = ledger.do(command)
    assert [r.outcome for r in first.results] == ["granted"]
    assert ledger.do(allocate("X", 1, ttl=1)).reason == Reason.COMMAND_ID_REUSED
