"""The verbs that travel in time, and the same from Python: ``at``, ``diff``, ``replay``."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

import leasebook
from leasebook.cli.replaying import GAP_S_MAX, Player
from leasebook.cli.screen import screen
from ledger.commands import Claim, Fact, OpenPool, Reclaim, RecordFacts
from ledger.errors import InvalidInput, Refused
from ledger.requests import Placement, Request
from tests.command_line import ROOT, CommandLine
from tests.ledgers import unmeasured

PATIENCE_S = 30


@pytest.fixture
def lb(lb: CommandLine) -> CommandLine:
    """A command line whose ledger has pool ``box`` of two nodes: A3 was held and given back, A4 is
    held, A5 waited and got what A3 gave back."""
    lb.ok("pool", "open", "box", "--node", "n1:cpu=4", "--node", "n2:cpu=2")
    lb.ok("allocate", "box", "cpu=3", "--task", "train")
    lb.ok("allocate", "box", "cpu=2", "--holder", "you", "--ttl", "1h")
    waits = lb("allocate", "box", "cpu=4", "--holder", "late", "--enqueue", "--wait", "1h")
    assert waits.code == 7
    lb.ok("release", "A3")
    return lb


def ids(found: list[dict[str, Any]]) -> list[str]:
    return [a["id"] for a in found]


# --- at ------------------------------------------------------------------------------------------


def test_at_a_position_shows_the_whole_fleet_right_after_that_event(lb: CommandLine) -> None:
    then = lb.ok("at", "#5")
    assert then["position"] == 5
    assert ids(then["allocations"]) == ["A3", "A4"]
    assert ids(then["queue"]) == ["A5"]
    (box,) = then["pools"]
    assert (box["in_use"], box["waiting"]) == ({"cpu": "5"}, 1)
    assert [n["in_use"]["cpu"] for n in box["nodes"]] == ["3", "2"]
    assert then["known_at"]["position"] == 7
    assert then["corrections"] == []


def test_at_a_time_is_the_same_as_at_the_position_that_had_been_reached(lb: CommandLine) -> None:
    by_position = lb.ok("at", "5")
    by_time = lb.ok("at", by_position["time"])
    del by_position["time"], by_time["time"], by_position["known_at"], by_time["known_at"]
    assert by_position == by_time
    assert ids(lb.ok("at", "now")["allocations"]) == ["A4", "A5"]


def test_at_says_in_words_what_it_says_in_json(lb: CommandLine) -> None:
    answer = lb("at", "#5")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[0].startswith("at 20") and lines[0].endswith("after event #5")
    assert any(line.startswith("box") and "cpu=5/6" in line for line in lines)
    assert any(line.startswith("  n1") and "cpu=3/4" in line for line in lines)
    assert any("A3" in line and "train" in line for line in lines)
    assert any(line.startswith("A5") and "late" in line for line in lines)
    assert "nothing was held" in lb("at", "#2").out
    assert "there was no pool" in lb("at", "#1").out


def test_at_keeps_to_a_pool(lb: CommandLine) -> None:
    lb.ok("pool", "open", "bag", "slots=4")
    lb.ok("allocate", "bag", "slots=1")
    found = lb.ok("at", "now", "--pool", "bag")
    assert [p["name"] for p in found["pools"]] == ["bag"]
    assert [a["pool"] for a in found["allocations"]] == ["bag"]
    # It was not there yet.
    answer = lb("at", "#5", "--pool", "bag", "--json")
    assert answer.code == 4
    assert answer.json["error"]["reason"] == "no_such_pool"


@pytest.mark.parametrize(
    ("when", "says"),
    [
        ("0", "begins with position 1"),
        ("#99", "the head is 7"),
        ("2001-01-01T00:00:00Z", "begins at"),
        ("2200-01-01T00:00:00Z", "what is known ends at"),
        ("9999-12-31T23:59:59Z", "future"),
        ("0001-01-01T00:00:00Z", "begins at"),
        ("soon", "is not a time"),
        ("", "is not a time"),
        ("1e3", "is not a time"),
    ],
)
def test_a_moment_that_is_none_is_invalid_and_the_message_says_what_there_is(
    lb: CommandLine, when: str, says: str
) -> None:
    for arguments in (("at", when), ("diff", when, "now"), ("diff", "#1", when)):
        answer = lb(*arguments)
        assert answer.code == 2, answer
        assert says in answer.err
        assert answer.err.count("\n") == 1
    assert lb("replay", "--from", when).code == 2
    assert lb("at", "#3", "--as-known-at", when).code == 2


def test_a_crash_that_is_found_later_counts_unless_it_is_asked_what_was_known(
    lb: CommandLine,
) -> None:
    with leasebook.open(lb.ledger) as manager:
        writer = manager.ledger.writer
        lb.ok("release", "A4", "--holder", "you")
        handle = manager.allocate({"cpu": 1}, pool="box", holder="gone", pid=os.getpid(), task="t")
        crashed = writer.log.head().recorded_at
        lb.ok("pool", "open", "bag", "slots=4")
        asked = str(writer.log.head().position)
        command = Reclaim(
            command_id="late",
            allocation=handle.id,
            claim=Claim("gone"),
            cause="crashed",
            happened_at=crashed + 1,
        )
        assert writer.execute(command).outcome == "reclaimed"
    now, then = lb.ok("at", asked), lb.ok("at", asked, "--as-known-at", asked)
    assert handle.id not in ids(now["allocations"])
    assert handle.id in ids(then["allocations"])
    for document, counted in ((now, True), (then, False)):
        (found,) = document["corrections"]
        assert found["allocation"] == handle.id
        assert (found["believed"], found["found"], found["ended_by"]) == (
            "held",
            "ended",
            "crashed",
        )
        assert found["counted"] is counted
    assert "believed held then, found later to have ended at" in lb("at", asked).out
    assert "not counted here" in lb("at", asked, "--as-known-at", asked).out
    answer = lb("at", "now", "--as-known-at", "#3")
    assert answer.code == 2
    assert "nobody could know" in answer.err


# --- diff ----------------------------------------------------------------------------------------


def test_diff_says_who_came_who_went_and_what_became_of_who_waited(lb: CommandLine) -> None:
    apart = lb.ok("diff", "#5", "#7")
    assert ids(apart["allocations"]["begun"]) == ["A5"]
    (gone,) = apart["allocations"]["ended"]
    assert (gone["id"], gone["became"], gone["ended_by"]) == ("A3", "ended", "released")
    (left,) = apart["queue"]["left"]
    assert (left["id"], left["became"]) == ("A5", "active")
    (box,) = apart["pools"]
    assert box["in_use"] == {"cpu": ["5", "6"]}
    assert [(n["name"], n["what"]) for n in box["nodes"]] == [("n1", "changed")]
    text = lb("diff", "#5", "#7").out
    for said in ("+ A5  late holds cpu=4", "- A3  me for train held cpu=3", "in use cpu 5 → 6"):
        assert said in text
    assert "nothing differs" in lb("diff", "#7", "now").out


def test_diff_shows_changed_amounts_pools_and_nodes(lb: CommandLine) -> None:
    lb.ok("adjust", "A4", "cpu=1", "--holder", "you")
    lb.ok("pool", "cordon", "n2", "--pool", "box")
    lb.ok("pool", "resize", "box", "--node", "n1:cpu=8")
    lb.ok("pool", "open", "bag", "slots=3")
    apart = lb.ok("diff", "#7", "now")
    (changed,) = apart["allocations"]["changed"]
    assert (changed["before"]["amounts"], changed["after"]["amounts"]) == (
        {"cpu": "2"},
        {"cpu": "1"},
    )
    box, bag = apart["pools"]
    assert (box["what"], bag["what"]) == ("changed", "opened")
    assert box["capacity"] == {"cpu": ["6", "10"]}
    assert {n["name"] for n in box["nodes"]} == {"n1", "n2"}
    text = lb("diff", "#7", "now").out
    for said in (
        "~ A4  you: amounts cpu=2 → cpu=1",
        "+ pool bag",
        "cordoned",
        "capacity cpu 4 → 8",
    ):
        assert said in text
    assert lb.ok("diff", "#7", "now", "--pool", "bag")["allocations"]["changed"] == []


def test_diff_of_a_pool_that_never_was_is_refused_as_by_the_other_verbs(lb: CommandLine) -> None:
    answer = lb("diff", "#5", "now", "--pool", "bxo")
    assert answer.code == 4 and "there was no pool 'bxo'" in answer.err
    assert lb("at", "now", "--pool", "bxo").code == answer.code


def test_diff_takes_the_earlier_moment_first(lb: CommandLine) -> None:
    answer = lb("diff", "#7", "#3")
    assert answer.code == 2
    assert "give the earlier moment first" in answer.err


# --- replay --------------------------------------------------------------------------------------


def test_replay_without_a_terminal_prints_each_event_with_the_state_after_it(
    lb: CommandLine,
) -> None:
    answer = lb("replay", "--from", "#3", "--until", "#7")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert ["#3" in lines[0], "#7" in lines[-1], len(lines)] == [True, True, 5]
    assert lines[2].endswith("box: cpu 5/6, 2 held, 1 waiting")
    assert lines[4].endswith("box: cpu 6/6, 2 held")


def test_replay_as_json_is_a_document_for_each_event(lb: CommandLine) -> None:
    answer = lb("replay", "--from", "#3", "--until", "#7", "--json")
    frames = [json.loads(line) for line in answer.out.splitlines()]
    assert [f["event"]["position"] for f in frames] == [3, 4, 5, 6, 7]
    assert [f["state"]["pools"][0]["in_use"]["cpu"] for f in frames] == ["3", "5", "5", "2", "6"]
    assert [len(f["state"]["queue"]) for f in frames] == [0, 0, 1, 1, 0]
    assert frames[2]["state"]["queue"][0]["holder"] == "late"
    assert all(f["text"] for f in frames)


def test_replay_of_nothing_says_so_and_backwards_is_invalid(lb: CommandLine) -> None:
    assert lb("replay", "--from", "now").out == "nothing happened in between\n"
    assert lb("replay", "--from", "now", "--json").out == ""
    assert "earlier moment as --from" in lb("replay", "--from", "#5", "--until", "#3").err
    assert lb("replay", "--from", "#1", "--pool", "nix").code == 4
    assert lb("replay", "--from", "#1", "--step").code == 2
    assert lb("replay", "--from", "#1", "--step", "--speed", "2").code == 2
    assert lb("replay", "--from", "#1", "--speed", "0").code == 2


class Terminal:
    """``leasebook replay`` on a terminal of a given size."""

    def __init__(self, lb: CommandLine, columns: int, lines: int, *arguments: str) -> None:
        self._own, other = os.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.before = termios.tcgetattr(other)
        self._other = other
        self.process = subprocess.Popen(
            [sys.executable, "-m", "leasebook", "replay", *arguments],
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**unmeasured(), "PYTHONPATH": str(ROOT), "TERM": "xterm", "PYTHONUTF8": "1"},
        )
        self.shown = ""

    def until(self, text: str) -> None:
        """Read until a text shows."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.shown:
            assert time.monotonic() < deadline, (text, self.shown[-2000:])
            if select.select([self._own], [], [], 0.2)[0]:
                self.shown += os.read(self._own, 65536).decode(errors="replace")

    def press(self, keys: str) -> None:
        """Press keys; what was shown before does not count any more."""
        self.shown = ""
        os.write(self._own, keys.encode())

    def left(self) -> int:
        """Its exit code, once it has left the terminal as it found it."""
        code = self.process.wait(PATIENCE_S)
        assert termios.tcgetattr(self._other) == self.before
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._own)
        os.close(self._other)


@pytest.fixture
def terminal(lb: CommandLine) -> Iterator[Any]:
    made: list[Terminal] = []

    def make(columns: int, lines: int, *arguments: str) -> Terminal:
        made.append(Terminal(lb, columns, lines, *arguments))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize(("columns", "lines"), [(120, 30), (50, 16), (30, 8)])
def test_a_replay_is_stepped_through_with_keys_at_any_size(
    terminal: Any, columns: int, lines: int
) -> None:
    screen = terminal(columns, lines, "--from", "#3", "--until", "#7", "--step")
    screen.until("event 1")
    screen.press("\n")
    screen.until("event 2")
    screen.press(" ")
    screen.until("event 3")
    screen.press("\x1b[C")
    screen.until("event 4")
    screen.press("b")
    screen.until("event 3")
    screen.press("\n\n\n")
    screen.until("the end")
    screen.press("q")
    assert screen.left() == 0
    screen.until("5 events played")


def test_a_replay_plays_by_itself_and_stops_at_a_key(terminal: Any) -> None:
    screen = terminal(100, 30, "--from", "#1", "--until", "#7", "--speed", "1000000")
    screen.until("the end")
    screen.press("b")
    screen.until("stopped")
    screen.press("q")
    assert screen.left() == 0


def test_ctrl_c_leaves_a_replay_and_the_terminal_as_it_was(terminal: Any) -> None:
    screen = terminal(100, 30, "--from", "#1", "--step")
    screen.until("event 1")
    screen.press("\x03")
    assert screen.left() == 130
    screen.until("interrupted")
    assert "Traceback" not in screen.shown
    again = terminal(100, 30, "--from", "#1", "--step")
    again.until("event 1")
    again.process.send_signal(signal.SIGINT)
    assert again.left() == 130


def test_long_gaps_of_a_replay_are_cut_and_it_says_so(lb: CommandLine) -> None:
    with leasebook.open(lb.ledger) as manager:
        frames = manager._questions.moments().replay("#3", "#7").frames()
        # So slow that the moments between two commands are long.
        player = Player(frames, running=True, speed=1e-6)
        assert player.forward()
        assert (player.cut_ns, player.pause_s()) == (0, GAP_S_MAX)
        assert player.forward()
        assert player.cut_ns > 0
        drawn = Console(width=100, height=12, record=True, file=io.StringIO())
        drawn.print(screen(player, drawn, steps=False))
        assert "a gap was cut by" in drawn.export_text()
        player.back()
        assert (player.number, player.cut_ns, player.running) == (1, 0, False)


# --- from Python ---------------------------------------------------------------------------------


def test_the_managers_answer_as_the_command_line_does(lb: CommandLine) -> None:
    shown = lb.ok("at", "#5")
    moment = datetime.fromisoformat(shown["time"])
    with leasebook.open(lb.ledger) as manager:
        found = manager.at(5)
        assert ids(manager.at(moment, pool="box")["allocations"]) == ["A3", "A4"]
        apart = manager.diff("#5", "now")
        long_ago = datetime(1999, 1, 1, tzinfo=UTC)
        wrong: tuple[Any, ...] = (None, 1.5, True, [], "soon", 99, -1, long_ago)
        for bad in wrong:
            with pytest.raises(InvalidInput):
                manager.at(bad)
        with pytest.raises(Refused):
            manager.at("now", pool="nix")
    del shown["known_at"], found["known_at"]
    assert found == shown
    assert ids(apart["allocations"]["begun"]) == ["A5"]

    async def ask() -> Any:
        async with await leasebook.aopen(lb.ledger) as manager:
            return await manager.at(5), await manager.diff(5, 7)

    at, diff = asyncio.run(ask())
    assert at["allocations"] == found["allocations"]
    assert ids(diff["allocations"]["begun"]) == ["A5"]


def test_a_ledger_in_memory_has_a_past_too() -> None:
    with leasebook.open(":memory:") as manager:
        manager.open_pool("box", capacity={"cpu": 2})
        first = manager.allocate({"cpu": 1}, pool="box")
        first.release()
        assert ids(manager.at(3)["allocations"]) == [first.id]
        assert manager.at("now")["allocations"] == []


def test_history_of_an_observed_pool_is_asked_at_its_own_times(lb: CommandLine) -> None:
    began = 1_600_000_000 * 10**9
    fact = Fact(
        key="k",
        holder="ann",
        request=Request({"cpu": 2000}),
        placements=(Placement("far1", {"cpu": 2000}, {}),),
        began_at=began,
        ended_at=began + 3600 * 10**9,
    )
    with leasebook.open(lb.ledger) as manager:
        writer = manager.ledger.writer
        writer.execute(OpenPool(command_id="far", pool="far", nodes=(), kind="observed"))
        writer.execute(RecordFacts(command_id="", pool="far", facts=(fact,)))
    then = lb.ok("at", "2020-09-13T13:00:00Z")
    assert [(a["holder"], a["pool"]) for a in then["allocations"]] == [("ann", "far")]
    assert then["position"] == 0
    # Nobody said how much there is, and that is not nothing.
    far = then["pools"][0]
    assert (far["capacity"], far["in_use"], far["capacity_unknown"]) == ({}, {"cpu": "2"}, ["cpu"])
    assert "over_committed" not in far["nodes"][0]
    assert "cpu=2  observed, capacity not known" in lb("at", "2020-09-13T13:00:00Z").out
    assert lb.ok("at", "2020-09-13T14:00:00Z")["allocations"] == []
    answer = lb("at", "2020-09-13T12:00:00Z")
    assert answer.code == 2
    assert "begins at 2020-09-13T12:26:40" in answer.err
    played = lb("replay", "--from", "2020-09-13T12:26:40Z", "--until", "2020-09-13T14:00:00Z")
    assert played.out.count("\n") == 1
    assert "far: , 0 held" in played.out or "far: cpu 0/0, 0 held" in played.out
    apart = lb("diff", "2020-09-13T13:00:00Z", "2020-09-13T14:00:00Z").out
    assert "far1 in use no more: cpu=2" in apart
