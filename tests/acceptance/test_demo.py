"""The demo for real: its processes are started, killed and waited for, and the ledger is asked."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import leasebook
from leasebook import demo
from leasebook.demo import fleet, telling, workers
from leasebook.manager import ResourceManager
from ledger.events import (
    Allocated,
    Event,
    Expired,
    HolderSeen,
    PoolOpened,
    Queued,
    Reclaimed,
    Refused,
    UsageRecorded,
)
from ledger.identity import ProcessIdentity
from scheduler.processes.liveness import Liveness, observe

ROOT = Path(__file__).resolve().parents[2]
HOLDERS = {"packer", "squatter", "greedy", "patient", "victim", "forgetful", "heir"}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "leasebook", *words]


def surroundings() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words),
        cwd=cwd,
        env=surroundings(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )


@dataclass
class Played:
    """Two quick demos, one after the other on one ledger: one in words, one in JSON."""

    path: Path
    words: subprocess.CompletedProcess[str]
    json: subprocess.CompletedProcess[str]
    events: list[Event]

    def of(self, holder: str, kind: str, pool: str = "demo") -> list[Event]:
        return [
            event
            for event in self.events
            if (event.holder, event.type, event.pool) == (holder, kind, pool)
        ]

    def one(self, holder: str, kind: str, pool: str = "demo") -> Event:
        found = self.of(holder, kind, pool)
        assert len(found) == 1, (holder, kind, [event.position for event in found])
        return found[0]

    def document(self) -> dict[str, Any]:
        return json.loads(self.json.stdout)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("demo")
    path = folder / "ledger.db"
    first = run("demo", "--quick", "--ledger", "ledger.db", cwd=folder)
    second = run("demo", "--quick", "--json", "--ledger", str(path), cwd=folder)
    assert first.returncode == 0, first.stdout + first.stderr
    assert second.returncode == 0, second.stdout + second.stderr
    with leasebook.open(path, read_only=True) as manager:
        events = list(manager.events())
    return Played(path, first, second, events)


def process_of(played: Played, holder: str, pool: str = "demo") -> ProcessIdentity:
    body = played.one(holder, "allocated", pool).body
    assert isinstance(body, Allocated)
    assert body.request.process is not None
    return body.request.process


def test_both_demos_on_one_ledger_prove_it_whole_and_leave_nothing_held(played: Played) -> None:
    assert "Verify passed" in played.words.stdout
    assert played.words.stderr == ""
    assert played.document()["verify"]["ok"] is True
    with leasebook.open(played.path, read_only=True) as manager:
        assert manager.verify().ok
        assert manager.list() == []
        pools = {pool["name"]: pool for pool in manager.pools()}
    assert list(pools) == ["demo", "demo-2"]
    for pool in pools.values():
        assert pool["closed"]
        assert set(pool["base_units"]["in_use"].values()) == {0}


def test_the_pool_is_this_machine_with_a_tenth_kept_free(played: Played) -> None:
    from scheduler.processes.cgroup import machine_capacity

    opened = next(event.body for event in played.events if event.type == "pool_opened")
    assert isinstance(opened, PoolOpened)
    here = machine_capacity()
    assert opened.nodes[0].capacity["cpu"] == here.cpu_milli * 9 // 10
    assert 0 <= here.memory_bytes * 9 // 10 - opened.nodes[0].capacity["memory"] < 1 << 20
    assert here.cpu_basis in opened.basis


@pytest.mark.parametrize("pool", ["demo", "demo-2"])
def test_one_killed_while_it_holds_is_taken_back_with_what_was_seen(
    played: Played, pool: str
) -> None:
    process = process_of(played, "victim", pool)
    body = played.one("victim", "reclaimed", pool).body
    assert isinstance(body, Reclaimed)
    assert body.cause == "crashed"
    assert body.evidence["pid"] == process.pid
    assert body.evidence["start_time"] == process.start_time
    assert body.evidence["boot_id"] == process.boot_id
    assert (body.evidence["host"], body.evidence["liveness"]) == (process.host, "dead")
    usages = [event.body for event in played.of("victim", "usage_recorded", pool)]
    assert usages
    assert not any(isinstance(usage, UsageRecorded) and usage.final for usage in usages)
    assert f"kill -9 {process.pid}" in played.words.stdout + played.json.stderr


@pytest.mark.parametrize("pool", ["demo", "demo-2"])
def test_one_that_exits_without_releasing_is_taken_back(played: Played, pool: str) -> None:
    assert played.of("forgetful", "released", pool) == []
    body = played.one("forgetful", "reclaimed", pool).body
    assert isinstance(body, Reclaimed)
    assert body.evidence["pid"] == process_of(played, "forgetful", pool).pid
    last = played.of("forgetful", "usage_recorded", pool)[-1].body
    assert isinstance(last, UsageRecorded)
    assert last.final


@pytest.mark.parametrize("pool", ["demo", "demo-2"])
def test_one_that_outstays_its_lease_runs_on_and_is_refused_a_renewal(
    played: Played, pool: str
) -> None:
    expired = played.one("squatter", "expired", pool)
    assert isinstance(expired.body, Expired)
    assert expired.at == expired.body.lease_until
    last = played.of("squatter", "usage_recorded", pool)[-1].body
    assert isinstance(last, UsageRecorded)
    assert last.until > expired.body.lease_until
    refused = played.one("squatter", "refused", pool)
    assert isinstance(refused.body, Refused)
    assert (refused.body.verb, refused.body.reason) == ("renew", "already_ended")
    assert refused.allocation == expired.allocation
    assert refused.position > expired.position


@pytest.mark.parametrize("pool", ["demo", "demo-2"])
def test_one_that_will_not_wait_is_refused_with_who_is_in_the_way(
    played: Played, pool: str
) -> None:
    body = played.one("greedy", "refused", pool).body
    assert isinstance(body, Refused)
    assert body.reason == "insufficient_capacity"
    assert all(short["cpu"] > 0 for short in body.shortfall.values())
    assert {blocker["holder"] for blocker in body.blockers} == {"packer", "squatter"}
    assert played.of("greedy", "allocated", pool) == []


@pytest.mark.parametrize("pool", ["demo", "demo-2"])
@pytest.mark.parametrize(
    ("waiter", "ender", "how"), [("patient", "packer", "released"), ("heir", None, "reclaimed")]
)
def test_those_that_wait_get_in_the_commit_in_which_room_is_made(
    played: Played, pool: str, waiter: str, ender: str | None, how: str
) -> None:
    queued = played.one(waiter, "queued", pool)
    granted = played.one(waiter, "allocated", pool)
    assert isinstance(queued.body, Queued)
    assert granted.allocation == queued.allocation
    ends = [e for e in played.events if e.recorded_at == granted.recorded_at and e.type == how]
    assert len(ends) == 1
    assert ends[0].position < granted.position
    assert ends[0].holder in ({ender} if ender else {"victim", "forgetful"})


def test_no_more_is_ever_held_than_there_is(played: Played) -> None:
    capacity: dict[str, int] = {}
    held: dict[str | None, dict[str, int]] = {}
    for event in played.events:
        if isinstance(event.body, PoolOpened):
            capacity = dict(event.body.nodes[0].capacity)
        elif isinstance(event.body, Allocated):
            held[event.allocation] = dict(event.body.amounts)
        elif event.type in ("released", "expired", "reclaimed"):
            del held[event.allocation]
        for resource, most in capacity.items():
            assert sum(amounts.get(resource, 0) for amounts in held.values()) <= most
    assert held == {}


def test_every_member_was_a_process_of_its_own_and_none_is_left(played: Played) -> None:
    seen = [(e.holder, e.body.process) for e in played.events if isinstance(e.body, HolderSeen)]
    assert sorted(holder or "" for holder, _ in seen) == sorted([*HOLDERS, *HOLDERS])
    assert len({process.pid for _, process in seen}) == 2 * len(HOLDERS)
    assert {observe(process).liveness for _, process in seen} == {Liveness.DEAD}


def test_what_is_told_is_what_the_log_says(played: Played) -> None:
    document = played.document()
    ended = {row["holder"]: row["ended_by"] for row in document["allocations"]}
    assert ended == {
        "packer": "released",
        "squatter": "expired",
        "patient": "released",
        "victim": "crashed",
        "forgetful": "crashed",
        "heir": "released",
    }
    for row in document["efficiency"]:
        holder = row["task"].rpartition("-")[2]
        bodies = [event.body for event in played.of(holder, "usage_recorded", "demo-2")]
        used = sum(b.used.get("cpu", 0) for b in bodies if isinstance(b, UsageRecorded))
        assert row["used_seconds"].get("cpu", 0) == used
        # On a machine that is far too busy every sample can be late, and late is not measured.
        assert 0 <= row["coverage"] <= 1
        assert row["peak_base_units"]["memory"] > 0
    assert {row["holder"] for row in document["taken_back"]} == {"squatter", "victim", "forgetful"}
    assert {row["holder"] for row in document["refused"]} == {"greedy", "squatter"}
    after = {row["holder"]: row["granted_after"] for row in document["allocations"]}
    assert (after["packer"], after["squatter"]) == (None, None)
    assert (after["patient"]["holder"], after["patient"]["type"]) == ("packer", "released")


def test_a_person_is_told_who_held_what_and_why_it_was_taken_back(played: Played) -> None:
    told = played.words.stdout
    for head in ("Who held what", "Measured efficiency per task", "Taken back, and why", "Refused"):
        assert f"\n{head}\n" in told
    for holder in HOLDERS - {"greedy"}:
        assert re.search(rf"^  {holder} +A\d+ ", told, re.MULTILINE)
    for holder in ("victim", "forgetful"):
        assert f"pid {process_of(played, holder).pid}" in told.partition("Taken back")[2]
    assert f"\n  {played.path}\n" in told


def test_the_three_commands_work_when_they_are_pasted(played: Played, tmp_path: Path) -> None:
    pasted = played.words.stdout.partition("To look around\n")[2].splitlines()
    assert len(pasted) == 3
    for line in pasted:
        done = subprocess.run(
            ["bash", "-euc", line], cwd=tmp_path, env=surroundings(), capture_output=True, text=True
        )
        assert done.returncode == 0, line + done.stderr
        assert done.stdout
    assert played.document()["commands"] != pasted


def started(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """A full demo on its default ledger, in which somebody holds and somebody waits already."""
    path = folder / "leasebook" / "demo.db"
    process = subprocess.Popen(
        command("demo"),
        env={**surroundings(), "XDG_STATE_HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if " forgetful " in line and "waits" in line:
            break
    return process, path


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_sees_its_processes_home_and_gives_back(
    tmp_path: Path, sent: signal.Signals
) -> None:
    process, path = started(tmp_path)
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + sent
    assert len(said.strip().splitlines()) == (1 if sent == signal.SIGINT else 0)
    with leasebook.open(path, read_only=True) as manager:
        events = list(manager.events())
        assert manager.list() == []
        assert manager.pool("demo")["closed"]
        assert manager.verify().ok
    seen = [event.body.process for event in events if isinstance(event.body, HolderSeen)]
    assert len(seen) == len(HOLDERS)
    assert {observe(process).liveness for process in seen} == {Liveness.DEAD}


def test_a_file_that_is_no_ledger_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("nothing of the kind")
    done = run("demo", "--quick", "--ledger", str(path), cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert path.read_text() == "nothing of the kind"


# --- when things go as no script says ------------------------------------------------------------


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ResourceManager]:
    with leasebook.open(tmp_path / "ledger.db") as manager:
        manager.open_pool("demo", capacity={"cpu": 1, "memory": "1GiB"})
        yield manager


def a_job(manager: ResourceManager, **options: Any) -> workers.Job:
    settings: dict[str, Any] = {
        "ledger": str(manager.ledger.path),
        "pool": "demo",
        "holder": "packer",
        "work": "sort",
        "cpu": 500,
        "memory": 1 << 26,
        "size": 1 << 20,
        "work_s": 0.1,
        "usage_every_s": 0.1,
    }
    return workers.Job(**{**settings, **options})


def test_a_member_that_ends_otherwise_than_its_part_says_fails_the_demo_in_one_line(
    manager: ResourceManager,
) -> None:
    quiet = telling.Telling(io.StringIO())
    with (
        pytest.raises(fleet.DemoFailed, match=r"packer .* ended with 3: .*no pool 'other'"),
        fleet.Fleet(manager, "demo", 0, quiet) as played,
    ):
        played.members["packer"] = fleet.Member(a_job(manager, pool="other"), workers.DONE)
        played.tell("packer")
        played.until("allocated", "packer")


def test_what_never_comes_is_given_up_and_nobody_is_left(
    manager: ResourceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "GIVE_UP_S", 0.0)
    said = io.StringIO()
    with (
        pytest.raises(fleet.DemoFailed, match="no allocated of packer"),
        fleet.Fleet(manager, "demo", 0, telling.Telling(said)) as played,
    ):
        member = played.members["packer"] = fleet.Member(a_job(manager), workers.DONE)
        played.until("allocated", "packer")
    assert not Path(f"/proc/{member.pid}").exists()
    assert "pool closed" in said.getvalue()


def test_what_somebody_else_left_in_the_pool_is_taken_back_at_the_end(
    manager: ResourceManager,
) -> None:
    left = manager.allocate({"cpu": 1}, pool="demo", holder="guest")
    with fleet.Fleet(manager, "demo", 0, telling.Telling(io.StringIO())) as played:
        played._telling.still(manager, "demo")
    assert left.get().ended_by == "forced"


def test_a_member_whose_starter_is_gone_gives_back_and_goes(manager: ResourceManager) -> None:
    read, write = os.pipe()
    os.write(write, b"\n")
    os.close(write)
    told = workers.Told(read)
    job = a_job(manager, work_s=60.0, until_told=True, leave=workers.FORGETS)
    assert workers.live(manager, job, told) == workers.DONE
    os.close(read)
    assert [event.type for event in manager.events(holder="packer")][-1] == "released"


def test_a_member_that_nobody_lets_ask_asks_for_nothing(manager: ResourceManager) -> None:
    with open(os.devnull, "rb") as nobody:
        assert workers.live(manager, a_job(manager), workers.Told(nobody.fileno())) == workers.DONE
    assert {event.type for event in manager.events(holder="packer")} == {"holder_seen"}


@pytest.mark.parametrize("work", sorted(workers.WORK))
def test_every_kind_of_work_goes_on_for_as_long_as_it_is_asked(work: str) -> None:
    steps = workers.WORK[work](1 << 20, 2)
    for _ in range(12):
        next(steps)


def test_a_ledger_that_is_not_there_is_one_line_of_a_member(
    manager: ResourceManager, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEASEBOOK_HOLDER", "nobody")
        job = a_job(manager, ledger=str(tmp_path / "missing.db"))
        assert workers.main([job.to_text()]) == workers.FAILED
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("cpu_milli", [90, 450, 900, 1801, 57_600])
def test_the_parts_fit_as_the_script_says_in_a_pool_of_any_size(
    tmp_path: Path, cpu_milli: int
) -> None:
    capacity = {"cpu": cpu_milli, "memory": 460 << 20}
    cpu = {job.holder: job.cpu for job in fleet.jobs(tmp_path, "demo", capacity, quick=True)}
    free = cpu_milli - cpu["packer"] - cpu["squatter"]
    assert free < cpu["greedy"]
    assert free + cpu["squatter"] < cpu["patient"]
    assert cpu["patient"] + cpu["victim"] + cpu["forgetful"] <= cpu_milli
    rest = cpu_milli - cpu["patient"] - cpu["victim"] - cpu["forgetful"]
    assert rest + max(cpu["victim"], cpu["forgetful"]) < cpu["heir"]


def test_the_program_is_named_as_a_shell_would_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", os.defpath)
    assert telling.program() == [str(folder / "python"), "-m", "leasebook"]
    script = folder / "leasebook"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert telling.program() == [str(script)]
    monkeypatch.setenv("PATH", str(folder))
    assert shutil.which("leasebook") == str(script)
    assert telling.program() == ["leasebook"]


def test_what_was_taken_back_without_a_process_is_told_with_its_reason(
    manager: ResourceManager,
) -> None:
    taken = manager.allocate({"cpu": 1}, pool="demo", holder="guest")
    manager.reclaim(taken.id, reason="for the test")
    body = next(event.body for event in manager.events(type="reclaimed"))
    assert isinstance(body, Reclaimed)
    assert telling.evidence_text(body) == "for the test"


def test_a_pool_that_another_demo_opened_first_is_left_to_it(
    manager: ResourceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_pool = manager.open_pool

    def too_late(name: str, **options: Any) -> Any:
        if name == "demo-2":
            open_pool(name, capacity={"cpu": 1})
        return open_pool(name, **options)

    monkeypatch.setattr(manager, "open_pool", too_late)
    assert demo._open_pool(manager) == "demo-3"


def test_a_ledger_full_of_demos_is_a_clear_error(
    manager: ResourceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "POOLS_MAX", 1)
    with pytest.raises(leasebook.LimitExceeded, match="1 pools of the demo") as caught:
        demo._open_pool(manager)
    assert "--ledger" in caught.value.hint


def test_a_refused_pool_is_not_tried_under_another_name(
    manager: ResourceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, **_: Any) -> Any:
        raise leasebook.Refused("no", reason=leasebook.Reason.FORBIDDEN)

    monkeypatch.setattr(manager, "open_pool", refuse)
    with pytest.raises(leasebook.Refused):
        demo._open_pool(manager)


def test_in_a_thread_that_takes_no_signals_it_leaves_them_alone(manager: ResourceManager) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    def play() -> None:
        with (
            demo._ending_on_term(),
            fleet.Fleet(manager, "demo", 0, telling.Telling(io.StringIO())),
        ):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=play)
    thread.start()
    thread.join()
    assert seen == [before]
    assert manager.pool("demo")["closed"]
