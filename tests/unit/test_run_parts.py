"""The parts of a run by themselves: signals, giving back, the terminal, the guardian, the words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import leasebook
from leasebook import ResourceManager
from leasebook.run import executing, holding, starting
from leasebook.run.guardian import Guardian
from leasebook.run.holding import Hold, Keeper, Loss, settle
from leasebook.run.measuring import Meter, running_clock
from leasebook.run.options import RunOptions
from leasebook.run.signals import Signals
from leasebook.run.starting import Limits
from leasebook.run.summary import Account, Speaker, write_receipt
from leasebook.run.watching import Outcome, Watch
from ledger.errors import LedgerCorrupt, LedgerUnavailable, LimitExceeded, Refused
from ledger.events import UsageRecorded
from reports.efficiency import Efficiency
from scheduler.processes.enclosure import Enclosure, EnclosureUnavailable
from tests.integration.processes_children import eventually

# --- signals -------------------------------------------------------------------------------------


def test_signals_are_listed_in_order_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        found: list[int] = []
        while len(found) < 2:
            found += signals.wait(5)
        assert found == [signal.SIGUSR1, signal.SIGTERM]
        assert signals.wait(0) == []
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_thread_can_wake_the_loop() -> None:
    with Signals() as signals:
        threading.Timer(0.05, signals.wake).start()
        assert signals.wait(30) == []


def test_who_asked_to_end_stays_known_until_it_is_taken() -> None:
    with Signals() as signals:
        assert signals.asked_to_end() is None
        os.kill(os.getpid(), signal.SIGCONT)
        os.kill(os.getpid(), signal.SIGHUP)
        while signals.asked_to_end() is None:
            pass
        assert signals.asked_to_end() == signal.SIGHUP
        signals.drop(signal.SIGHUP)
        assert signals.asked_to_end() is None


def test_insisting_before_the_command_runs_interrupts_at_once() -> None:
    with Signals() as signals, pytest.raises(KeyboardInterrupt):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            while signals.asked_to_end() is None:
                pass


def test_what_is_ignored_is_not_taken() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            assert signal.SIGHUP not in signals.taken
            assert signal.SIGCHLD in signals.taken
    finally:
        signal.signal(signal.SIGHUP, before)


# --- giving back ---------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "_PAUSES_S", (0.001, 0.001))


def usage(since: int) -> UsageRecorded:
    return UsageRecorded(since, since + 1, {"cpu": 1}, {}, {}, 1)


def held(manager: ResourceManager) -> Hold:
    manager.open_pool("p", capacity={"cpu": 4})
    handle = manager.allocate({"cpu": 1}, pool="p", holder="h")
    allocation = manager.ledger.writer.present(handle.id)
    assert allocation is not None
    return Hold(manager, allocation, "default", "")


class Failing:
    """A writer's ``execute`` that fails some times and then works."""

    def __init__(self, manager: ResourceManager, times: int, error: Exception) -> None:
        self.real = manager.ledger.writer.execute
        self.times = times
        self.error = error

    def __call__(self, command: Any) -> Any:
        if self.times:
            self.times -= 1
            raise self.error
        return self.real(command)


def test_a_ledger_that_fails_for_a_moment_gets_all_of_it(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with leasebook.open(":memory:") as manager:
        hold = held(manager)
        failing = Failing(manager, 2, LedgerUnavailable("busy"))
        monkeypatch.setattr(manager.ledger.writer, "execute", failing)
        assert settle(hold, [usage(1), usage(2)]) is None
        kinds = [event.type for event in manager.events()]
    assert kinds[-3:] == ["usage_recorded", "usage_recorded", "released"]


@pytest.mark.parametrize("error", [LedgerUnavailable("gone"), LedgerCorrupt("torn")])
def test_what_a_ledger_never_takes_is_handed_back(
    quick: None, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with leasebook.open(":memory:") as manager:
        hold = held(manager)
        with monkeypatch.context() as patch:
            patch.setattr(manager.ledger.writer, "execute", Failing(manager, 99, error))
            left = settle(hold, [usage(1)])
        assert left is not None
        assert left.usages == [usage(1)]
        assert left.error is error


def test_what_was_taken_back_meanwhile_is_not_an_error(quick: None) -> None:
    with leasebook.open(":memory:") as manager:
        hold = held(manager)
        manager.reclaim(hold.id, reason="test")
        lost = hold.loss()
        assert isinstance(lost, Loss)
        assert settle(hold, [usage(1)]) is None
        assert len(list(manager.events(type="usage_recorded"))) == 1


def test_holding_is_not_losing() -> None:
    with leasebook.open(":memory:") as manager:
        hold = held(manager)
        assert hold.loss() is None
        hold.release()
        assert hold.loss() is not None
        with pytest.raises(Refused):
            manager.release(hold.id, holder="h")


# --- an end that the ledger does not take --------------------------------------------------------


def test_an_end_that_cannot_be_recorded_is_spooled_and_the_code_comes_through(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from leasebook.run.command import run
    from leasebook.run.spool import record_spooled, spool_path

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = tmp_path / "l.db"
    real = Hold.release

    def fail(self: Hold) -> None:
        raise LedgerUnavailable("the disk is full")

    options = RunOptions(amounts={"cpu": "100m"}, strays="keep")
    with monkeypatch.context() as patch:
        patch.setattr(Hold, "release", fail)
        assert run(path, options, ["sh", "-c", "exit 11"]) == 11
    said = capsys.readouterr().err
    assert "could not be recorded: the disk is full; spooled" in said
    assert spool_path().exists()
    assert Hold.release is real
    with leasebook.open(path) as manager:
        assert len(manager.list(state="active")) == 1
        assert record_spooled(manager) == 1
        assert manager.list() == []


def test_a_spool_that_is_full_is_said_too(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from leasebook.run.command import run

    def full(entry: object) -> None:
        raise LimitExceeded("the spool takes no more")

    monkeypatch.setattr(executing.spool, "add", full)
    (tmp_path / "file").write_text("")
    options = RunOptions(if_unavailable="proceed", quiet=True)
    assert run(tmp_path / "file" / "l.db", options, ["true"]) == 0
    assert "the spool takes no more" in capsys.readouterr().err


def test_a_ledger_in_memory_runs_a_command_too() -> None:
    from leasebook.run.command import run

    kept: list[ResourceManager] = []

    def opener() -> ResourceManager:
        kept.append(leasebook.open(":memory:"))
        return kept[0]

    assert run(opener, RunOptions(amounts={"cpu": "100m"}, quiet=True), ["sh", "-c", "exit 2"]) == 2
    assert [e.type for e in kept[0].events()][-1] == "released"


def test_a_run_that_is_asked_to_end_before_it_starts_holds_nothing(tmp_path: Path) -> None:
    from leasebook.run.command import run

    def opener() -> ResourceManager:
        os.kill(os.getpid(), signal.SIGTERM)
        return leasebook.open(tmp_path / "l.db")

    options = RunOptions(amounts={"cpu": "100m"}, quiet=True)
    assert run(opener, options, ["touch", str(tmp_path / "ran")]) == 128 + 15
    assert not (tmp_path / "ran").exists()
    with leasebook.open(tmp_path / "l.db") as manager:
        assert manager.list() == []


def test_a_command_that_cannot_be_watched_is_ended_and_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from leasebook.run.command import run

    def broken(self: Watch) -> Outcome:
        raise LedgerUnavailable("out of descriptors")

    monkeypatch.setattr(Watch, "run", broken)
    options = RunOptions(amounts={"cpu": "100m"}, quiet=True)
    command = ["sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 60"]
    assert run(tmp_path / "l.db", options, command) == 125
    with leasebook.open(tmp_path / "l.db") as manager:
        assert manager.list() == []
        assert [e.type for e in manager.events()][-1] == "released"
    pid = tmp_path / "pid"
    # It may have been ended before it could say who it was.
    said = pid.read_text().strip() if pid.exists() else ""
    assert not said or not Path(f"/proc/{said}").exists()


def test_figures_come_from_memory_where_the_record_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from leasebook.run.command import run

    def fail(self: object, allocation: str) -> None:
        raise LedgerUnavailable("no more")

    monkeypatch.setattr("ledger.sqlite_log.SqliteLog.rows_of_allocation", fail)
    options = RunOptions(amounts={"cpu": "100m"})
    assert run(tmp_path / "l.db", options, ["true"]) == 0
    assert "core-seconds" in capsys.readouterr().err


def test_without_a_guardian_a_run_runs_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from leasebook.run.command import run

    def full() -> int:
        raise BlockingIOError(11, "no more processes")

    options = RunOptions(amounts={"cpu": "100m"}, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", full)
        assert Guardian.start() is None
    monkeypatch.setattr(Guardian, "start", lambda: None)
    assert run(tmp_path / "l.db", options, ["sh", "-c", "exit 12"]) == 12


def test_a_command_that_cannot_be_enclosed_runs_and_its_limits_are_advisory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from leasebook.run.command import run

    def refuse(self: Enclosure) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(Enclosure, "join", refuse)
    options = RunOptions(amounts={"cpu": "100m", "memory": "64Mi"})
    assert run(tmp_path / "l.db", options, ["sh", "-c", "exit 13"]) == 13
    assert "advisory: " in capsys.readouterr().err


def test_where_there_are_no_control_groups_the_reason_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(*_: object) -> Enclosure:
        raise EnclosureUnavailable("no control groups are mounted here")

    monkeypatch.setattr(Enclosure, "create", none)
    made, limits = starting.enclose("A1", {"cpu": 1000, "memory": 1, "port": 1})
    assert made is None
    assert limits.advisory == dict.fromkeys(("cpu", "memory"), "no control groups are mounted here")
    assert starting.enclose("A1", {"port": 1}) == (None, Limits(frozenset(), {}))


# --- while it runs -------------------------------------------------------------------------------


def test_a_keeper_records_what_comes_and_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "LOOK_EVERY_S", 0.01)
    with leasebook.open(":memory:") as manager:
        hold = held(manager)
        failing = Failing(manager, 3, LedgerUnavailable("busy"))
        monkeypatch.setattr(manager.ledger.writer, "execute", failing)
        keeper = Keeper(hold, lambda: None, "make")
        keeper.record(usage(1))
        keeper.record(usage(2))
        assert eventually(lambda: len(keeper._recorded) == 2)
        assert keeper.stop() == {1, 2}
        assert keeper.stop() == {1, 2}
        kinds = [event.type for event in manager.events()]
        assert kinds.count("usage_recorded") == 2
        assert kinds.count("holder_seen") == 1
        assert keeper.loss is None


def test_a_keeper_wakes_the_loop_when_the_allocation_is_lost() -> None:
    with leasebook.open(":memory:") as manager:
        hold = held(manager)
        woken = threading.Event()
        keeper = Keeper(hold, woken.set, "make")
        manager.reclaim(hold.id, reason="needed elsewhere", by="operator")
        assert woken.wait(20)
        assert keeper.loss is not None
        assert "needed elsewhere" in keeper.loss.why
        keeper.stop()


def test_a_minute_is_one_aggregate_and_a_look_that_fails_is_a_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from scheduler.processes.identity import identify

    now = [1_000_000_000_000]
    with subprocess.Popen(["sleep", "60"]) as process:
        meter = Meter(identify(process.pid), None, lambda: now[0])
        assert meter.sample() is None
        now[0] += 61_000_000_000
        minute = meter.sample()
        assert minute is not None
        assert (minute.final, minute.until - minute.since) == (False, 61_000_000_000)
        assert minute.gaps_ns == 61_000_000_000, "nobody looked for a minute"
        assert minute.peak["memory"] > 0
        with monkeypatch.context() as patch:
            patch.setattr(Meter, "_look", lambda self: (_ for _ in ()).throw(OSError(24, "full")))
            now[0] += 30_000_000_000
            assert meter.sample() is None
        process.kill()
        process.wait()
        now[0] += 1_000_000_000
        last = meter.finish(137)
        assert (last.final, last.exit_code, last.since) == (True, 137, minute.until)
        assert "memory" not in last.peak, "there was nothing left to look at"
        assert meter.closed == [minute, last]


# --- the guardian --------------------------------------------------------------------------------


def test_a_guardian_that_is_dismissed_ends_nobody() -> None:
    from scheduler.processes.identity import identify

    with subprocess.Popen(["sleep", "60"]) as process:
        guardian = Guardian.start()
        assert guardian is not None
        guardian.watch(identify(process.pid), [])
        guardian.dismiss()
        guardian.dismiss()
        assert process.poll() is None
        process.kill()


def test_a_guardian_whose_run_vanished_ends_the_command() -> None:
    from scheduler.processes.identity import identify

    with subprocess.Popen(["sleep", "60"]) as process:
        guardian = Guardian.start()
        assert guardian is not None
        guardian.watch(identify(process.pid), [])
        os.close(guardian._fd)
        os.waitpid(guardian.pid, 0)
        assert process.wait(5) == -signal.SIGTERM


# --- words ---------------------------------------------------------------------------------------


def account(**more: Any) -> Account:
    outcome = Outcome(
        code=more.pop("code", 0),
        signal=None,
        wall_ns=2_000_000_000,
        strays=more.pop("strays", 0),
        strays_left=more.pop("strays_left", 0),
        oom_kills=more.pop("oom_kills", 0),
        lost=more.pop("lost", None),
        usages=[usage(5)],
    )
    limits = more.pop("limits", Limits(frozenset(), {}))
    return Account("make", outcome.code, outcome, limits, Efficiency({}), {}, **more)


def test_limits_that_are_not_enforced_are_called_advisory_and_why() -> None:
    limits = Limits(frozenset({"memory"}), {"cpu": "no such controller"}, 2)
    text = "\n".join(account(limits=limits).lines())
    assert "memory enforced (cgroup v2)" in text
    assert "cpu advisory: no such controller" in text
    both = dict.fromkeys(("cpu", "memory"), "no control groups are mounted here")
    text = "\n".join(account(limits=Limits(frozenset(), both)).lines())
    assert text.count("no control groups are mounted here") == 1, "said once"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"oom_kills": 1}, "killed a process at the memory limit"),
        ({"oom_kills": 3}, "killed 3 processes"),
        ({"lost": Loss("operator asked it to end", 1)}, "its allocation was lost: operator"),
        ({"strays": 2}, "2 processes outlived the command and were ended"),
        ({"strays": 1, "strays_left": 1}, "1 still running without an allocation"),
        ({"unrecorded": "the disk was full"}, "the disk was full"),
    ],
)
def test_what_a_person_should_know_is_a_note(more: dict[str, Any], says: str) -> None:
    assert says in "\n".join(account(**more).lines())


def test_a_receipt_replaces_another_one_whole(tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    file.write_text("old")
    write_receipt(file, {"b": 1})
    assert file.read_text() == '{\n  "b": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["receipt.json"]
    with pytest.raises(OSError, match="No such file"):
        write_receipt(tmp_path / "no" / "folder", {})


class Deaf:
    """A stderr whose reader has gone."""

    def write(self, text: str) -> None:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_stderr_that_nobody_reads_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Deaf())
    Speaker().note("anybody?")
    monkeypatch.setattr(sys, "stderr", None)
    Speaker().error(LedgerUnavailable("what", "do"))


def test_a_running_clock_goes_on_from_where_it_was_set() -> None:
    clock = running_clock(1_000)
    first = clock()
    assert 1_000 <= first <= clock() < 60_000_000_000
