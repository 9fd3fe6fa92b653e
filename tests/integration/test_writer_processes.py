"""Several processes on one ledger: nothing granted twice, nothing lost, everybody served; and writers
that are killed at any moment."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest

from ledger import commands as c
from ledger.book import Book
from ledger.codec import from_row
from ledger.evolve import evolve
from ledger.requests import NodeSpec
from ledger.snapshots import Snapshots
from ledger.sqlite_log import SqliteLog
from ledger.writer import Writer, begin
from tests.ledgers import (
    allocate,
    check_accounts,
    check_whole,
    end,
    line_of,
    python,
    release,
    say_to,
    together,
)

KILLS = 28


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with a pool ``box`` of two nodes."""
    path = tmp_path / "ledger.db"
    with writer_of(path) as writer:
        begin(writer.log, "test-ledger", writer)
        nodes = (NodeSpec("n1", {"cpu": 3000}), NodeSpec("n2", {"cpu": 2000}))
        writer.execute(c.OpenPool(command_id="open", pool="box", nodes=nodes))
    return path


@contextmanager
def writer_of(path: Path) -> Iterator[Writer]:
    writer = Writer(SqliteLog.open(path, create=True), snapshots=Snapshots(path))
    try:
        yield writer
    finally:
        writer.close()


# --- hammering ---------------------------------------------------------------------------------------

_HAMMER = """
import random, sys, time
from ledger.sqlite_log import SqliteLog
from ledger.snapshots import Snapshots
from ledger.writer import Writer
from tests.ledgers import allocate, release
path, name, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
from pathlib import Path
writer = Writer(SqliteLog.open(path), snapshots=Snapshots(Path(path)))
writer.read(lambda book, now: None)
chance = random.Random(name)
print("ready", flush=True)
sys.stdin.readline()
end = time.monotonic() + seconds
commits = granted = number = 0
held = []
while time.monotonic() < end:
    number += 1
    receipt = writer.execute(
        allocate(f"{name}-{number}", chance.choice([500, 1000, 1500]), holder=name,
                 wait=None if chance.random() < 0.7 else 0.05)
    )
    commits += 1
    if receipt.outcome == "granted":
        granted += 1
        held.append(receipt.allocation.id)
    while len(held) > 1 or (held and receipt.outcome == "refused"):
        freed = writer.execute(release(f"{name}-r-{number}-{len(held)}", held.pop(), name))
        assert freed.outcome == "released", freed
        commits += 1
for allocation in held:
    writer.execute(release(f"{name}-end-{allocation}", allocation, name))
print(commits, granted, flush=True)
writer.close()
"""


def test_eight_processes_on_one_ledger_grant_nothing_twice_lose_nothing_and_starve_nobody(
    path: Path,
) -> None:
    processes = [python(_HAMMER, path, f"p{n}", 2.5) for n in range(8)]
    for process in processes:
        assert line_of(process) == "ready"
    for process in processes:
        say_to(process)
    said = [[int(word) for word in line_of(process).split()] for process in processes]
    assert [end(process) for process in processes] == [0] * 8
    commits, grants = [each[0] for each in said], [each[1] for each in said]
    # The slowest gets its share: a third of the mean is asked of an idle machine; a quarter of that
    # is what only starvation falls below.
    assert min(commits) >= sum(commits) / len(commits) / 12, commits
    with writer_of(path) as writer:
        events = [from_row(row) for row in writer.log.read()]
        assert [event.position for event in events] == list(range(1, len(events) + 1))
        # At every position the accounts balance, and no node is over its capacity.
        book = Book()
        for event in events:
            evolve(book, event)
            if event.position % 10 == 0:
                check_accounts(book)
        check_whole(writer)
        at_once = Counter(
            event.holder
            for event in events
            if event.type == "allocated" and event.cause is not None
        )
        # Every grant that a process was told of is on record as its own, and no other is.
        assert [at_once[f"p{n}"] for n in range(8)] == grants
        instants = [event.recorded_at for event in events]
        assert instants == sorted(instants)


_SAME = """
import sys
from ledger.sqlite_log import SqliteLog
from ledger.writer import Writer
from tests.ledgers import allocate
writer = Writer(SqliteLog.open(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    receipt = writer.execute(allocate(f"same-{number}", 10, holder="all"))
    print(receipt.outcome, receipt.positions[0], receipt.replayed, flush=True)
writer.close()
"""


def test_the_same_commands_from_several_processes_have_one_effect_each(path: Path) -> None:
    processes = [python(_SAME, path) for _ in range(4)]
    for process in processes:
        assert line_of(process) == "ready"
    for process in processes:
        say_to(process)
    answers = [[line_of(process).split() for _ in range(40)] for process in processes]
    assert [end(process) for process in processes] == [0] * 4
    for number in range(40):
        of_all = [each[number] for each in answers]
        assert {(outcome, position) for outcome, position, _ in of_all} == {
            ("granted", of_all[0][1])
        }
        assert [replayed for _, _, replayed in of_all].count("False") == 1
    with writer_of(path) as writer:
        assert [row.type for row in writer.log.read()].count("allocated") == 40
        check_whole(writer)


_CREATE = """
import sys
from leasebook.manager import Ledger
sys.stdin.readline()
ledger = Ledger.open(sys.argv[1])
print(ledger.writer.read(lambda book, now: book.ledger_id), flush=True)
sys.stdin.readline()
ledger.close()
"""


@pytest.mark.parametrize("attempt", range(3))
def test_processes_that_create_one_ledger_at_once_agree_on_which_it_is(
    tmp_path: Path, attempt: int
) -> None:
    path = tmp_path / "new" / "ledger.db"
    processes = [python(_CREATE, path) for _ in range(4)]
    # Imports take their time; the word goes to all at once.
    time.sleep(0.3)
    for process in processes:
        say_to(process)
    names = [line_of(process) for process in processes]
    for process in processes:
        say_to(process)
    assert [end(process) for process in processes] == [0] * 4
    assert len(set(names)) == 1
    assert names[0]
    with writer_of(path) as writer:
        assert [row.type for row in writer.log.read()] == ["ledger_opened"]
        check_whole(writer)


# --- kill -9 -----------------------------------------------------------------------------------------

# Writes what it is told before it asks for more: an id that stands on the pipe was acknowledged.
_VICTIM = """
import os, random, sys
from pathlib import Path
from ledger import writer as writer_module
from ledger.snapshots import Snapshots
from ledger.sqlite_log import SqliteLog
from ledger.writer import Writer
from tests.ledgers import allocate, release, together
path, run = sys.argv[1], sys.argv[2]
writer_module.CHECKPOINT_EVERY = 25
writer = Writer(SqliteLog.open(path), snapshots=Snapshots(Path(path)))
chance = random.Random(run)
def said(kind, id_, receipt):
    os.write(1, f"{kind} {id_} {receipt.outcome} {receipt.positions[0]}\\n".encode())
held = []
number = 0
os.write(1, b"ready - - 0\\n")
while True:
    number += 1
    ids = [f"{run}-{number}-{n}" for n in range(chance.choice([1, 1, 1, 4]))]
    commands = [allocate(i, 10, holder=run, ttl=3600, metadata={"x": "y" * chance.choice([0, 3000])})
                for i in ids]
    if len(commands) == 1:
        receipts = [writer.execute(commands[0])]
    else:
        receipts = together(writer, *commands)
    for id_, receipt in zip(ids, receipts):
        said("allocate", id_, receipt)
        if receipt.outcome == "granted":
            held.append(receipt.allocation.id)
    while len(held) > 3:
        allocation = held.pop(0)
        said("release", allocation, writer.execute(release(f"{run}-r-{allocation}", allocation, run)))
"""


def acknowledged(process: Popen[str]) -> list[list[str]]:
    """All whole lines that a killed process had written."""
    assert process.stdout is not None
    rest = process.stdout.read().splitlines(keepends=True)
    return [line.split() for line in rest if line.endswith("\n")]


def test_a_writer_killed_at_any_moment_leaves_a_ledger_that_opens_proves_itself_and_holds_all(
    path: Path,
) -> None:
    chance = random.Random(11)
    told: list[list[str]] = []
    killed = 0
    run = 0
    while killed < KILLS:
        # Four at a time, so that one is often killed while another waits at the gate.
        victims = []
        for _ in range(4):
            run += 1
            victims.append(python(_VICTIM, path, f"run{run}"))
        for victim in victims:
            assert line_of(victim).startswith("ready")
        for victim in victims:
            time.sleep(chance.uniform(0, 0.04))
            victim.kill()
            told += acknowledged(victim)
            end(victim)
            killed += 1
        with writer_of(path) as writer:
            book = check_whole(writer)
            assert isinstance(writer.log, SqliteLog)
            assert writer.log.quick_check() == []
            check_acknowledged(writer, told)
            # The next command works, and its holder is nobody's leftover.
            receipt = writer.execute(allocate(f"after-{killed}", 1, holder="me", ttl=3_600))
            assert receipt.outcome in ("granted", "refused")
            together(
                writer,
                *(
                    release(f"tidy-{one.id}", one.id, one.holder)
                    for one in book.allocations.values()
                    if one.holder != "me"
                ),
            )
    assert len(told) > 2 * KILLS
    assert {kind for kind, *_ in told} == {"allocate", "release"}


def check_acknowledged(writer: Writer, told: list[list[str]]) -> None:
    """Everything that a process was told stands in the log as it was told."""
    rows = {row.position: row for row in writer.log.read()}
    for kind, what, outcome, position in told:
        row = rows[int(position)]
        if kind == "allocate" and outcome == "granted":
            assert (row.type, row.command_id) == ("allocated", what)
        elif kind == "release":
            assert (row.type, row.allocation) == ("released", what)
        else:
            assert (kind, outcome, row.type) == ("allocate", "refused", "refused")


def test_what_was_acknowledged_before_a_kill_is_replayed_after_it(path: Path) -> None:
    victim = python(_VICTIM, path, "run")
    line_of(victim)
    first = line_of(victim).split()
    victim.kill()
    end(victim)
    assert first[0] == "allocate"
    with writer_of(path) as writer:
        rows = [row for row in writer.log.read() if row.command_id == first[1]]
        original = from_row(rows[0])
        again = writer.execute(
            allocate(first[1], 10, holder="run", ttl=3600, metadata=original.metadata)
        )
        assert (again.outcome, again.replayed) == ("granted", True)
        assert again.positions == (int(first[3]),)


def test_a_killed_process_leaves_the_gate_open_for_the_next(path: Path) -> None:
    holder = python(
        "import sys\n"
        "from ledger.sqlite_log import SqliteLog\n"
        "from tests.rows import plain_rows\n"
        "log = SqliteLog.open(sys.argv[1])\n"
        "with log.transaction() as transaction:\n"
        "    transaction.append(plain_rows(50, transaction.head()))\n"
        "    print('inside', flush=True)\n"
        "    sys.stdin.readline()\n",
        path,
    )
    assert line_of(holder) == "inside"
    waiting = python(_SAME.replace("range(40)", "range(1)"), path)
    assert line_of(waiting) == "ready"
    say_to(waiting)
    end(holder, kill=True)
    assert line_of(waiting).split() == ["granted", "3", "False"]
    assert end(waiting) == 0
    with writer_of(path) as writer:
        check_whole(writer)


def test_two_managers_in_one_process_and_one_in_another_lose_nothing(path: Path) -> None:
    with writer_of(path) as one, writer_of(path) as two:
        for number in range(5):
            one.execute(allocate(f"one-{number}", 10))
            # Opening and closing the file again must not let go of what the others rely on.
            with writer_of(path) as brief:
                brief.execute(allocate(f"brief-{number}", 10))
            other = python(_SAME.replace("range(40)", f"range({number}, {number + 1})"), path)
            assert line_of(other) == "ready"
            say_to(other)
            assert line_of(other).startswith("granted")
            assert end(other) == 0
            two.execute(allocate(f"two-{number}", 10))
        assert check_whole(one).position == check_whole(two).position == 22
    with writer_of(path) as writer:
        assert check_whole(writer).position == 22
