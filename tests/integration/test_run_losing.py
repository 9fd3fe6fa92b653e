"""Runs that are killed, signalled, made to wait, or lose what they hold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.sweeps import crash
from tests.integration.processes_children import eventually
from tests.integration.run_commands import (
    SMALL,
    Ran,
    events_of,
    gone,
    look,
    python,
    ran,
    start,
    types_in,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

FAMILY = """
import os, signal, time
child = os.fork()
if child == 0:
    child_again = os.fork()
    if child_again == 0:
        os.setsid()
    while True: time.sleep(60)
print(os.getpid(), child, flush=True)
while True: time.sleep(60)
"""


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[str]]]:
    """Runs that are ended after the test whatever happened."""
    runs: list[subprocess.Popen[str]] = []
    yield runs
    for process in runs:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def pids(process: subprocess.Popen[str]) -> list[int]:
    return [int(word) for word in line(process).split()]


# --- killed --------------------------------------------------------------------------------------


def test_killing_a_run_ends_its_command_and_all_that_it_started(
    book: Path, running: list[subprocess.Popen[str]]
) -> None:
    process = start(book, *python(FAMILY), amounts=SMALL, holder="victim")
    running.append(process)
    family = pids(process)
    process.kill()
    process.wait()
    for pid in family:
        assert eventually(gone(pid)), "nothing runs on unrecorded"
    with look(book) as manager:
        report = crash(manager.ledger.writer)
    assert report.acted == 1
    [taken] = events_of(book, "reclaimed")
    assert taken.body.cause == "crashed"
    assert taken.body.evidence["pid"] == process.pid
    assert taken.holder == "victim"


def test_a_waiting_run_that_is_killed_makes_way(
    book: Path, running: list[subprocess.Popen[str]]
) -> None:
    with look(book) as manager:
        manager.open_pool("local", capacity={"cpu": 1})
        manager.allocate({"cpu": 1}, pool="local", holder="first")
        process = start(book, "true", amounts={"cpu": 1})
        running.append(process)
        assert eventually(lambda: bool(manager.list(state="waiting")))
        process.kill()
        process.wait()
        crash(manager.ledger.writer)
        assert not manager.list(state="waiting")


# --- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_that_ends_the_run_ends_the_command_and_is_recorded(
    book: Path, number: int, running: list[subprocess.Popen[str]]
) -> None:
    code = "import signal\nsignal.signal(2, signal.SIG_DFL)\n" + FAMILY
    process = start(book, *python(code), amounts=SMALL)
    running.append(process)
    family = pids(process)
    process.send_signal(number)
    assert Ran(process).code == 128 + number
    for pid in family:
        assert gone(pid)()
    assert types_in(book)[-1] == "released"
    assert events_of(book, "usage_recorded")[0].body.exit_code == 128 + number


def test_a_command_that_handles_a_signal_has_the_last_word(
    book: Path, running: list[subprocess.Popen[str]]
) -> None:
    code = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(21))
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"one\\n"))
os.write(1, b"ready\\n")
while True: time.sleep(60)
"""
    process = start(book, *python(code), amounts=SMALL)
    running.append(process)
    assert line(process) == "ready"
    process.send_signal(signal.SIGUSR1)
    assert line(process) == "one"
    process.send_signal(signal.SIGTERM)
    assert Ran(process).code == 21


def test_a_signal_arrives_once(book: Path, running: list[subprocess.Popen[str]]) -> None:
    code = """
import os, signal, sys, time
count = []
signal.signal(signal.SIGTERM, lambda *_: (count.append(1), os.write(1, b"got it\\n")))
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(len(count)))
os.write(1, b"ready\\n")
while True: time.sleep(60)
"""
    process = start(book, *python(code), amounts=SMALL)
    running.append(process)
    assert line(process) == "ready"
    os.killpg(process.pid, signal.SIGTERM)
    assert line(process) == "got it"
    process.send_signal(signal.SIGUSR2)
    assert Ran(process).code == 1, "to the run's group, as an init system sends it"


def test_what_was_ignored_stays_ignored_for_the_command(book: Path) -> None:
    import shlex

    from tests.integration.run_commands import surroundings, words

    inner = shlex.join(words(book, {"amounts": SMALL}, "sh", "-c", "kill -HUP $$; echo alive"))
    done = subprocess.run(
        ["sh", "-c", f"trap '' HUP; exec {inner}"],
        env=surroundings(),
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=60,
    )
    assert done.stdout == "alive\n"


def test_a_stopped_command_goes_on_and_ends_as_it_would(
    book: Path, running: list[subprocess.Popen[str]]
) -> None:
    process = start(book, "sh", "-c", "echo $$; kill -STOP $$; exit 4", amounts=SMALL)
    running.append(process)
    [pid] = pids(process)
    assert eventually(
        lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    )
    process.send_signal(signal.SIGCONT)
    assert Ran(process).code == 4


# --- waiting -------------------------------------------------------------------------------------


def test_a_run_waits_for_its_turn(book: Path, running: list[subprocess.Popen[str]]) -> None:
    with look(book) as manager:
        manager.open_pool("local", capacity={"cpu": 1})
        first = manager.allocate({"cpu": 1}, pool="local", holder="first")
        process = start(book, "sh", "-c", "echo mine", amounts={"cpu": 1}, as_json=True)
        running.append(process)
        assert eventually(lambda: bool(manager.list(state="waiting")))
        first.release()
        run = Ran(process)
    assert (run.code, run.out) == (0, "mine\n")
    assert "waits for local" in run.err
    assert run.account["waited_s"] > 0


def test_a_run_that_waits_in_vain_is_refused(book: Path) -> None:
    with look(book) as manager:
        manager.open_pool("local", capacity={"cpu": 1})
        manager.allocate({"cpu": 1}, pool="local", holder="first")
    assert ran(book, "true", amounts={"cpu": 1}, wait="300ms").code == 124


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_wait_gives_up_its_place(
    book: Path, number: int, running: list[subprocess.Popen[str]]
) -> None:
    with look(book) as manager:
        manager.open_pool("local", capacity={"cpu": 1})
        manager.allocate({"cpu": 1}, pool="local", holder="first")
        process = start(book, "sh", "-c", "echo it ran", amounts={"cpu": 1})
        running.append(process)
        assert eventually(lambda: bool(manager.list(state="waiting")))
        process.send_signal(number)
        run = Ran(process)
        assert (run.code, run.out) == (128 + number, "")
        assert not manager.list(state="waiting")


# --- losing it -----------------------------------------------------------------------------------


def test_a_run_whose_allocation_is_taken_by_force_stops_its_command(
    book: Path, running: list[subprocess.Popen[str]]
) -> None:
    process = start(book, *python(FAMILY), amounts=SMALL, as_json=True)
    running.append(process)
    family = pids(process)
    with look(book) as manager:
        [held] = manager.list(state="active")
        asked = manager.reclaim(held.id, reason="it is needed elsewhere", by="operator")
        assert asked.state == "ending", "its process lives, so it is asked first"
        run = Ran(process)
        assert run.code == 128 + 15
        for pid in family:
            assert gone(pid)()
        ended = manager.get(held.id)
    assert (ended.state, ended.ended_by) == ("ended", "forced")
    assert "operator" in run.account["lost"]
    assert [e.body.final for e in events_of(book, "usage_recorded")] == [True]


def test_a_command_that_ignores_the_end_of_its_allocation_is_killed(
    book: Path, running: list[subprocess.Popen[str]]
) -> None:
    process = start(
        book, "sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.1; done", amounts=SMALL
    )
    running.append(process)
    [pid] = pids(process)
    with look(book) as manager:
        [held] = manager.list(state="active")
        manager.reclaim(held.id, reason="now", grace="500ms")
        assert Ran(process).code == 128 + 9
        assert gone(pid)()
        assert manager.get(held.id).ended_by == "forced"


def test_a_command_that_outlives_its_parents_allocation_is_stopped(
    book: Path, running: list[subprocess.Popen[str]]
) -> None:
    with look(book) as manager:
        manager.open_pool("local", capacity={"cpu": 1})
        outer = manager.allocate({"cpu": 1}, pool="local", holder="outer")
        env = {"LEASEBOOK_ALLOCATION": outer.id, "LEASEBOOK_LEDGER": str(book)}
        process = start(book, *python(FAMILY), amounts={"cpu": "500m"}, env=env, as_json=True)
        running.append(process)
        pids(process)
        assert len(manager.list()) == 2
        outer.release()
        run = Ran(process)
    assert run.code == 128 + 15
    assert outer.id in run.account["lost"]


def test_a_holder_that_hands_its_allocation_on_has_lost_it(
    book: Path, running: list[subprocess.Popen[str]]
) -> None:
    process = start(book, *python(FAMILY), amounts=SMALL, holder="one")
    running.append(process)
    pids(process)
    with look(book) as manager:
        [held] = manager.list(state="active")
        manager.transfer(held.id, to="two", ttl="60s", holder="one")
        assert Ran(process).code == 128 + 15
        assert manager.get(held.id).state == "active", "it is not ours to release"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make control groups here")
def test_limits_follow_an_allocation_that_is_adjusted_while_the_command_runs(
    book: Path, running: list[subprocess.Popen[str]]
) -> None:
    import leasebook
    from scheduler.processes.enclosure import Enclosure, EnclosureUnavailable

    try:
        Enclosure.create("probe-of-a-test", 100, None).remove()
    except EnclosureUnavailable as error:
        pytest.skip(f"no limit can be enforced here: {error.reason}")
    with leasebook.open(book) as manager:
        manager.open_pool("box", capacity={"cpu": 4, "memory": "1GiB"})
        run = start(
            book,
            *python("import time; print('up', flush=True); time.sleep(60)"),
            pool="box",
            amounts={"cpu": "1", "memory": "256MiB"},
        )
        running.append(run)
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        (held,) = manager.list()
        groups = [
            path
            for path in Path("/sys/fs/cgroup").rglob("*.limit_in_bytes")
            if path.name == "memory.limit_in_bytes" and f"{held.id}-" in str(path)
        ]
        if not groups:
            groups = [p for p in Path("/sys/fs/cgroup").rglob("memory.max") if held.id in str(p)]
        assert int(groups[0].read_text()) == 256 * 2**20
        manager.adjust(held.id, {"memory": "512MiB"}, token=held.fencing_token)
        assert eventually(lambda: int(groups[0].read_text()) == 512 * 2**20)
