"""The projections of what happened elsewhere: late, out of order, corrected, and never twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ledger.codec import from_row
from ledger.commands import Fact, OpenLedger, OpenPool, RecordFacts
from ledger.events import UsageRecorded
from ledger.memory_log import MemoryLog
from ledger.requests import NodeSpec, Placement, Request
from ledger.rules.history import Life
from ledger.writer import Writer
from projections.engine import Engine
from tests.integration.test_projections import assert_consistent, contents, table

SECOND = 1_000_000_000
NODES = ("n1", "n2", "n3")


def _placed(random: Random) -> tuple[Placement, ...]:
    nodes = random.sample(NODES, random.choice((0, 1, 1, 1, 2)))
    return tuple(Placement(node, {"cpu": random.randrange(1, 4)}, {}) for node in nodes)


def _fact(random: Random) -> Fact:
    """Any record of one of a few allocations: it may say a part, and contradict another."""

    def maybe(low: int, high: int) -> int | None:
        return random.randrange(low, high) * SECOND if random.random() < 0.6 else None

    key = f"job:{random.randrange(6)}"
    asked = random.randrange(10, 20) * SECOND
    if random.random() < 0.25:
        # A record from when it waited.
        ended = random.choice((None, None, asked + SECOND))
        request = Request({"cpu": random.choice((1, 2))})
        return Fact(
            key=key,
            holder="unknown",
            request=request,
            requested_at=asked,
            ended_at=ended,
            ended_by="withdrawn",
        )
    began = maybe(20, 30)
    moves = tuple(
        (random.randrange(25, 45) * SECOND, _placed(random) or (Placement("n1", {"cpu": 1}, {}),))
        for _ in range(random.choice((0, 0, 0, 1, 2)))
    )
    ended = maybe(35, 50)
    usage = None
    if random.random() < 0.2:
        usage = UsageRecorded(30 * SECOND, 34 * SECOND, {"cpu": 7}, {"cpu": 3}, samples=1)
    return Fact(
        key=key,
        holder=random.choice(("unknown", "ann", "bob")),
        task=random.choice((None, "t1")),
        request=Request({"cpu": random.choice((1, 2))}),
        placements=_placed(random),
        requested_at=random.choice((None, asked)),
        began_at=began,
        ended_at=ended,
        ended_by=random.choice(("released", "expired", "crashed", "withdrawn")),
        seen_from=22 * SECOND if began is None else maybe(22, 30),
        seen_until=maybe(30, 60),
        moves=tuple(dict(moves).items()),
        usage=usage,
    )


def import_some(log: MemoryLog, seed: int, count: int = 25) -> None:
    """Random facts, imported one command after another."""
    random = Random(seed)
    writer = Writer(log)
    writer.execute(OpenLedger(command_id="open", ledger_id="L"))
    nodes = (NodeSpec("n1", {"cpu": 2}),)
    writer.execute(OpenPool(command_id="pool", pool="far", nodes=nodes, kind="observed"))
    for number in range(count):
        facts = tuple(
            {f.key: f for f in (_fact(random) for _ in range(random.choice((1, 1, 3))))}.values()
        )
        try:
            writer.execute(RecordFacts(command_id=f"i{number}", pool="far", facts=facts))
        except Exception as error:
            assert type(error).__name__ == "InvalidInput", error


def lives_of(log: MemoryLog) -> dict[str, Life]:
    """What the log says of each observed allocation, as the rules of imports see it."""
    events: dict[str, list[Any]] = {}
    for row in log.read():
        if row.allocation is not None:
            events.setdefault(row.allocation, []).append(from_row(row))
    return {id_: Life(each) for id_, each in events.items()}


def _held_at(life: Life, at: int) -> Counter[str]:
    """How many cores it held on which node, by its own timeline."""
    found: Counter[str] = Counter()
    if life.granted_at is None or at < life.granted_at:
        return found
    if life.ended_at is not None and at >= life.ended_at:
        return found
    placed: tuple[Any, ...] = ()
    for since, frozen in life.timeline():
        if since <= at:
            placed = frozen
    for node, amounts, _ in placed:
        found[node] += dict(amounts)["cpu"]
    return found


def assert_as_told(engine: Engine, log: MemoryLog) -> None:
    lives = lives_of(log)
    rows = {
        row[0]: row[1:]
        for row in table(
            engine,
            "SELECT id, state, holder, task, requested_at, granted_at, ended_at, ended_by,"
            " since_before FROM allocations",
        )
    }
    assert rows.keys() == lives.keys()
    for id_, life in lives.items():
        state = {"open": "active"}.get(life.state, life.state)
        assert rows[id_] == (
            state,
            life.holder,
            life.task,
            life.requested_at,
            life.granted_at,
            life.ended_at,
            life.ended_by,
            int(life.is_since_before),
        ), id_
        spans = table(
            engine,
            f"SELECT node, amount, since_at, until_at FROM spans WHERE allocation = '{id_}'",
        )
        for second in range(15, 70):
            at = second * SECOND + 1
            held: Counter[str] = Counter()
            for node, amount, since, until in spans:
                if node and since <= at and (until is None or until > at):
                    held[node] += amount
            assert held == _held_at(life, at), (id_, second)


def _series_is_the_sum_of_the_spans(engine: Engine) -> None:
    spans = table(engine, "SELECT node, amount, since_at, until_at FROM spans")
    steps = table(engine, "SELECT node, at, granted FROM steps")
    for second in range(15, 70):
        at = second * SECOND + 1
        held: Counter[str] = Counter()
        for node, amount, since, until in spans:
            if since <= at and (until is None or until > at):
                held[node] += amount
        stepped: Counter[str] = Counter()
        for node, when, granted in steps:
            if when <= at:
                stepped[node] += granted
        assert +held == +stepped
        assert not -stepped


def compare(folder: Path, seed: int) -> Counter[str]:
    """One random import: tables and what was told agree, in whatever pieces."""
    log = MemoryLog()
    import_some(log, seed)
    random = Random(seed)
    with (
        Engine(log, folder / f"{seed}.a.views.db") as whole,
        Engine(log, folder / f"{seed}.b.views.db") as pieces,
    ):
        progress = whole.catch_up()
        assert progress.failed == (), whole.status()
        assert_as_told(whole, log)
        assert_consistent(whole)
        _series_is_the_sum_of_the_spans(whole)
        position = 0
        while position < progress.head:
            position += random.choice((1, 3, 10))
            pieces.catch_up(position)
            if random.random() < 0.3:
                pieces.close()
        assert contents(pieces) == contents(whole)
    return Counter(row.type for row in log.read())


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(seed=st.integers(0, 2**32))
def test_any_import_comes_to_what_was_told(tmp_path_factory: Any, seed: int) -> None:
    compare(tmp_path_factory.mktemp("import"), seed)


def test_random_imports_meet_every_kind_of_correction(tmp_path: Path) -> None:
    kinds = Counter[str]()
    for seed in range(4):
        kinds += compare(tmp_path, seed)
    wanted = {"allocated", "queued", "adjusted", "renewed", "corrected", "usage_recorded"}
    assert wanted | {"released", "expired", "reclaimed"} <= kinds.keys()
