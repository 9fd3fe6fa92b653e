"""Ending real process trees: TERM, grace, KILL, and never the wrong process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.identity import ProcessIdentity
from scheduler.processes import procfs
from scheduler.processes.ending import end_tree, send_signal
from scheduler.processes.identity import identify
from scheduler.processes.liveness import Liveness, observe
from scheduler.processes.tree import TreeSampler
from tests.integration.processes_children import child

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
FAMILY = """
pid = os.fork()
if pid == 0:
    say(os.getpid()); time.sleep(60); os._exit(0)
say('up')
time.sleep(60)
"""


def dead(*identities: ProcessIdentity) -> bool:
    return all(observe(each).liveness is Liveness.DEAD for each in identities)


def test_a_tree_that_listens_ends_at_term() -> None:
    with child(FAMILY) as it:
        it.hear(), it.hear()
        root = identify(it.pid)
        family = [root, *TreeSampler(root).descendants()]
        ended = end_tree([root], 10)
        assert set(ended.terminated) == set(family)
        assert (ended.killed, ended.left) == ((), ())
        assert dead(*family)
        assert it.process.wait() == -signal.SIGTERM


def test_who_ignores_term_is_killed_after_the_grace() -> None:
    with child(DEAF + FAMILY) as it:
        it.hear(), it.hear()
        root = identify(it.pid)
        family = [root, *TreeSampler(root).descendants()]
        assert len(family) == 2
        ended = end_tree([root], 0.1)
        assert ended.terminated == ()
        assert set(ended.killed) == set(family)
        assert dead(*family)


def test_without_leave_to_kill_the_deaf_are_left_and_told() -> None:
    with child(DEAF + "say('up'); hear()") as it:
        it.hear()
        root = identify(it.pid)
        ended = end_tree([root], 0.05, kill_ok=False)
        assert (ended.terminated, ended.killed, ended.left) == ((), (), (root,))
        assert it.process.poll() is None


def test_a_child_started_in_answer_to_term_is_ended_too() -> None:
    code = """
def more(*_):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say(os.getpid())
        time.sleep(60)
signal.signal(signal.SIGTERM, more)
say('up')
while True: time.sleep(60)
"""
    with child(code) as it:
        it.hear()
        root = identify(it.pid)
        ended = end_tree([root], 0.3)
        born = it.hear_pid()
        assert born in {each.pid for each in ended.killed}
        assert root in ended.killed
        assert ended.left == ()
        assert dead(*ended.killed)


def test_a_stopped_process_still_gets_its_term() -> None:
    with child("say('up'); hear()") as it:
        it.hear()
        os.kill(it.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, it.pid, os.WSTOPPED)
        ended = end_tree([identify(it.pid)], 10)
        assert [each.pid for each in ended.terminated] == [it.pid]


def test_a_recycled_pid_is_never_signalled() -> None:
    with child("say('up'); hear()") as it:
        it.hear()
        old = replace(identify(it.pid), start_time=1)
        assert not send_signal(old, signal.SIGKILL)
        ended = end_tree([old], 0.05)
        assert (ended.terminated, ended.killed, ended.left) == ((), (), ())
        assert it.process.poll() is None


def test_a_process_of_another_host_is_left_and_its_pid_here_is_not_touched() -> None:
    with child("say('up'); hear()") as it:
        it.hear()
        far = replace(identify(it.pid), host="elsewhere")
        assert not send_signal(far, signal.SIGKILL)
        assert end_tree([far], 0.05).left == (far,)
        assert it.process.poll() is None


SELF_ENDING = """
import json, subprocess, sys
from scheduler.processes.ending import end_tree
from scheduler.processes.identity import identify
other = subprocess.Popen([sys.executable, "-S", "-E", "-c", "import time; time.sleep(60)"])
us = identify()
ended = end_tree([us], 10)
print(json.dumps([ended.left == (us,), [each.pid for each in ended.terminated] == [other.pid]]))
"""


def test_a_process_that_ends_its_own_tree_leaves_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SELF_ENDING],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("[true, true]\n", 0), done.stderr


def test_ending_several_roots_and_what_is_gone_already() -> None:
    with child("hear()") as gone, child("time.sleep(60)") as one, child("time.sleep(60)") as two:
        past = identify(gone.pid)
        gone.end()
        ended = end_tree([past, identify(one.pid), identify(two.pid)], 10)
        assert {each.pid for each in ended.terminated} == {one.pid, two.pid}
        assert ended.left == ()


@pytest.mark.parametrize("missing", ["pidfd_open", "pidfd_send_signal"])
def test_without_pidfds_the_identity_is_checked_before_each_signal(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delattr(os if missing == "pidfd_open" else signal, missing)
    with child(DEAF + "say('up'); hear()") as it:
        it.hear()
        root = identify(it.pid)
        assert send_signal(root, signal.SIGTERM)
        assert end_tree([root], 0.05).killed == (root,)
        assert not send_signal(root, signal.SIGTERM)


def test_a_process_that_may_not_be_signalled_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    monkeypatch.setattr("scheduler.processes.ending.KILL_S_MAX", 0.05)
    with child("say('up'); hear()") as it:
        it.hear()
        root = identify(it.pid)
        with pytest.raises(PermissionError):
            send_signal(root, signal.SIGTERM)
        assert end_tree([root], 0.05).left == (root,)
        assert it.process.poll() is None


def test_members_from_elsewhere_are_ended_with_the_tree() -> None:
    with child("time.sleep(60)") as root, child("time.sleep(60)") as other:
        ended = end_tree([identify(root.pid)], 10, members=lambda: [other.pid])
        assert {each.pid for each in ended.terminated} == {root.pid, other.pid}


def test_a_hundred_processes_end_together() -> None:
    code = """
for _ in range(100):
    if os.fork() == 0:
        time.sleep(60); os._exit(0)
say('up'); time.sleep(60)
"""
    with child(code) as it:
        it.hear()
        ended = end_tree([identify(it.pid)], 10)
        assert len(ended.terminated) + len(ended.killed) == 101
        assert not [
            each for each in procfs.scan().values() if each.ppid == it.pid and not each.ended
        ]
