"""The command line's verbs on allocations, from the first ask to the end, waits and signals included."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import leasebook
from tests.command_line import CommandLine


@pytest.fixture
def lb(lb: CommandLine) -> CommandLine:
    """A command line whose ledger has pool ``box`` of 4 cores and 2 cards."""
    lb.ok("pool", "open", "box", "cpu=4", "gpu=2")
    return lb


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def until(condition: Callable[[], Any], limit_s: float = 20) -> Any:
    """Wait for something that another process does."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come to it")


# --- asking --------------------------------------------------------------------------------------


def test_complete_allocation_cycle_is_told_in_short_lines(lb: CommandLine) -> None:
    asked = lb("allocate", "box", "cpu=2", "--ttl", "30m")
    assert asked.out.startswith("A3  cpu=2 on box, until ")
    assert asked.out.endswith("(30 min)\n")
    assert lb("adjust", "A3", "cpu=3").out.startswith("adjusted  A3  cpu=3 on box, until")
    assert lb("renew", "A3", "--ttl", "2h").out.endswith("(2 h)\n")
    assert "ended" in lb("release", "A3").out
    assert lb("list").out == "nothing is held, nobody waits\n"


def test_lease_is_15_minutes_unless_told(lb: CommandLine) -> None:
    a = lb.ok("allocate", "box", "cpu=1")["allocation"]
    held = _seconds(a["expires_at"]) - _seconds(a["granted_at"])
    assert held == 900


def _seconds(moment: str) -> float:
    from leasebook.cli.text import seconds_of

    return seconds_of(moment)


def test_same_command_id_has_one_effect_and_is_marked_as_replayed(lb: CommandLine) -> None:
    first = lb.ok("allocate", "box", "cpu=1", "--id", "once")
    again = lb.ok("allocate", "box", "cpu=1", "--id", "once")
    assert (first["replayed"], again["replayed"]) == (False, True)
    assert again["allocation"]["id"] == first["allocation"]["id"] == "A3"
    assert len(lb.ok("list")["allocations"]) == 1
    assert "(carried out before)" in lb("allocate", "box", "cpu=1", "--id", "once").out


def test_replay_of_an_ended_allocation_is_a_conflict_that_shows_its_result(
    lb: CommandLine,
) -> None:
    lb.ok("allocate", "box", "cpu=1", "--id", "once")
    lb.ok("release", "A3")
    answer = lb("allocate", "box", "cpu=1", "--id", "once", "--json")
    assert answer.code == 5
    assert answer.json["replayed"] is True
    assert answer.json["allocation"]["ended_by"] == "released"


def test_print_gives_the_id_the_node_or_lines_for_a_shell(lb: CommandLine) -> None:
    assert lb("allocate", "box", "cpu=1", "--print", "id").out == "A3\n"
    assert lb("allocate", "box", "cpu=1", "--print", "node").out == "box\n"
    lines = lb("allocate", "box", "gpu=1", "--holder", "o'neill", "--print", "env").out
    shown = subprocess.run(
        ["sh", "-c", f'{lines}\nenv | grep -E "^(LEASEBOOK|CUDA)_" | sort'],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.splitlines() == [
        "CUDA_VISIBLE_DEVICES=0",
        "LEASEBOOK_ALLOCATION=A5",
        "LEASEBOOK_HOLDER=o'neill",
        "LEASEBOOK_NODE=box",
        "LEASEBOOK_POOL=box",
    ]
    # The token is for the holder alone, and stays out of every environment.
    assert "TOKEN" not in lines.upper()


def test_pid_binds_to_a_process_instead_of_a_lease(
    lb: CommandLine, sleeper: subprocess.Popen[bytes]
) -> None:
    a = lb.ok("allocate", "box", "cpu=1", "--pid", str(sleeper.pid))["allocation"]
    assert a["expires_at"] is None
    assert a["process"]["pid"] == sleeper.pid
    assert f"as long as process {sleeper.pid} lives" in lb("list").out


def test_nested_request_draws_on_its_parent(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=4")
    child = lb.ok("allocate", "box", "cpu=3", "--parent", "A3")
    assert child["allocation"]["parent"] == "A3"
    assert lb("allocate", "box", "cpu=2", "--parent", "A3").code == 3


def test_wait_of_0_keeps_no_place(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=4")
    assert lb("allocate", "box", "cpu=1", "--wait", "0").code == 3
    assert [a["id"] for a in lb.ok("list")["allocations"]] == ["A3"]


def test_reservation_is_confirmed_or_withdrawn(lb: CommandLine) -> None:
    reserved = lb.ok("allocate", "box", "cpu=1", "--reserve")["allocation"]
    assert reserved["state"] == "reserved"
    assert lb.ok("confirm", "A3")["allocation"]["state"] == "active"
    lb.ok("allocate", "box", "cpu=1", "--reserve-for", "5m")
    ended = lb.ok("withdraw", "A5", "--reason", "changed my mind")["allocation"]
    assert ended["state"] == "ended"


# --- waiting -------------------------------------------------------------------------------------


def test_wait_blocks_until_somebody_releases(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=4")

    def release_when_somebody_waits() -> None:
        with leasebook.open(lb.ledger) as manager:
            until(lambda: manager.list(state="waiting"))
            manager.release("A3", holder="me")

    other = threading.Thread(target=release_when_somebody_waits)
    other.start()
    result = lb.ok("allocate", "box", "cpu=3", "--wait", "30s")
    other.join()
    assert result["outcome"] == "granted"
    assert result["allocation"]["id"] == "A4"
    assert result["allocation"]["fencing_token"] > 4


def test_wait_that_is_over_is_refused_with_wait_timed_out(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=4")
    answer = lb("allocate", "box", "cpu=1", "--wait", "100ms", "--json")
    assert answer.code == 3
    assert answer.json["outcome"] == "refused"
    assert answer.json["reason"] == "wait_timed_out"
    assert "A4" in answer.json["hint"]
    assert lb.ok("list", "--state", "waiting")["allocations"] == []


def test_enqueued_request_is_waited_for_by_id(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=4")
    queued = lb("allocate", "box", "cpu=4", "--enqueue")
    assert queued.code == 7
    assert queued.out.startswith("A4  cpu=4 of box, waits until ")
    assert "nobody is ahead" in queued.out
    still = lb("wait", "A4", "--timeout", "0", "--json")
    assert (still.code, still.json["outcome"]) == (7, "waiting")
    (blocker,) = still.json["blockers"]
    assert blocker["allocation"] == "A3"
    assert 0 < still.json["eta_s"] <= 900 and "leases" in still.json["eta_basis"]
    assert "in about " in lb("wait", "A4", "--timeout", "0").out
    lb.ok("release", "A3")
    assert lb.ok("wait", "A4")["outcome"] == "granted"


def test_enqueued_request_tells_how_many_are_ahead(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=4")
    for ahead in range(3):
        answer = lb("allocate", "box", "cpu=1", "--enqueue", "--json")
        assert answer.json["ahead"] == ahead
    assert lb("wait", "A6", "--timeout", "0", "--json").json["ahead"] == 2


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_interrupted_wait_gives_its_place_up(
    lb: CommandLine, number: signal.Signals, code: int
) -> None:
    lb.ok("allocate", "box", "cpu=4")
    with lb.process("allocate", "box", "cpu=1", "--wait", "1h") as process:
        until(lambda: lb.ok("list", "--state", "waiting")["allocations"])
        # The place is taken a moment before the wait begins.
        time.sleep(0.3)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert out == "" and "Traceback" not in err
    assert lb.ok("list", "--state", "waiting")["allocations"] == []


def test_killed_wait_gives_its_place_up_at_the_next_sweep_but_not_what_was_enqueued(
    lb: CommandLine,
) -> None:
    lb.ok("allocate", "box", "cpu=4")
    assert lb("allocate", "box", "cpu=1", "--enqueue").code == 7
    with lb.process("allocate", "box", "cpu=1", "--wait", "1h") as process:
        until(lambda: len(lb.ok("list", "--state", "waiting")["allocations"]) == 2)
        process.kill()
        process.communicate(timeout=30)
    lb.ok("sweep", "crash")
    (left,) = lb.ok("list", "--state", "waiting")["allocations"]
    assert left["id"] == "A4"


def test_an_interrupted_wait_says_so_in_json_too(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=4")
    with lb.process("allocate", "box", "cpu=1", "--wait", "1h", "--json") as process:
        until(lambda: lb.ok("list", "--state", "waiting")["allocations"])
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(out)["error"]["reason"] == "interrupted"


# --- tenure --------------------------------------------------------------------------------------


def test_holder_renews_all_of_its_leases_with_one_event(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=1", "--ttl", "60s")
    lb.ok("allocate", "box", "cpu=1", "--ttl", "60s")
    lb.ok("allocate", "box", "cpu=1", "--ttl", "60s", "--holder", "other")
    result = lb.ok("renew", "--holder", "me", "--ttl", "1h")
    assert [one["id"] for one in result["renewed"]] == ["A3", "A4"]
    assert len(result["positions"]) == 1
    left = [_seconds(a["expires_at"]) - time.time() for a in lb.ok("list")["allocations"]]
    assert left[0] > 3500 and left[1] > 3500 and left[2] < 61
    assert lb("renew", "--holder", "me").out.count("renewed  A") == 2


def test_transfer_changes_the_token_and_the_old_one_is_stale(lb: CommandLine) -> None:
    old = lb.ok("allocate", "box", "cpu=1")["allocation"]["fencing_token"]
    moved = lb.ok("transfer", "A3", "--to", "you", "--to-task", "theirs")["allocation"]
    assert (moved["holder"], moved["task"]) == ("you", "theirs")
    assert moved["fencing_token"] > old
    assert lb("release", "A3", "--token", str(old)).code == 5
    assert lb("release", "A3").code == 3
    lb.ok("release", "A3", "--token", str(moved["fencing_token"]))


def test_reclaim_by_force_names_who_and_why(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=4", "--holder", "other")
    taken = lb.ok("reclaim", "A3", "--force", "--reason", "needed elsewhere", "--by", "boss")
    assert taken["allocation"]["ended_by"] == "forced"
    told = lb("why", "A3").out
    assert "boss took it back: forced (needed elsewhere)" in told


def test_reclaim_asks_a_living_process_to_end_first(
    lb: CommandLine, sleeper: subprocess.Popen[bytes]
) -> None:
    lb.ok("allocate", "box", "cpu=1", "--pid", str(sleeper.pid))
    taken = lb.ok("reclaim", "A3", "--force", "--reason", "r", "--grace", "1h")
    assert taken["allocation"]["state"] == "ending"
    assert sleeper.poll() is None


def test_another_tenants_holder_is_not_named(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=4", "--tenant", "theirs", "--holder", "secret")
    answer = lb("allocate", "box", "cpu=1", "--tenant", "ours")
    assert answer.code == 3
    assert "another tenant holds cpu=4" in answer.err
    assert "secret" not in answer.err
