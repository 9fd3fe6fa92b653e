"""OpenStack notifications in any order and in any files come to what a simple account of them says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from leasebook.importers.base import Options
from leasebook.importers.rejects import Rejects
from leasebook.importers.runner import Reading, Runner
from ledger.clock import Reading as ClockReading
from ledger.memory_log import MemoryLog
from ledger.writer import Writer, begin
from projections.engine import Engine
from projections.past import Past
from projections.travel import Travel

S = 1_000_000_000
DAY = 1_522_540_800
"""2018-04-01T00:00:00Z, in seconds."""
HOSTS = ("h0", "h1", "h2")
Note = tuple[str, int, str, str]
"""An instance, a minute of the day, what happened (``create``, ``see``, ``move``, ``shift`` or
``delete``), and the host. A ``shift`` is a move of an instance that is not active."""


# --- records -------------------------------------------------------------------------------------

_KINDS = {
    "create": ("create.end", "active"),
    "see": ("exists", "active"),
    "move": ("live_migration._post.end", "active"),
    "shift": ("live_migration._post.end", "stopped"),
    "delete": ("delete.end", "deleted"),
}


def record(note: Note) -> dict[str, str]:
    name, minute, what, host = note
    kind, state = _KINDS[what]
    return {
        "event_type": f"compute.instance.{kind}",
        "generated": f"2018-04-01 {minute // 60:02}:{minute % 60:02}:00",
        "instance_id": name,
        "vcpus": "2",
        "memory_mb": "512",
        "host": host,
        "state": state,
        "project_name": "p",
        "user_name": f"user of {name}",
    }


@st.composite
def notes_of(draw: Any, name: str) -> list[Note]:
    """What is told of one instance: each at a minute of its own, nothing before it was created."""
    minutes = sorted(draw(st.lists(st.integers(1, 40), min_size=1, max_size=8, unique=True)))
    middle = st.sampled_from(("see", "see", "move", "shift"))
    whats = [draw(middle) for _ in minutes]
    if draw(st.booleans()):
        whats[0] = "create"
    # It may be told twice that it was deleted.
    gone = draw(st.integers(0, min(2, len(minutes))))
    whats[len(whats) - gone :] = ["delete"] * gone
    return [
        (name, minute, what, draw(st.sampled_from(HOSTS)))
        for minute, what in zip(minutes, whats, strict=True)
    ]


@st.composite
def files(draw: Any) -> list[list[Note]]:
    """All notes of one or two instances, shuffled, in one file or several, some of them twice."""
    notes = draw(notes_of("i1")) + (draw(notes_of("i2")) if draw(st.booleans()) else [])
    notes += draw(st.lists(st.sampled_from(notes), max_size=3))
    notes = list(draw(st.permutations(notes)))
    cuts = sorted(draw(st.sets(st.integers(1, len(notes)), max_size=5)))
    edges = [0, *cuts, len(notes)]
    return [notes[a:b] for a, b in pairwise(edges) if a < b]


# --- the account ---------------------------------------------------------------------------------


def account(notes: list[Note]) -> dict[str, Any]:
    """What notes of one instance say: (since, until, host) of its stays, and more; minutes."""
    notes = sorted(set(notes), key=lambda note: note[1])
    created = next((note for note in notes if note[2] == "create"), None)
    first = created or notes[0]
    seen = [note for note in notes if note[2] not in ("shift", "create")]
    host = created[3] if created else (seen[0][3] if seen else notes[0][3])
    end = min((note[1] for note in notes if note[2] == "delete"), default=None)
    stays: list[list[Any]] = [[first[1], None, host]]
    for _, minute, what, there in notes:
        if what not in ("move", "shift") or (end is not None and minute >= end):
            continue
        if minute == stays[-1][0]:
            stays[-1][2] = there
        elif there != stays[-1][2]:
            stays[-1][1] = minute
            stays.append([minute, None, there])
    stays[-1][1] = end
    sights = [note[1] for note in notes if note[2] in ("create", "see", "move")]
    return {
        "stays": [tuple(stay) for stay in stays],
        "since_before": created is None,
        "end": end,
        "seen": max(sights, default=None),
        "last_delete": max((note[1] for note in notes if note[2] == "delete"), default=0),
        "times": (
            first[1],
            max(note[1] for note in notes if note[2] != "delete" or note[1] == end),
        ),
    }


# --- the ledger ----------------------------------------------------------------------------------


class Ledger:
    """An imported ledger, and what can be asked of it; times come out as minutes of the day."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = MemoryLog()
        self.now = (DAY + 90_000) * S
        self.writer = Writer(self.log, clock=lambda: ClockReading(self.now, S, S, "boot"))
        begin(self.log, "test", self.writer)
        self.engine = Engine(self.log, folder / "views.db")

    def take(self, notes: list[Note]) -> int:
        """How many events importing them as one file came to."""
        path = self.folder / "notes.json"
        path.write_text(json.dumps([record(note) for note in notes]))
        with (
            Reading("openstack", str(path), Options()) as reading,
            Rejects(self.folder / "rejects.csv") as rejects,
        ):
            return Runner(self.writer, reading, rejects).run().events

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        self.engine.catch_up()
        with closing(self.engine.connect()) as views:
            found: list[tuple[Any, ...]] = views.execute(sql).fetchall()
        return found

    def close(self) -> None:
        self.engine.close()
        self.writer.close()


@contextmanager
def ledger() -> Iterator[Ledger]:
    with TemporaryDirectory() as folder, closing(Ledger(Path(folder))) as made:
        yield made


def minute(at: int | None) -> int | None:
    return None if at is None else (at // S - DAY) // 60


def check_tables(made: Ledger, accounts: dict[str, Any]) -> None:
    lives = {
        holder: (state, minute(granted), minute(ended), bool(before), minute(seen))
        for holder, state, granted, ended, before, seen in made.rows(
            "SELECT holder, state, granted_at, ended_at, since_before, expires_at FROM allocations"
        )
    }
    spans: dict[str, list[Any]] = {}
    for holder, node, since, until in made.rows(
        "SELECT holder, node, since_at, until_at FROM spans WHERE resource = 'cpu' ORDER BY seq"
    ):
        spans.setdefault(holder, []).append((minute(since), minute(until), node))
    heard = {
        holder: (minute(first), minute(last))
        for holder, first, last in made.rows("SELECT holder, first_at, last_at FROM holders")
    }
    for name, told in accounts.items():
        holder = f"user of {name}"
        end, stays = told["end"], told["stays"]
        state = "active" if end is None else "ended"
        assert lives[holder] == (state, stays[0][0], end, told["since_before"], told["seen"])
        assert spans[holder] == stays
        first, last = told["times"]
        assert heard[holder][0] == first
        # An end that turned out to be a later notice of the same one was heard of nevertheless.
        assert last <= (heard[holder][1] or 0) <= max(last, told["last_delete"])
    steps: dict[tuple[str, int | None], int] = {}
    for node, at, granted in made.rows("SELECT node, at, granted FROM steps WHERE resource='cpu'"):
        steps[node, minute(at)] = steps.get((node, minute(at)), 0) + granted
    wanted: dict[tuple[str, int], int] = {}
    for told in accounts.values():
        for since, until, node in told["stays"]:
            wanted[node, since] = wanted.get((node, since), 0) + 2000
            if until is not None:
                wanted[node, until] = wanted.get((node, until), 0) - 2000
    assert {k: v for k, v in steps.items() if v} == {k: v for k, v in wanted.items() if v}


def check_moments(made: Ledger, accounts: dict[str, Any]) -> None:
    travel = Travel(Past(made.log), now=made.now)
    first = min(told["stays"][0][0] for told in accounts.values())
    for when in range(first, 43, 3):
        state = travel.state(travel.moment("time", (DAY + when * 60) * S))
        found = sorted((a.holder, a.placements[0].node) for a in state.held())
        assert found == sorted(
            (f"user of {name}", node)
            for name, told in accounts.items()
            for since, until, node in told["stays"]
            if since <= when and (until is None or until > when)
        )


# --- the rule ------------------------------------------------------------------------------------

MOVED, SEEN, GONE = ("i1", 16, "move", "h0"), ("i1", 1, "see", "h1"), ("i1", 30, "delete", "h0")


@example([[MOVED], [SEEN], [GONE]])
@example([[GONE], [MOVED], [SEEN]])
@example([[("i1", 9, "shift", "h0")], [("i1", 20, "see", "h1")], [("i1", 3, "shift", "h2")]])
@example([[("i1", 3, "see", "h0"), ("i1", 9, "move", "h0")], [("i1", 6, "move", "h2")]])
@settings(max_examples=80, deadline=None)
@given(files())
def test_what_is_known_depends_on_the_notifications_and_not_on_how_they_came(
    said: list[list[Note]],
) -> None:
    notes = [note for file in said for note in file]
    accounts = {
        name: account([note for note in notes if note[0] == name])
        for name in sorted({note[0] for note in notes})
    }
    with ledger() as made:
        for file in said:
            made.take(file)
        check_tables(made, accounts)
        check_moments(made, accounts)
        assert made.take(notes) == 0
        for file in reversed(said):
            assert made.take(file) == 0
