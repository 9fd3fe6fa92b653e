"""Time travel: what is told of a moment is what the whole record says of it, whoever asks, and when."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasebook.moments import state_out
from ledger import snapshots as snapshots_module
from ledger import writer as writer_module
from ledger.advance import ENDS
from ledger.book import LIVE, Book
from ledger.commands import Claim, Correct, Fact, OpenPool, Reclaim, RecordFacts
from ledger.errors import InvalidInput
from ledger.fields import book_digest, dump
from ledger.fold import fold
from ledger.log import Row
from ledger.requests import NodeSpec, Placement, Request
from ledger.snapshots import Snapshots
from ledger.sqlite_driver import sqlite3
from ledger.step import is_due, settle_due
from ledger.times import rfc3339
from projections import past as past_module
from projections.difference import difference
from projections.past import Past
from projections.travel import Moment, State, Travel
from projections.travel_history import History, TabledHistory, unknown_capacity
from projections.travel_replay import Replay
from tests.ledgers import SECOND, Ledger
from tests.unit.command_maker import CommandMaker

END_TYPES = frozenset(body.TYPE for body in ENDS)
GRANT_TYPES = frozenset({"allocated", "reserved"})


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    made = Ledger(tmp_path, "sqlite")
    yield made
    made.close()


def travel_of(ledger: Ledger, **options: Any) -> Travel:
    writer = ledger.writer
    now, _ = writer.read(lambda book, now: (now, book.position))
    return Travel(Past(writer.log, writer.snapshots), now=options.pop("now", now), **options)


def at(travel: Travel, time: int, known: int | None = None) -> State:
    bound = None if known is None else travel.moment("time", known)
    return travel.state(travel.moment("time", time), bound)


# --- random histories against the whole record ---------------------------------------------------


def _random_history(folder: Path, seed: int, steps: int) -> Ledger:
    """A ledger on disk after random commands, with late reclaims, suspensions and small snapshots."""
    ledger = Ledger(folder, "sqlite")
    maker, random = CommandMaker(seed), Random(seed)
    for command in maker.opening()[1:]:
        ledger.do(command)
    for _ in range(steps):
        book = ledger.writer.read(lambda book, now: book.fork())
        seconds = maker.wait() / SECOND
        if random.random() < 0.05:
            ledger.clock.sleep(seconds + 2)
        else:
            ledger.clock.run(seconds)
        command = maker.next(book)
        bound = [a for a in book.allocations.values() if a.request.process and a.state in LIVE]
        if bound and random.random() < 0.3:
            a = random.choice(bound)
            command = Reclaim(
                command_id=maker.id(),
                tenant=a.tenant,
                allocation=a.id,
                claim=Claim(a.holder),
                cause="crashed",
                happened_at=book.recorded_at - random.choice((0, 1, 5, 20)) * SECOND,
            )
        with contextlib.suppress(InvalidInput):
            ledger.do(command)
    ledger.clock.run(0.5)
    ledger.writer.settle()
    return ledger


def _truth(
    rows: list[Row], position: int, time: int, known: int, late: Book
) -> tuple[set[str], set[str]]:
    """Who held and who waited at a time, from the rows alone: what was granted by a position and has
    no end at or before the time, among the rows up to ``known``; ``late`` is the book of those."""
    granted, asked, ended = set(), set(), set()
    begun: dict[str, int] = {}
    for row in rows[:known]:
        if row.allocation is None:
            continue
        if row.position <= position:
            asked |= {row.allocation} if row.type == "queued" else set()
            granted |= {row.allocation} if row.type in GRANT_TYPES else set()
        if row.type in GRANT_TYPES:
            begun[row.allocation] = row.at
        later = row.position <= position or row.recorded_at > time
        # Nothing that was set aside had ended before it was.
        if row.type in END_TYPES and max(row.at, begun.get(row.allocation, 0)) <= time and later:
            ended.add(row.allocation)
    # What nobody had ended by then, though its time was over, counts as ended; and what drew on it.
    over = {a.id for a in late.allocations.values() if a.due is not None and a.due <= time}
    for a in sorted(late.allocations.values(), key=lambda a: a.position):
        if a.request.parent in over:
            over.add(a.id)
    return granted - ended - over, asked - granted - ended - over


def _scratch(rows: list[Row], position: int) -> Book:
    book = Book()
    fold(book, rows[:position])
    return book


def _check_accounts(book: Book) -> None:
    """What is in use on each node is the sum of what stands there."""
    used: Counter[tuple[str, str, str]] = Counter()
    for a in book.allocations.values():
        if a.state in LIVE and a.request.parent is None:
            for p in a.placements:
                for resource, amount in p.amounts.items():
                    used[a.pool, p.node, resource] += amount
    for pool in book.pools.values():
        for name, node in pool.space.nodes.items():
            for resource, amount in node.in_use.items():
                spent = pool.spent.get(name, {}).get(resource, 0)
                assert amount == used[pool.name, name, resource] + spent, (pool.name, name)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(5, 70))
def test_any_moment_of_a_random_history_is_what_the_rows_alone_say_of_it(
    seed: int, steps: int
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer_module, "CHECKPOINT_EVERY", 16)
        patch.setattr(snapshots_module, "KEPT", 6)
        patch.setattr(past_module, "FAR", 40)
        ledger = _random_history(Path(folder), seed, steps)
        travel = travel_of(ledger)
        rows = list(ledger.writer.log.read())
        head = len(rows)
        random = Random(seed)
        begun, end = rows[0].recorded_at, travel.head().time
        times = {row.recorded_at for row in rows} | {random.randint(begun, end) for _ in range(20)}
        for time in sorted(random.sample(sorted(times), min(15, len(times)))):
            position = max(row.position for row in rows if row.recorded_at <= time)
            for known in {position, head, random.randint(position, head)}:
                bound = Moment(known, max(time, rows[known - 1].recorded_at))
                state = travel.state(travel.moment("time", time), bound)
                assert state.when == Moment(position, time)
                late = _scratch(rows, known)
                held, waiting = _truth(rows, position, time, known, late)
                assert {a.id for a in state.held()} == held
                assert {a.id for a in state.queue()} == waiting
                _check_accounts(state.book)
                then = _scratch(rows, position)
                for a in state.held():
                    was = then.allocations[a.id]
                    assert (a.holder, a.amounts, a.placements, a.token) == (
                        was.holder,
                        was.amounts,
                        was.placements,
                        was.token,
                    )
        ledger.close()


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_book_at_every_position_is_the_one_folded_from_the_beginning(seed: int) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer_module, "CHECKPOINT_EVERY", 16)
        patch.setattr(snapshots_module, "KEPT", 6)
        patch.setattr(past_module, "FAR", 40)
        ledger = _random_history(Path(folder), seed, 50)
        travel = travel_of(ledger)
        rows = list(ledger.writer.log.read())
        book = Book()
        for row in rows:
            fold(book, [row])
            assert dump(travel.past.book_at(row.position)) == dump(book)
            state = travel.state(
                travel.moment("position", row.position), Moment(row.position, row.recorded_at)
            )
            settled = book.fork()
            while is_due(settled, row.recorded_at):
                settle_due(settled, row.recorded_at, grant=False)
            if not is_due(book, row.recorded_at):
                assert {a.id for a in [*state.held(), *state.queue()]} == settled.allocations.keys()
                assert state.book.allocations == settled.allocations
        ledger.close()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_difference_applied_to_the_first_moment_gives_the_second(seed: int) -> None:
    from leasebook.moments import difference_out, state_out

    with TemporaryDirectory() as folder:
        ledger = _random_history(Path(folder), seed, 50)
        travel = travel_of(ledger)
        random = Random(seed)
        head = travel.head().position
        for _ in range(6):
            a, b = sorted(random.randint(1, head) for _ in range(2))
            first = travel.state(travel.moment("position", a))
            second = travel.state(travel.moment("position", b))
            before, after = state_out(first), state_out(second)
            apart = difference_out(difference(travel, first, second))
            assert _applied(before, apart) == _comparable(after)
            same = difference(travel, first, travel.state(first.when))
            assert same.is_empty
        ledger.close()


def _comparable(state: dict[str, Any]) -> dict[str, Any]:
    return {
        "held": {a["id"]: a for a in state["allocations"]},
        "queue": {a["id"]: a for a in state["queue"]},
        "nodes": {p["name"]: {n["name"]: n for n in p["nodes"]} for p in state["pools"]},
        "closed": {p["name"]: p["closed"] for p in state["pools"]},
    }


def _applied(before: dict[str, Any], apart: dict[str, Any]) -> dict[str, Any]:
    state = _comparable(before)
    for part, come, gone in (
        ("held", apart["allocations"]["begun"], apart["allocations"]["ended"]),
        ("queue", apart["queue"]["joined"], apart["queue"]["left"]),
    ):
        for a in gone:
            del state[part][a["id"]]
        state[part].update({a["id"]: a for a in come})
    for change in apart["allocations"]["changed"]:
        part = "held" if change["id"] in state["held"] else "queue"
        was = state[part][change["id"]]
        assert all(was[name] == value for name, value in change["before"].items())
        state[part][change["id"]] = {**was, **change["after"]}
    for pool in apart["pools"]:
        nodes = state["nodes"].setdefault(pool["name"], {})
        state["closed"].setdefault(pool["name"], False)
        for node in pool["nodes"]:
            assert nodes.pop(node["name"], None) == node["before"]
            if node["after"] is not None:
                nodes[node["name"]] = node["after"]
        if "closed" in pool["settings"]:
            state["closed"][pool["name"]] = pool["settings"]["closed"][1]
    return state


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_replay_goes_through_every_event_and_its_state_is_the_book_after_it(seed: int) -> None:
    with TemporaryDirectory() as folder:
        ledger = _random_history(Path(folder), seed, 40)
        travel = travel_of(ledger)
        rows = list(ledger.writer.log.read())
        since = len(rows) // 3
        frames = list(
            Replay(
                travel, Moment(since, rows[max(0, since - 1)].recorded_at), travel.head()
            ).frames()
        )
        assert [frame.event.position for frame in frames] == list(range(since + 1, len(rows) + 1))
        book = _scratch(rows, since)
        for frame, row in zip(frames, rows[since:], strict=True):
            fold(book, [row])
            for pool in frame.pools:
                space = book.pools[pool.name].space
                there = [a for a in book.allocations.values() if a.pool == pool.name]
                assert pool.waiting == sum(a.state == "waiting" for a in there)
                assert pool.held == sum(a.state != "waiting" for a in there)
                shown = {n.name: (n.in_use, n.capacity, n.cordoned) for n in pool.nodes}
                now = {n.name: (n.in_use, n.capacity, n.cordoned) for n in space.nodes.values()}
                assert shown == now
        ledger.close()


# --- lateness and knowledge ----------------------------------------------------------------------


def _bound(ledger: Ledger, holder: str = "h1", **options: Any) -> str:
    from tests.unit.command_maker import PROCESS

    return ledger.got(holder=holder, process=PROCESS, **options)


def _now(ledger: Ledger) -> int:
    return ledger.writer.read(lambda book, now: now)


def _crashed(ledger: Ledger, allocation: str, happened_at: int) -> None:
    command = Reclaim(
        command_id=ledger.next_id(),
        allocation=allocation,
        claim=Claim("h1"),
        cause="crashed",
        happened_at=happened_at,
    )
    assert ledger.do(command).outcome == "reclaimed"


def test_a_lease_that_was_over_counts_as_ended_though_nobody_had_written_it_down(
    ledger: Ledger,
) -> None:
    ledger.pool(n1={"cpu": 4000})
    a = ledger.got(ttl=10)
    granted = _now(ledger)
    ledger.clock.run(60)
    before, after = (
        at(travel_of(ledger), granted + 9 * SECOND),
        at(travel_of(ledger), granted + 11 * SECOND),
    )
    assert [x.id for x in before.held()] == [a]
    assert after.held() == []
    assert after.book.pools["box"].space.nodes["n1"].in_use["cpu"] == 0
    assert after.ended[a].ended_by == "expired"


def test_a_crash_found_later_counts_as_ended_unless_it_is_asked_what_was_believed(
    ledger: Ledger,
) -> None:
    ledger.pool(n1={"cpu": 4000})
    a = _bound(ledger)
    ledger.clock.run(10)
    crashed = _now(ledger)
    ledger.clock.run(10)
    asked = _now(ledger)
    ledger.clock.run(10)
    _crashed(ledger, a, crashed)
    ledger.clock.run(1)
    travel = travel_of(ledger)
    now, then = at(travel, asked), at(travel, asked, asked)
    assert now.held() == []
    assert now.book.pools["box"].space.nodes["n1"].in_use["cpu"] == 0
    assert [x.id for x in then.held()] == [a]
    assert then.book.pools["box"].space.nodes["n1"].in_use["cpu"] == 1000
    for state, counted in ((now, True), (then, False)):
        (found,) = state.corrections
        assert (found.allocation, found.believed, found.found) == (a, "held", "ended")
        assert (found.ended_at, found.ended_by, found.counted) == (crashed, "crashed", counted)
        assert found.found_at > asked
    assert [x.id for x in at(travel, crashed - 1).held()] == [a]
    assert at(travel, crashed - 1).corrections == ()


def test_what_drew_on_a_crashed_allocation_ends_with_it_late(ledger: Ledger) -> None:
    ledger.pool(n1={"cpu": 4000})
    parent = _bound(ledger, cpu=4000)
    child = ledger.got(cpu=1000, parent=parent)
    gone = ledger.got(cpu=1000, parent=parent, holder="h2")
    ledger.clock.run(10)
    crashed = _now(ledger)
    ledger.clock.run(10)
    asked = _now(ledger)
    ledger.clock.run(1)
    ledger.release(gone, "h2")
    ledger.clock.run(10)
    _crashed(ledger, parent, crashed)
    state = at(travel_of(ledger), asked)
    # What had been given back in between was held until then, whatever it stood on.
    assert [a.id for a in state.held()] == [gone]
    assert {c.allocation for c in state.corrections} == {parent, child}
    assert {a.id for a in at(travel_of(ledger), asked, asked).held()} == {parent, child, gone}


def test_time_in_which_nobody_could_renew_is_no_end_to_whoever_knows_of_it(ledger: Ledger) -> None:
    ledger.pool(n1={"cpu": 4000})
    a = ledger.got(ttl=100)
    granted = _now(ledger)
    ledger.clock.run(90)
    ledger.ask(100, holder="h2")
    ledger.clock.sleep(3600)
    ledger.clock.run(1)
    ledger.ask(100, holder="h3")
    assert "time_extended" in ledger.types()
    travel = travel_of(ledger)
    asked = granted + 1800 * SECOND
    assert a in [x.id for x in at(travel, asked).held()]
    believed = at(travel, asked, asked)
    assert a not in [x.id for x in believed.held()]
    told = {c.allocation: c for c in believed.corrections}
    assert (told[a].believed, told[a].found, told[a].counted) == ("ended", "held", False)


def test_a_correction_that_names_no_allocation_changes_nothing_about_what_was_held(
    ledger: Ledger,
) -> None:
    ledger.pool(n1={"cpu": 4000})
    _bound(ledger)
    ledger.clock.run(10)
    asked = _now(ledger)
    facts = {"ended_at": 1}
    with pytest.raises(InvalidInput, match="when an allocation ended"):
        ledger.do(Correct(command_id="c", corrects=3, reason="misread", by="op", facts=facts))
    ledger.do(Correct(command_id="c", corrects=3, reason="misread", by="op"))
    assert len(at(travel_of(ledger), asked).held()) == 1


def test_an_end_that_was_found_out_later_counts_from_when_it_was_and_what_was_known_is_kept(
    ledger: Ledger,
) -> None:
    ledger.pool(n1={"cpu": 4000})
    a = ledger.got(2000)
    granted = _now(ledger)
    ledger.clock.run(10)
    first_told, second_told = granted + 3 * SECOND, granted + 6 * SECOND
    ledger.release(a)
    believed = []
    for number, ended_at in enumerate((first_told, second_told)):
        ledger.clock.run(1)
        believed.append(_now(ledger))
        ledger.clock.run(1)
        ledger.do(
            Correct(
                command_id=f"c{number}",
                corrects=ledger.events()[-1].position,
                reason="found out",
                by="op",
                facts={"ended_at": ended_at, "ended_by": "crashed"},
                pool="box",
                allocation=a,
            )
        )
    ledger.clock.run(1)
    travel = travel_of(ledger)

    def held(seconds: int, known: int | None = None) -> bool:
        return a in [x.id for x in at(travel, granted + seconds * SECOND, known).held()]

    # The last correction counts: it ended after six seconds.
    assert [held(s) for s in (1, 4, 7, 9)] == [True, True, False, False]
    # Before it was made, three seconds were believed; before the first one, what was recorded.
    assert [held(s, believed[1]) for s in (1, 4, 7, 9)] == [True, False, False, False]
    assert [held(s, believed[0]) for s in (1, 4, 7, 9)] == [True, True, True, True]
    (told,) = at(travel, granted + 7 * SECOND, believed[0]).corrections
    assert (told.believed, told.found, told.ended_by, told.counted) == (
        "held", "ended", "crashed", False,
    )  # fmt: skip
    assert told.ended_at == second_told


# --- bad input -----------------------------------------------------------------------------------


def test_moments_before_the_beginning_and_in_the_future_say_where_the_ledger_begins_and_ends(
    ledger: Ledger,
) -> None:
    ledger.pool(n1={"cpu": 4000})
    travel = travel_of(ledger)
    head = travel.head()
    first = next(iter(ledger.writer.log.read())).recorded_at
    for kind, value, says in (
        ("time", first - 1, "begins at"),
        ("time", head.time + 1, "future"),
        ("time", -(10**30), "begins at"),
        ("time", 10**30, "future"),
        ("position", 0, "begins with position 1"),
        ("position", -5, "begins with position 1"),
        ("position", head.position + 1, "the head is"),
    ):
        with pytest.raises(InvalidInput) as error:
            travel.moment(kind, value)
        assert says in error.value.message
    assert travel.moment("time", first).position >= 1
    assert travel.moment("time", head.time) == head


def test_nobody_could_know_of_a_later_moment(ledger: Ledger) -> None:
    ledger.pool(n1={"cpu": 4000})
    ledger.clock.run(5)
    ledger.got()
    travel = travel_of(ledger)
    with pytest.raises(InvalidInput, match="nobody could know"):
        travel.state(travel.moment("position", 3), travel.moment("position", 2))
    with pytest.raises(InvalidInput, match="lies before"):
        difference(travel, *(travel.state(travel.moment("position", p)) for p in (3, 2)))


def test_an_empty_log_has_no_moments(tmp_path: Path) -> None:
    from ledger.memory_log import MemoryLog

    with pytest.raises(InvalidInput, match="nothing has happened"):
        Travel(Past(MemoryLog())).moment("time", 5)


# --- a past that begins in the middle ------------------------------------------------------------


class Excerpt:
    """The rows after a position, as a bundle holds them."""

    def __init__(self, rows: list[Row], after: int) -> None:
        self._rows = [row for row in rows if row.position > after]
        self._after = after

    def head(self) -> Any:
        from ledger.log import Head

        last = self._rows[-1]
        return Head(last.position, last.hash, last.recorded_at)

    def read(self, after: int = 0, upto: int | None = None) -> Any:
        last = 2**62 if upto is None else upto
        return iter([row for row in self._rows if after < row.position <= last])

    def rows_of_allocation(self, allocation: str) -> list[Row]:
        return [row for row in self._rows if row.allocation == allocation]


def test_a_bundle_that_begins_in_the_middle_answers_as_the_ledger_does(ledger: Ledger) -> None:
    ledger.pool(n1={"cpu": 4000})
    early = ledger.got(ttl=30)
    short = ledger.got(ttl=5, cpu=1000)
    for number in range(6):
        ledger.clock.run(2)
        ledger.got(100, holder=f"h{number}", ttl=3)
    whole = travel_of(ledger)
    rows = list(ledger.writer.log.read())
    start = 5
    past = Past(Excerpt(rows, start), begins_with=_scratch(rows, start))
    bundle = Travel(past)
    for position in range(start, len(rows) + 1):
        time = rows[position - 1].recorded_at
        ours = bundle.state(bundle.moment("position", position))
        theirs = whole.state(whole.moment("position", position))
        assert (ours.held(), ours.queue()) == (theirs.held(), theirs.queue())
        assert ours.when.time == time
        assert early in [a.id for a in ours.held()]
    with pytest.raises(InvalidInput, match="begins with position 5"):
        bundle.moment("position", start - 1)
    with pytest.raises(InvalidInput, match="begins at"):
        bundle.moment("time", rows[start - 1].recorded_at - 1)
    with pytest.raises(InvalidInput, match="future"):
        bundle.moment("time", rows[-1].recorded_at + 1)
    apart = difference(
        bundle, bundle.state(bundle.moment("position", 5)), bundle.state(bundle.head())
    )
    (gone,) = [gone for gone in apart.ended if gone.before.id == short]
    assert gone.end.ended_by == "expired"
    assert {a.id for a in apart.begun} <= {a.id for a in whole.state(whole.head()).held()}
    frames = list(Replay(bundle, bundle.moment("position", 6), bundle.head()).frames())
    assert [f.event.position for f in frames] == list(range(7, len(rows) + 1))


# --- observed pools ------------------------------------------------------------------------------

LONG_AGO = 1_600_000_000 * SECOND


def _fact(key: str, began: int | None, ended: int | None, **said: Any) -> Fact:
    at: dict[str, Any] = {"began_at": None if began is None else LONG_AGO + began * SECOND}
    at["ended_at"] = None if ended is None else LONG_AGO + ended * SECOND
    said = {"placements": (Placement("n1", {"cpu": 4000}, {}),), **said}
    return Fact(
        key=key, holder=said.pop("holder", "ann"), request=Request({"cpu": 4000}), **at, **said
    )


def _import(ledger: Ledger, *facts: Fact) -> None:
    ledger.clock.run(1)
    ledger.do(RecordFacts(command_id="", pool="far", facts=facts))


@pytest.fixture(params=["log", "tables"])
def imported(ledger: Ledger, request: pytest.FixtureRequest) -> Any:
    """A ledger with an observed pool, and how its past is asked."""
    ledger.pool(n1={"cpu": 4000})
    nodes = (NodeSpec("n1", {"cpu": 6000}),)
    ledger.do(OpenPool(command_id="far", pool="far", nodes=nodes, kind="observed"))
    log = ledger.writer.log

    def ask() -> Travel:
        views = ledger.path.with_name(ledger.path.name + ".views.db")
        history = History(log) if request.param == "log" else TabledHistory(log, views)
        return travel_of(ledger, history=history)

    return ledger, ask


def _held(travel: Travel, second: float, known: int | None = None) -> dict[str, str]:
    state = at(travel, LONG_AGO + int(second * SECOND), known)
    return {a.id: a.holder for a in state.held()}


def test_history_is_held_in_intervals_of_its_own_time(imported: Any) -> None:
    ledger, ask = imported
    _import(ledger, _fact("a", 10, 20), _fact("b", 15, None, holder="bob"))
    _import(ledger, _fact("c", 5, 12, holder="eve"))
    travel = ask()
    assert list(_held(travel, 11).values()) == ["ann", "eve"]
    assert list(_held(travel, 12).values()) == ["ann"]
    assert sorted(_held(travel, 16).values()) == ["ann", "bob"]
    assert list(_held(travel, 20).values()) == ["bob"]
    assert list(_held(travel, 10**6).values()) == ["bob"]
    # More than there was is shown as it was recorded.
    state = at(travel, LONG_AGO + 16 * SECOND)
    assert state.book.pools["far"].space.nodes["n1"].in_use == {"cpu": 8000}
    with pytest.raises(InvalidInput, match="begins at 2020-09-13T12:26:45"):
        travel.moment("time", LONG_AGO + 4 * SECOND)
    assert travel.moment("time", LONG_AGO + 5 * SECOND).position == 0


def test_history_that_nobody_placed_on_a_node_is_in_use_in_its_pool(imported: Any) -> None:
    ledger, ask = imported
    _import(ledger, _fact("a", 10, 20, placements=()), _fact("b", 15, 30, placements=()))
    travel = ask()
    for second, used in ((12, 4000), (16, 8000), (25, 4000), (30, 0)):
        space = at(travel, LONG_AGO + second * SECOND).book.pools["far"].space
        assert sum(node.in_use.get("cpu", 0) for node in space.nodes.values()) == used
    first, last = (travel.moment("time", LONG_AGO + second * SECOND) for second in (10, 40))
    frames = list(Replay(travel, first, last, pool="far", by_time=True).frames())
    assert [frame.pools[0].in_use.get("cpu", 0) for frame in frames][:3] == [8000, 4000, 0]


def test_history_that_was_asked_for_before_it_began_waits(imported: Any) -> None:
    ledger, ask = imported
    _import(ledger, _fact("a", 10, 20, requested_at=LONG_AGO + 2 * SECOND))
    _import(ledger, _fact("n", None, 8, requested_at=LONG_AGO + SECOND, ended_by="withdrawn"))
    travel = ask()
    queue = {
        second: len(at(travel, LONG_AGO + second * SECOND).queue()) for second in (1, 2, 7, 9, 10)
    }
    assert queue == {1: 1, 2: 2, 7: 2, 9: 1, 10: 0}
    state = at(travel, LONG_AGO + 3 * SECOND)
    assert len(state.book.pools["far"].space.waiting) == 2


def test_history_moves_without_ending(imported: Any) -> None:
    ledger, ask = imported
    there = (Placement("n9", {"cpu": 4000}, {}),)
    _import(ledger, _fact("a", 10, 30, moves=((LONG_AGO + 20 * SECOND, there),)))
    travel = ask()
    for second, node in ((15, "n1"), (20, "n9"), (29, "n9")):
        (a,) = at(travel, LONG_AGO + second * SECOND).held()
        assert [p.node for p in a.placements] == [node]
    # Nobody said how much that node has.
    pool = at(travel, LONG_AGO + 25 * SECOND).book.pools["far"]
    assert pool.space.nodes["n9"].in_use == {"cpu": 4000}
    assert unknown_capacity(pool) == {"cpu"}


def test_what_a_later_file_says_counts_now_and_not_as_known_before_it(imported: Any) -> None:
    ledger, ask = imported
    _import(ledger, _fact("a", 10, None))
    first = _now(ledger)
    _import(ledger, _fact("a", 10, 20))
    second = _now(ledger)
    _import(ledger, _fact("a", 10, 30), _fact("late", 12, 40, holder="eve"))
    travel = ask()
    seen = {known: list(_held(travel, 25, known).values()) for known in (first, second, None)}
    assert seen == {first: ["ann"], second: [], None: ["ann", "eve"]}
    told = at(travel, LONG_AGO + 35 * SECOND, first).corrections
    assert [(c.believed, c.found) for c in told] == [("held", "ended"), ("unknown", "held")]
    assert told[0].ended_at == LONG_AGO + 30 * SECOND
    (told_second, _) = at(travel, LONG_AGO + 25 * SECOND, second).corrections
    assert (told_second.believed, told_second.found) == ("ended", "held")


def test_nodes_of_an_observed_pool_have_the_capacity_of_the_time(imported: Any) -> None:
    ledger, ask = imported
    for second, cpu in ((100, 8000), (200, 2000)):
        ledger.do(
            RecordFacts(
                command_id="",
                pool="far",
                nodes=(NodeSpec("n2", {"cpu": cpu}),),
                nodes_at=LONG_AGO + second * SECOND,
            )
        )
    _import(ledger, _fact("a", 50, 300))
    travel = ask()
    for second, cpu in ((150, 8000), (250, 2000)):
        nodes = at(travel, LONG_AGO + second * SECOND).book.pools["far"].space.nodes
        assert nodes["n2"].capacity == {"cpu": cpu}
        assert nodes["n1"].capacity == {"cpu": 6000}


def test_managed_and_observed_pools_are_told_of_together(imported: Any) -> None:
    ledger, ask = imported
    began = (_now(ledger) - LONG_AGO) // SECOND
    a = ledger.got()
    _import(ledger, _fact("x", began, None))
    state = ask().state(ask().head())
    assert [each.pool for each in state.held()] == ["box", "far"]
    assert state.held()[0].id == a
    assert state.book.pools["box"].space.nodes["n1"].in_use["cpu"] == 1000


def test_a_replay_by_time_plays_history_when_it_happened(imported: Any) -> None:
    ledger, ask = imported
    _import(ledger, _fact("b", 15, 30, holder="bob"), _fact("a", 10, 20), _fact("z", 5, None))
    travel = ask()
    since, until = (travel.moment("time", LONG_AGO + s * SECOND) for s in (9, 29))
    frames = list(Replay(travel, since, until).frames())
    assert [(f.event.type, f.at - LONG_AGO, f.event.holder) for f in frames] == [
        ("allocated", 10 * SECOND, "ann"),
        ("allocated", 15 * SECOND, "bob"),
        ("released", 20 * SECOND, "ann"),
    ]
    cpu = [next(p for p in f.pools if p.name == "far").in_use["cpu"] for f in frames]
    assert cpu == [8000, 12000, 8000]
    assert [next(p for p in f.pools if p.name == "far").held for f in frames] == [2, 3, 2]


def test_without_observed_pools_neither_the_tables_nor_the_log_are_looked_through(
    ledger: Ledger,
) -> None:
    class Refusing(History):
        def ids(self, *asked: Any) -> list[str]:
            raise AssertionError("nothing is observed here")

        earliest = sizes = ids  # type: ignore[assignment]

    ledger.pool(n1={"cpu": 4000})
    ledger.got()
    travel = travel_of(ledger, history=Refusing(ledger.writer.log))
    assert len(travel.state(travel.head()).held()) == 1
    with pytest.raises(InvalidInput):
        travel.moment("time", 5)


def test_tables_that_are_broken_cost_time_and_no_answer(ledger: Ledger) -> None:
    ledger.do(OpenPool(command_id="far", pool="far", nodes=(), kind="observed"))
    _import(ledger, _fact("a", 10, 20))
    for what in ("none", "garbage", "a folder"):
        views = ledger.path.with_name(f"{what}.views.db")
        if what == "garbage":
            views.write_bytes(b"no database" * 500)
        elif what == "a folder":
            views.mkdir()
        travel = travel_of(ledger, history=TabledHistory(ledger.writer.log, views))
        assert list(_held(travel, 15).values()) == ["ann"]


# --- snapshots for time travel -------------------------------------------------------------------


def _positions(ledger: Ledger) -> list[int]:
    views = ledger.path.with_name(ledger.path.name + ".views.db")
    with contextlib.closing(sqlite3.connect(str(views))) as connection:
        return [p for (p,) in connection.execute("SELECT position FROM snapshots ORDER BY 1")]


def test_snapshots_are_spread_evenly_over_a_long_log(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "CHECKPOINT_EVERY", 10)
    monkeypatch.setattr(snapshots_module, "KEPT", 12)
    ledger.pool(n1={"cpu": 10**9})
    for _ in range(600):
        ledger.got(1)
    kept = _positions(ledger)
    gaps = [b - a for a, b in zip([0, *kept], kept, strict=False)]
    assert len(kept) == 12
    assert kept[-6:] == sorted(kept)[-6:] and max(gaps[-5:]) <= 12
    assert max(gaps) <= 4 * kept[-6] / 6


def test_a_fold_from_afar_leaves_snapshots_that_the_next_one_goes_on_from(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "CHECKPOINT_EVERY", 10)
    monkeypatch.setattr(past_module, "FAR", 40)
    ledger.pool(n1={"cpu": 10**9})
    for _ in range(150):
        ledger.got(1)
    views = ledger.path.with_name(ledger.path.name + ".views.db")
    ledger.close()
    views.unlink()
    ledger.reopen()
    past = Past(ledger.writer.log, Snapshots(ledger.path))
    first = past.book_at(140)
    kept = _positions(ledger)
    assert kept and max(kept) > 80
    # A changed or moved one would not be believed; these are.
    assert Snapshots(ledger.path).newest(past._known, 140, proof=past._digest_after) is not None
    assert book_digest(past.book_at(140)) == book_digest(first)


def test_large_books_are_kept_packed_and_old_unpacked_ones_are_still_read(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "CHECKPOINT_EVERY", 40)
    ledger.pool(n1={"cpu": 10**9})
    for _ in range(50):
        ledger.got(1)
    monkeypatch.setattr(snapshots_module, "PACKED_FROM_BYTES", 1)
    for _ in range(100):
        ledger.got(1)
    views = ledger.path.with_name(ledger.path.name + ".views.db")
    with contextlib.closing(sqlite3.connect(str(views), isolation_level=None)) as connection:
        books = dict(connection.execute("SELECT position, book FROM snapshots"))
        assert {data[:1] for data in books.values()} == {b"{", b"\x78"}
        past = Past(ledger.writer.log, Snapshots(ledger.path))
        for position in books:
            found = Snapshots(ledger.path).newest(past._known, position, proof=past._digest_after)
            assert found is not None and found.position == position
        newest = max(books)
        for garbled in (books[newest][:-9], b"", b"\x78\x9c", b"x" * 99, books[newest] + b"more"):
            connection.execute(
                "UPDATE snapshots SET book = ? WHERE position = ?", (garbled, newest)
            )
            found = Snapshots(ledger.path).newest(past._known, newest, proof=past._digest_after)
            assert found is not None
            assert found.position < newest or garbled.startswith(books[newest])


def test_in_a_bundle_what_draws_on_another_ends_with_it_too(ledger: Ledger) -> None:
    ledger.pool(n1={"cpu": 4000})
    parent = ledger.got(cpu=2000, ttl=10)
    start = ledger.writer.log.head().position
    ledger.clock.run(1)
    ledger.got(cpu=1000, parent=parent, ttl=900)
    ledger.clock.run(5)
    rows = list(ledger.writer.log.read())
    past = Past(Excerpt(rows, start), begins_with=_scratch(rows, start))
    bundle = Travel(past, now=rows[-1].recorded_at + 60 * SECOND)
    assert len(bundle.state(bundle.moment("time", rows[-1].recorded_at)).held()) == 2
    assert bundle.state(bundle.head()).held() == []


def test_what_never_ended_is_shown_until_it_was_last_seen_and_never_as_expiring(
    imported: Any,
) -> None:
    ledger, ask = imported

    def seen(second: int) -> Fact:
        return _fact("z", 5, None, seen_until=LONG_AGO + second * SECOND)

    _import(ledger, seen(20), _fact("a", 5, 90))
    _import(ledger, seen(60))
    shown = state_out(at(ask(), LONG_AGO + 10 * SECOND), "far")["allocations"]
    assert [(a["expires_at"], a["seen_until"]) for a in shown] == [
        (None, rfc3339(LONG_AGO + 60 * SECOND)),
        (None, rfc3339(LONG_AGO + 90 * SECOND)),
    ]
