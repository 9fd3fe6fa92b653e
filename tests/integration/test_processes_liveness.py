"""Real processes that live, die, linger as zombies and are watched."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from dataclasses import replace

import pytest

from scheduler.processes.identity import identify
from scheduler.processes.liveness import Liveness, NotObservable, observe, watch
from scheduler.processes.ports import port_owner
from scheduler.processes.procfs import read_stat
from tests.integration.processes_children import child, eventually

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_a_killed_process_is_a_dead_zombie_first_and_gone_after_the_wait() -> None:
    with child("say('up'); hear()") as it:
        it.hear()
        who = identify(it.pid)
        assert observe(who).liveness is Liveness.ALIVE
        os.kill(it.pid, signal.SIGKILL)
        with watch(who) as watching:
            assert watching.wait(10)
        seen = observe(who)
        assert (seen.liveness, seen.how) == (Liveness.DEAD, "zombie")
        it.process.wait()
        seen = observe(who)
        assert (seen.liveness, seen.how) == (Liveness.DEAD, "gone")


def test_a_stopped_process_is_alive() -> None:
    with child("say('up'); hear()") as it:
        it.hear()
        os.kill(it.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, it.pid, os.WSTOPPED | os.WNOWAIT)
        assert observe(identify(it.pid)).liveness is Liveness.ALIVE


def test_a_process_whose_first_thread_has_exited_is_alive() -> None:
    code = """
import ctypes, threading
def stay():
    say('up'); hear(); os._exit(0)
threading.Thread(target=stay).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    with child(code) as it:
        it.hear()
        who = identify(it.pid)

        def leader_is_zombie() -> bool:
            stat = read_stat(it.pid)
            return stat is not None and stat.state == "Z"

        assert eventually(leader_is_zombie)
        assert observe(who).liveness is Liveness.ALIVE
        with watch(who) as watching:
            assert not watching.wait(0)
            it.say()
            assert watching.wait(10)


def test_a_watch_wakes_a_poll_of_its_descriptor() -> None:
    with child("say('up'); hear()") as it, watch(identify(it.pid)) as watching:
        poll = select.poll()
        poll.register(watching.fileno(), select.POLLIN)
        assert poll.poll(0) == []
        it.say()
        assert poll.poll(10_000)
        assert watching.wait(0)


def test_a_watch_on_one_that_has_ended_already_is_readable_at_once() -> None:
    with child("") as it:
        who = identify(it.pid)
        it.process.wait()
        with watch(who) as watching:
            assert watching.wait(0)
            assert select.select([watching], [], [], 0)[0] == [watching]
        with pytest.raises(OSError, match="no descriptor"):
            watching.fileno()


def test_a_pid_that_passes_to_another_process_while_the_watch_opens_is_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The descriptor then belongs to a stranger, whose end is not waited for."""
    with child("say('up'); hear()") as it, child("say('up'); hear()") as stranger:
        it.hear()
        stranger.hear()
        who = identify(it.pid)
        real = os.pidfd_open

        def reused(pid: int, flags: int = 0) -> int:
            it.end()
            return real(stranger.pid, flags)

        monkeypatch.setattr(os, "pidfd_open", reused)
        with watch(who) as watching:
            assert watching.wait(0)
        assert stranger.process.poll() is None


@pytest.mark.parametrize("failure", ["missing", "refused"])
def test_without_pidfds_a_watch_looks_again_and_again(
    monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(1, "not permitted")

    if failure == "missing":
        monkeypatch.delattr(os, "pidfd_open")
    else:
        monkeypatch.setattr(os, "pidfd_open", refuse)
    with child("say('up'); hear()") as it, watch(identify(it.pid)) as watching:
        with pytest.raises(OSError, match="use wait"):
            watching.fileno()
        assert not watching.wait(0.01)
        timer = threading.Timer(0.05, it.say)
        timer.start()
        assert watching.wait(10)
        timer.join()


def test_a_reused_pid_is_never_watched_as_the_old_process() -> None:
    with child("hear()") as it:
        who = identify(it.pid)
        before = replace(who, start_time=who.start_time - 1)
        with watch(before) as watching:
            assert watching.wait(0)


def test_a_process_in_a_pid_namespace_of_its_own_is_not_judged_from_outside() -> None:
    """Its own number for itself, 1, would be init's out here."""
    code = """
import ctypes
if ctypes.CDLL(None).unshare(0x20000000) != 0:
    say('no'); sys.exit()
first = os.fork()
if first == 0:
    hear(); os._exit(0)
say('yes', os.readlink(f'/proc/{first}/ns/pid'))
os.waitpid(first, 0)
"""
    with child(code) as it:
        answer = it.hear()
        if answer[0] == "no":
            pytest.skip("making a pid namespace needs root")
        inner = answer[1].partition("[")[2].rstrip("]")
        who = replace(identify(1), pid_namespace=inner)
        seen = observe(who)
        assert (seen.liveness, seen.how) == (Liveness.UNKNOWN, "pid_namespace")
        with pytest.raises(NotObservable):
            watch(who)


def test_the_owner_of_a_listening_port_is_found() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert port_owner(port) == identify()
    assert port_owner(port) is None


def test_the_owner_of_a_bound_datagram_port_is_found() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        assert port_owner(server.getsockname()[1]) == identify()
