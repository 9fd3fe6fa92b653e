"""``leasebook run``: real commands, from their size to their exit code and what the log says."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from ledger.commands import Fact, OpenPool, RecordFacts
from ledger.events import Allocated, HolderSeen, UsageRecorded
from ledger.requests import Placement, Request
from scheduler.processes.cgroup import machine_capacity
from tests.integration.run_commands import (
    SMALL,
    Ran,
    events_of,
    look,
    python,
    ran,
    start,
    types_in,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


# --- exit codes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "exit 255"), 255),
        (("sh", "-c", "kill -TERM $$"), 128 + 15),
        (("sh", "-c", "kill -KILL $$"), 128 + 9),
        (("no-such-program-anywhere",), 127),
        (("./no-such-program-here",), 127),
        (("/etc",), 126),
        (("/etc/passwd",), 126),
    ],
)
def test_a_run_exits_as_a_shell_would(book: Path, command: tuple[str, ...], code: int) -> None:
    assert ran(book, *command, amounts=SMALL).code == code


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ({"amounts": {"cpu": "100000"}}, 124, "large enough"),
        ({"amounts": SMALL, "pool": "elsewhere"}, 124, "there is no pool"),
        ({"amounts": {"cpu": "many"}}, 125, "is not a number"),
        ({"strays": "adopt"}, 125, "choose kill or keep"),
        ({"if_unavailable": "hope"}, 125, "choose fail"),
        ({"wait": "tomorrow"}, 125, "duration"),
        ({"priority": "utmost", "amounts": SMALL}, 125, "no priority"),
    ],
)
def test_what_stops_a_run_before_it_begins_has_a_code_of_its_own(
    book: Path, options: dict[str, Any], code: int, says: str
) -> None:
    run = ran(book, "sh", "-c", "echo it ran", **options)
    assert (run.code, run.out) == (code, "")
    assert says in run.err
    assert run.err.strip().count("\n") <= 1, "one line, and perhaps one on the pool"


def test_a_script_whose_interpreter_is_missing_gives_back_what_it_was_granted(
    book: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    assert ran(book, str(script), amounts=SMALL).code == 127
    assert types_in(book)[-1] == "released"


def test_a_run_without_a_command_is_a_failure_of_the_caller(book: Path) -> None:
    run = ran(book)
    assert (run.code, book.exists()) == (125, False)
    assert "no command" in run.err


def test_a_command_with_a_nul_character_is_never_started(book: Path) -> None:
    from leasebook.run.command import RunOptions, run

    assert run(book, RunOptions(), ["echo", "a\0b"]) == 125
    assert not book.exists()


def test_a_file_that_is_no_ledger_is_an_own_failure_and_not_a_refusal(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("not a ledger, but long enough to be looked at" * 20)
    assert ran(other, "true", amounts=SMALL).code == 125


# --- the pool, the amounts and the record --------------------------------------------------------


def test_the_first_run_opens_local_for_this_machine_and_says_so(book: Path) -> None:
    run = ran(book, "true")
    here = machine_capacity()
    with look(book) as manager:
        capacity = manager.pool("local")["base_units"]["capacity"]
    assert capacity["cpu"] == here.cpu_milli * 9 // 10
    assert 0 <= here.memory_bytes * 9 // 10 - capacity["memory"] < 1 << 20
    assert "opened pool local" in run.err
    assert "10 % kept free" in run.err
    assert "opened" not in ran(book, "true").err, "once is enough"


def test_runs_of_a_task_elsewhere_say_nothing_of_this_machine(book: Path) -> None:
    used = UsageRecorded(1, 3_600 * 10**9, {"cpu": 7_200_000}, {"memory": 1 << 30}, final=True)
    request = Request({"cpu": 4000, "memory": 8 << 30})
    fact = Fact(
        key="k",
        holder="ann",
        task="train",
        request=request,
        placements=(Placement("n1", request.amounts, {}),),
        began_at=1,
        ended_at=3_600 * 10**9,
        usage=used,
    )
    with look(book) as manager:
        execute = manager.ledger.writer.execute
        execute(OpenPool(command_id="far", pool="far", nodes=(), kind="observed"))
        execute(RecordFacts(command_id="", pool="far", facts=(fact,)))
    run = ran(book, "true", task="train")
    assert "a fair share" in run.err and "last runs" not in run.err


def test_without_amounts_a_run_takes_a_fair_share_and_says_how_much(book: Path) -> None:
    run = ran(book, "true")
    [granted] = events_of(book, "allocated")
    with look(book) as manager:
        capacity = manager.pool("local")["base_units"]["capacity"]
    assert isinstance(granted.body, Allocated)
    for resource, amount in granted.body.amounts.items():
        assert 0 < amount <= max(capacity[resource] // 2, 1)
    assert "a fair share" in run.err


def test_a_task_that_ran_before_is_sized_by_what_it_used(book: Path) -> None:
    burn = "import time; end = time.process_time() + 1.1\nwhile time.process_time() < end: pass"
    assert ran(book, *python(burn), amounts={"cpu": 1, "memory": "2Gi"}, task="train").code == 0
    run = ran(book, "true", task="train")
    amounts = events_of(book, "allocated")[1].body.amounts
    assert "as the last runs of train suggest" in run.err
    assert amounts["memory"] < 200 << 20, "a Python that only burns needs no more"
    assert amounts["cpu"] >= 100


def test_an_ordinary_run_costs_four_events(book: Path) -> None:
    ran(book, "true", amounts=SMALL)
    before = len(types_in(book))
    ran(book, "true", amounts=SMALL)
    kinds = types_in(book)[before:]
    assert sorted(kinds) == ["allocated", "holder_seen", "released", "usage_recorded"]
    assert kinds[0] == "allocated"
    assert kinds[-1] == "released"


def test_the_holder_is_the_run_itself_and_only_the_programs_name_is_recorded(
    book: Path, tmp_path: Path
) -> None:
    process = start(
        book,
        *("sh", "-c", "echo $PPID; : command-line-secret"),
        amounts=SMALL,
        holder="agent-7",
        env={"MY_SECRET": "environment-secret"},
    )
    pid = process.pid
    run = Ran(process)
    assert run.out.strip() == str(pid), "the command is the run's own child"
    [seen] = events_of(book, "holder_seen")
    assert isinstance(seen.body, HolderSeen)
    assert (seen.holder, seen.body.process.pid, seen.body.program) == ("agent-7", pid, "sh")
    [granted] = events_of(book, "allocated")
    assert granted.body.request.process.pid == pid
    assert granted.metadata == {"program": "sh"}
    for file in tmp_path.rglob("*"):
        if file.is_file():
            raw = file.read_bytes()
            assert b"command-line-secret" not in raw
            assert b"environment-secret" not in raw


def test_usage_is_the_whole_trees_and_is_counted_once(book: Path) -> None:
    code = """
import os, time
def burn(s):
    end = time.process_time() + s
    while time.process_time() < end: pass
held = bytearray(60 << 20)
time.sleep(2)  # looked at while it is one process: a look that meets an exit misses a part
reader, writer = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        burn(0.3); os._exit(0)
    os._exit(0)
os.close(writer)
burn(0.3); os.read(reader, 1)  # until the grandchild has burnt its own
"""
    assert ran(book, *python(code), amounts={"cpu": 1, "memory": "300Mi"}).code == 0
    [event] = events_of(book, "usage_recorded")
    usage = event.body
    assert isinstance(usage, UsageRecorded)
    assert usage.final
    assert usage.exit_code == 0
    assert 600 <= usage.used["cpu"] < 1500, "thousandths of core-seconds, both processes'"
    assert 60 << 20 <= usage.peak["memory"] < 150 << 20
    assert 0 < usage.used["memory"] <= usage.peak["memory"] * (usage.until - usage.since) / 1e9
    assert usage.basis["memory"] in ("pss", "rss", "cgroup")
    assert usage.samples > 1


def test_a_command_that_ends_before_anybody_can_look_has_no_invented_memory(book: Path) -> None:
    ran(book, "true", amounts={"cpu": "500m"})
    usage = events_of(book, "usage_recorded")[0].body
    assert usage.peak.get("memory", 1) > 0, "measured, or missing, but never 0"


# --- the summary and the receipt -----------------------------------------------------------------


def test_the_summary_names_what_was_granted_used_and_how_it_was_measured(book: Path) -> None:
    code = "import time; x = bytearray(40 << 20); time.sleep(0.3)"
    run = ran(book, *python(code), amounts=SMALL, holder="h")
    assert run.out == "", "stdout is the command's"
    assert "cpu=500m memory=300Mi of local" in run.err
    assert "exit code 0 after 0." in run.err
    assert "core-seconds" in run.err
    assert "of 300 MiB" in run.err
    assert "PSS" in run.err or "RSS" in run.err
    assert "enforced (cgroup v" in run.err or "advisory" in run.err
    assert "Next time:" in run.err


def test_quiet_leaves_stderr_to_the_command(book: Path) -> None:
    run = ran(book, "sh", "-c", "echo out; echo err >&2", quiet=True)
    assert (run.out, run.err) == ("out\n", "err\n")


def test_the_receipt_tells_a_program_the_same_without_a_token(book: Path, tmp_path: Path) -> None:
    receipt = tmp_path / "receipt.json"
    run = ran(book, "sh", "-c", "exit 3", amounts=SMALL, receipt=str(receipt), as_json=True)
    told = json.loads(receipt.read_text())
    assert told == run.account
    assert (told["outcome"], told["exit_code"], told["signal"]) == ("ran", 3, None)
    assert told["allocation"]["state"] == "ended"
    assert told["allocation"]["ended_by"] == "released"
    assert told["allocation"]["fencing_token"] is None
    assert told["recorded"] is True
    assert told["efficiency"]["allocations"] == 1
    assert 0 < told["efficiency"]["coverage"] <= 1


def test_a_refusal_leaves_a_receipt_too(book: Path, tmp_path: Path) -> None:
    receipt = tmp_path / "receipt.json"
    assert ran(book, "true", amounts={"cpu": 9999}, receipt=str(receipt)).code == 124
    told = json.loads(receipt.read_text())
    assert (told["outcome"], told["reason"]) == ("refused", "exceeds_pool")


def test_a_receipt_that_cannot_be_written_does_not_cost_the_exit_code(book: Path) -> None:
    run = ran(book, "sh", "-c", "exit 5", amounts=SMALL, receipt="/no/such/folder/receipt")
    assert run.code == 5
    assert "cannot be written" in run.err


# --- the environment -----------------------------------------------------------------------------


def test_the_command_knows_its_size_and_its_allocation_but_no_token(book: Path) -> None:
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    run = ran(
        book,
        *(sys.executable, "-S", "-c", code),
        amounts=SMALL,
        holder="me",
        env={"OMP_NUM_THREADS": "7", "LEASEBOOK_TOKEN": "17", "MAKEFLAGS": "k"},
    )
    env = json.loads(run.out)
    assert env["OMP_NUM_THREADS"] == "7", "what the user set stands"
    assert env["CARGO_BUILD_JOBS"] == env["GOMAXPROCS"] == "1"
    assert env["MAKEFLAGS"] == "k -j1"
    assert env["LEASEBOOK_LEDGER"] == str(book)
    assert env["LEASEBOOK_HOLDER"] == "me"
    [granted] = events_of(book, "allocated")
    assert env["LEASEBOOK_ALLOCATION"] == granted.allocation
    assert "LEASEBOOK_TOKEN" not in env


def test_a_port_that_was_granted_is_the_commands_port(book: Path) -> None:
    with look(book) as manager:
        manager.open_pool("ports", nodes={"3100": {"port": 1}, "3101": {"port": 1}})
    run = ran(book, "sh", "-c", "echo $PORT ${OMP_NUM_THREADS-unset}", pool="ports")
    assert run.out == "3100 unset\n"


def test_granted_cards_are_shown_and_others_hidden(book: Path) -> None:
    with look(book) as manager:
        manager.open_pool("gpus", nodes={"box": {"gpu": 4, "cpu": 8}})
        manager.allocate({"gpu": 2}, pool="gpus")
    show = ("sh", "-c", "echo ${CUDA_VISIBLE_DEVICES-unset}")
    assert ran(book, *show, pool="gpus", amounts={"gpu": 1}).out == "2\n"
    assert ran(book, *show, pool="gpus", amounts={"cpu": 1}).out == "\n"
    assert ran(book, *show, amounts=SMALL).out == "unset\n", "no cards, nothing to hide"


def test_cards_that_the_user_chose_stand_and_the_difference_is_said(book: Path) -> None:
    with look(book) as manager:
        manager.open_pool("gpus", nodes={"box": {"gpu": 2}})
    run = ran(
        book,
        *("sh", "-c", "echo $CUDA_VISIBLE_DEVICES"),
        pool="gpus",
        amounts={"gpu": 1},
        env={"CUDA_VISIBLE_DEVICES": "1"},
    )
    assert run.out == "1\n"
    assert "CUDA_VISIBLE_DEVICES=1 was set before" in run.err


# --- runs inside runs ----------------------------------------------------------------------------


def nested(book: Path, options: dict[str, Any], *command: str) -> tuple[str, ...]:
    from tests.integration.run_commands import words

    return tuple(words(book, {"quiet": True, **options}, *command))


def test_a_run_inside_a_run_draws_on_its_parent(book: Path) -> None:
    inner = nested(book, {"amounts": {"cpu": 1}}, "sh", "-c", "echo $OMP_NUM_THREADS")
    with look(book) as manager:
        manager.open_pool("local", capacity={"cpu": 2, "memory": "1Gi"})
    run = ran(book, *inner, amounts={"cpu": 2}, task="t", holder="outer")
    assert (run.code, run.out) == (0, "1\n"), "smaller than the 2 that its parent was told"
    outer, child = events_of(book, "allocated")
    assert child.body.request.parent == outer.allocation
    assert (child.holder, child.task, child.pool) == ("outer", "t", "local")
    with look(book) as manager:
        row = manager.story(outer.allocation)
        assert row.allocation is not None
        assert row.allocation.ended_by == "released"


def test_a_run_inside_a_run_cannot_take_more_than_its_parent_has(book: Path) -> None:
    inner = nested(book, {"amounts": {"cpu": 1}}, "true")
    run = ran(book, *inner, amounts={"cpu": "500m"})
    assert run.code == 124


def test_a_run_whose_parent_has_ended_or_is_in_another_ledger_stands_for_itself(
    book: Path, tmp_path: Path
) -> None:
    ran(book, "true", amounts=SMALL)
    [first] = events_of(book, "allocated")
    for named, ledger in ((first.allocation, book), ("A1", book), ("A3", tmp_path / "other.db")):
        env = {"LEASEBOOK_ALLOCATION": named, "LEASEBOOK_LEDGER": str(ledger)}
        assert ran(book, "true", amounts=SMALL, env=env).code == 0
    assert [e.body.request.parent for e in events_of(book, "allocated")] == [None] * 4


# --- limits --------------------------------------------------------------------------------------


def test_a_memory_limit_is_enforced_and_the_kill_is_explained(book: Path) -> None:
    greedy = "x = bytearray(400 << 20); print('had it')"
    run = ran(book, *python(greedy), amounts={"cpu": 1, "memory": "64Mi"}, as_json=True)
    account = run.account
    if "memory" not in account["enforced"]:
        assert run.code == 0, "advisory limits end nobody"
        assert account["advisory"]["memory"]
        pytest.skip(f"no limit can be enforced here: {account['advisory']['memory']}")
    assert (run.code, run.out) == (137, "")
    assert account["oom_kills"] == 1
    assert account["efficiency"]["peak_efficiency"]["memory"] == pytest.approx(1, abs=0.1)
    assert account["suggestion"]["memory"] == "96Mi", "half as much again"


def test_a_cpu_limit_is_enforced(book: Path) -> None:
    burn = "import time\nend = time.time() + 1\nwhile time.time() < end: pass"
    run = ran(book, *python(burn), amounts={"cpu": "200m"}, as_json=True)
    if "cpu" not in run.account["enforced"]:
        pytest.skip("no limit can be enforced here")
    assert run.account["efficiency"]["used_seconds"]["cpu"] < 600


def test_no_control_group_is_left_behind(book: Path) -> None:
    process = start(book, "cat", "/proc/self/cgroup", amounts=SMALL)
    name = f"leasebook-A3-{process.pid}"
    run = Ran(process)
    assert name in run.out or "advisory" in run.err
    assert not list(Path("/sys/fs/cgroup").rglob(name))


# --- strays --------------------------------------------------------------------------------------

STRAY = "sleep 60 >/dev/null 2>&1 & echo $!"


def test_processes_that_outlive_the_command_are_ended(book: Path) -> None:
    run = ran(book, "sh", "-c", STRAY, amounts=SMALL)
    assert run.code == 0
    assert not Path(f"/proc/{run.out.strip()}").exists()
    assert "1 process outlived the command and was ended" in run.err


def test_a_daemon_that_left_the_session_is_ended_too(book: Path) -> None:
    code = """
import os, time
r, w = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(w, str(os.getpid()).encode())
        for fd in (0, 1, 2): os.close(fd)
        time.sleep(60)
    os._exit(0)
os.wait(); print(os.read(r, 20).decode(), flush=True)
"""
    run = ran(book, *python(code), amounts=SMALL)
    assert not Path(f"/proc/{run.out.strip()}").exists()


def test_strays_may_be_kept_and_are_then_said_to_be_unmanaged(book: Path) -> None:
    run = ran(book, "sh", "-c", STRAY, amounts=SMALL, strays="keep")
    pid = int(run.out)
    try:
        os.kill(pid, 0)
        assert "still running without an allocation" in run.err
        assert types_in(book)[-1] == "released"
    finally:
        os.kill(pid, signal.SIGKILL)


# --- unavailable ledgers -------------------------------------------------------------------------


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A ledger in a folder that is a file."""
    (tmp_path / "folder").write_text("")
    return tmp_path / "folder" / "ledger.db"


def test_a_ledger_that_cannot_be_used_fails_the_run(blocked: Path) -> None:
    run = ran(blocked, "sh", "-c", "echo it ran")
    assert (run.code, run.out) == (125, "")


def test_proceeding_runs_unrecorded_and_the_next_run_records_it(
    blocked: Path, tmp_path: Path
) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    run = ran(
        blocked,
        *("sh", "-c", "exit 9; : secret-word"),
        if_unavailable="proceed",
        holder="agent",
        task="build",
        env=env,
    )
    assert run.code == 9
    assert "without an allocation" in run.err
    spool = tmp_path / "state" / "leasebook" / "spool.jsonl"
    assert stat.S_IMODE(spool.stat().st_mode) == 0o600
    assert "secret-word" not in spool.read_text()
    blocked.parent.unlink()
    blocked.parent.mkdir()
    again = ran(blocked, "true", amounts=SMALL, env=env)
    assert again.code == 0
    assert "recorded 1 spooled" in again.err
    assert not spool.exists()
    [raised] = events_of(blocked, "alert_raised")
    facts = raised.body.details
    assert (facts["program"], facts["exit_code"], facts["task"]) == ("sh", 9, "build")
    assert facts["used"]["cpu"] >= 0
    assert facts["ended_at"] > facts["started_at"]
    assert len(events_of(blocked, "alert_cleared")) == 1
    assert "spooled" not in ran(blocked, "true", amounts=SMALL, env=env).err


def test_proceeding_without_capacity_records_the_refusal_all_the_same(book: Path) -> None:
    with look(book) as manager:
        manager.open_pool("local", capacity={"cpu": 1})
        manager.allocate({"cpu": 1}, pool="local", holder="first")
    options: dict[str, Any] = {"amounts": {"cpu": 1}, "wait": 0}
    assert ran(book, "true", **options).code == 124
    run = ran(book, "sh", "-c", "echo ran ${LEASEBOOK_ALLOCATION-free}", **options,
              if_unavailable="proceed")  # fmt: skip
    assert (run.code, run.out) == (0, "ran free\n")
    assert types_in(book).count("refused") >= 1
    assert types_in(book).count("allocated") == 1


def test_a_rule_is_not_gone_past_by_proceeding(book: Path) -> None:
    with look(book) as manager:
        manager.open_pool("local", capacity={"cpu": 1})
        manager.set_quota({"cpu": "100m"})
    run = ran(book, "true", amounts={"cpu": 1}, if_unavailable="proceed", wait=0)
    assert run.code == 124


def test_waiting_for_a_ledger_goes_on_once_it_can_be_used(blocked: Path) -> None:
    process = start(blocked, "true", amounts=SMALL, if_unavailable="wait")
    assert process.stderr is not None
    assert "waiting for the ledger" in process.stderr.readline()
    blocked.parent.unlink()
    blocked.parent.mkdir()
    assert Ran(process).code == 0
    assert types_in(blocked)[-1] == "released"


def test_waiting_for_a_ledger_has_an_end(blocked: Path) -> None:
    assert ran(blocked, "true", if_unavailable="wait", wait="100ms").code == 125
