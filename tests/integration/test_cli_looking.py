"""The command line's verbs that look: lists, stories, whose is this, tasks and events."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest

import leasebook
from tests.command_line import ROOT, CommandLine


@pytest.fixture
def lb(lb: CommandLine) -> CommandLine:
    """A command line whose ledger has pool ``box`` of 4 cores and 2 cards."""
    lb.ok("pool", "open", "box", "cpu=4", "gpu=2")
    return lb


def ids(document: dict[str, list[dict[str, str]]]) -> list[str]:
    return [a["id"] for a in document["allocations"]]


# --- list, show, why -----------------------------------------------------------------------------


def test_list_is_narrowed_by_each_filter(lb: CommandLine) -> None:
    lb.ok("pool", "open", "other", "cpu=4")
    lb.ok("allocate", "box", "cpu=2", "--task", "t")
    lb.ok("allocate", "other", "cpu=2", "--holder", "you", "--tenant", "theirs")
    lb("allocate", "box", "cpu=4", "--enqueue")
    assert ids(lb.ok("list")) == ["A4", "A5", "A6"]
    assert ids(lb.ok("list", "--pool", "other")) == ["A5"]
    assert ids(lb.ok("list", "--holder", "me")) == ["A4", "A6"]
    assert ids(lb.ok("list", "--task", "t")) == ["A4"]
    assert ids(lb.ok("list", "--tenant", "theirs")) == ["A5"]
    assert ids(lb.ok("list", "--state", "waiting")) == ["A6"]


def test_list_in_words_is_an_aligned_table(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=2", "--task", "t")
    lb.ok("allocate", "box", "gpu=1", "--holder", "a-much-longer-name")
    head, first, second = lb("list").out.splitlines()
    assert head.split() == [
        "ID",
        "STATE",
        "POOL",
        "AMOUNTS",
        "WHERE",
        "HOLDER",
        "TASK",
        "BOUND",
        "BY",
    ]
    column = head.index("HOLDER")
    assert first[column:].startswith("me ")
    assert second[column:].startswith("a-much-longer-name ")
    assert "box (gpu 0)" in second


def test_lease_past_its_end_is_not_listed_though_nobody_wrote_it_down(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=1", "--ttl", "1ms")
    assert ids(lb.ok("list")) == []
    shown = lb.ok("show", "A3")
    assert (shown["state"], shown["ended_by"]) == ("ended", "expired")
    # Looking is not writing: the sweep or the next command records it.
    assert lb.ok("events", "--type", "expired")["events"] == []


def test_show_gives_the_allocation_with_its_metadata(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "gpu=1", "--meta", "run=7", "--task", "t")
    shown = lb.ok("show", "A3")
    assert shown["metadata"] == {"run": "7"}
    words = lb("show", "A3").out
    for part in ("allocation     A3", "where          box (gpu 0)", "metadata       run=7"):
        assert part in words


def test_why_tells_the_story_of_an_allocation(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=1")
    lb.ok("renew", "A3")
    lb.ok("release", "A3")
    story = lb.ok("why", "A3")
    assert [step["type"] for step in story["steps"]] == ["allocated", "renewed", "released"]
    assert story["subject"] == "A3"
    assert story["allocation"]["ended_by"] == "released"
    told = lb("why", "A3").out.splitlines()
    assert told[0] == "A3 ended (released): me released it"
    assert len(told) == 4


def test_why_tells_who_was_in_the_way_of_a_refusal(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=4")
    lb("allocate", "box", "cpu=1", "--holder", "other")
    story = lb.ok("why", "R4")
    assert story["facts"]["shortfall"] == {"box": {"cpu": "1"}}
    (blocker,) = story["facts"]["blockers"]
    assert blocker["allocation"] == "A3"
    assert blocker["since"].endswith("Z") and blocker["expires_at"].endswith("Z")
    assert "short by cpu=1 on box" in lb("why", "R4").out
    assert "what to do: " in lb("why", "R4").out


def test_why_last_finds_the_newest_that_needs_explaining(lb: CommandLine) -> None:
    assert lb("why", "--last").code == 4
    lb.ok("allocate", "box", "cpu=4")
    lb("allocate", "box", "cpu=1", "--holder", "other")
    lb("allocate", "box", "cpu=1", "--enqueue")
    lb.ok("renew", "A3")
    assert lb.ok("why", "--last")["subject"] == "A5"
    assert lb.ok("why", "--last", "--holder", "other")["subject"] == "R4"
    assert "A5 waits" in lb("why", "--last").out


# --- whose is this -------------------------------------------------------------------------------


def test_process_belongs_to_whoever_holds_for_it_or_for_an_ancestor(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=1", "--pid", str(os.getpid()), "--task", "tests")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = lb.ok("who", "--pid", str(child.pid))
        assert found["asked"] == {"pid": child.pid}
        assert ids(found) == ["A3"]
        child.communicate(b"\n")
    assert lb("who", "--pid", str(os.getpid())).out.startswith("me for tests: A3  cpu=1 on box")


def test_process_outside_the_ledger_is_nobodys(lb: CommandLine) -> None:
    answer = lb("who", "--pid", str(os.getpid()), "--json")
    assert answer.code == 4
    assert answer.json["error"]["reason"] == "no_such_allocation"


def test_port_belongs_to_whoever_holds_its_node(lb: CommandLine) -> None:
    lb.ok("pool", "open", "ports", "--node", "3100..3102:port=1")
    lb.ok("allocate", "ports", "port=1", "--holder", "web")
    assert lb.ok("who", "--port", "3100")["allocations"][0]["holder"] == "web"
    assert lb("who", "--port", "3101").code == 4


def test_port_belongs_to_whoever_holds_for_the_process_that_listens(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=1", "--pid", str(os.getpid()))
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert ids(lb.ok("who", "--port", str(server.getsockname()[1]))) == ["A3"]


def test_card_belongs_to_whoever_holds_it(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "gpu=1", "--holder", "one")
    lb.ok("allocate", "box", "gpu=1", "--holder", "two")
    assert lb.ok("who", "--gpu", "1")["allocations"][0]["holder"] == "two"
    assert lb("who", "--gpu", "2").code == 4
    assert lb("who", "--gpu", "1", "--pool", "elsewhere").code == 4


# --- tasks ---------------------------------------------------------------------------------------


def test_task_is_started_once_and_finished(lb: CommandLine) -> None:
    assert lb("task", "start", "build").out == "started  build\n"
    assert lb("task", "start", "build").code == 5
    assert lb("task", "finish", "build").out.startswith("finished  build")
    types = [event["type"] for event in lb.ok("events", "--task", "build")["events"]]
    assert types == ["task_started", "refused", "task_finished"] or types == [
        "task_started",
        "task_finished",
    ]


def test_finished_task_shows_measured_efficiency(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=2", "--task", "build")
    with leasebook.open(lb.ledger) as manager:
        granted = next(iter(manager.events(type="allocated"))).at
        now = until_ns(granted + 50_000_000)
        manager.record_usage(
            "A3", since=granted, until=now, used={"cpu": 50}, peak={"cpu": 1000}, samples=3
        )
    lb.ok("release", "A3")
    row = lb.ok("task", "finish", "build", "--outcome", "succeeded")["efficiency"]
    assert row["task"] == "build"
    assert row["allocations"] == 1
    # 50 thousandths of a core for a second, of 2 cores for as long as it was measured.
    assert row["efficiency"]["cpu"] == pytest.approx(0.05 / (2 * (now - granted) / 1e9))
    assert "CPU:" in lb("task", "finish", "build").out


def until_ns(instant: int) -> int:
    """Let the clock reach an instant (ns UTC), and give the time then."""
    while time.time_ns() < instant:
        time.sleep(0.005)
    return time.time_ns()


def test_finished_task_never_invents_an_efficiency(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=1", "--task", "idle")
    lb.ok("release", "A3")
    assert lb.ok("task", "finish", "idle")["efficiency"]["efficiency"] == {"cpu": None}
    assert "not measured" in lb("task", "finish", "idle").out
    assert lb.ok("task", "finish", "unheard-of")["efficiency"] is None


# --- events --------------------------------------------------------------------------------------


def test_events_are_narrowed_by_each_filter(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=1", "--task", "t")
    lb.ok("allocate", "box", "cpu=1", "--holder", "you", "--tenant", "theirs")
    lb.ok("release", "A3")

    def positions(*filters: str) -> list[int]:
        return [event["position"] for event in lb.ok("events", *filters)["events"]]

    assert positions() == [1, 2, 3, 4, 5]
    assert positions("--after", "3") == [4, 5]
    assert positions("--after", "#3", "--limit", "1") == [4]
    assert positions("--type", "allocated") == [3, 4]
    assert positions("--pool", "box", "--holder", "you") == [4]
    assert positions("--task", "t") == [3, 5]
    assert positions("--tenant", "theirs") == [4]
    assert positions("--since", "#2", "--until", "#4") == [2, 3]
    assert positions("--since", "1h-ago") == [1, 2, 3, 4, 5]
    assert positions("--until", "1h-ago") == []
    assert positions("--until", "now") == [1, 2, 3, 4, 5]


def test_events_document_echoes_times_in_utc_and_the_head(lb: CommandLine) -> None:
    document = lb.ok("events", "--since", "2026-01-01T00:00:00+01:00", "--limit", "0")
    assert document == {
        "events": [],
        "position": 2,
        "since": "2025-12-31T23:00:00.000000Z",
        "until": None,
    }


def test_events_in_words_are_one_line_each(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=1")
    lines = lb("events").out.splitlines()
    assert len(lines) == 3
    assert lines[0].split()[0] == "#1" and "ledger_opened" in lines[0]
    assert "me got cpu=1 of box on box" in lines[2]


def test_followed_events_come_as_json_lines_while_they_happen(lb: CommandLine) -> None:
    with lb.process("events", "--follow", "--json", "--limit", "4") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["position"] == 1
        assert json.loads(process.stdout.readline())["position"] == 2
        lb.ok("allocate", "box", "cpu=1")
        assert json.loads(process.stdout.readline())["type"] == "allocated"
        lb.ok("release", "A3")
        assert json.loads(process.stdout.readline())["type"] == "released"
        assert process.wait(timeout=30) == 0


def test_interrupted_follow_ends_without_a_traceback(lb: CommandLine) -> None:
    import signal

    with lb.process("events", "--follow") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "leasebook: interrupted\n")


def test_reader_that_has_enough_ends_the_command_quietly(lb: CommandLine) -> None:
    with leasebook.open(lb.ledger) as manager:
        for number in range(300):
            manager.start_task(f"task-{number}" + "x" * 150)
    with lb.process("events", "--json") as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == 141


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_full_disk_behind_stdout_is_said_and_fails(lb: CommandLine, more: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full, lb.process("list", *more, stdout=full) as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.startswith("leasebook: stdout: No space left on device; ")
    assert "Traceback" not in err


def test_process_of_its_own_answers_and_exits_like_the_call(lb: CommandLine) -> None:
    with lb.process("allocate", "box", "cpu=9", "--json") as process:
        out, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert json.loads(out)["reason"] == "exceeds_pool"
    assert err == ""


@pytest.mark.parametrize("verb", ["list", "events"])
def test_closed_stdout_is_no_fault(lb: CommandLine, verb: str) -> None:
    command = f'exec "$0" -m leasebook {verb} --json >&-'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
