"""The usage of real process trees: children that come and go, daemons, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.processes import procfs
from scheduler.processes.identity import identify
from scheduler.processes.tree import TreeSampler
from tests.integration.processes_children import PRELUDE, child, eventually

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

ROOT = Path(__file__).resolve().parents[2]
MS = 1_000_000
TICKS = 30 * MS
"""What rounding to clock ticks may take away in a small tree."""
START_UP = 1_000 * MS
"""More than any of these trees uses beside what it is told to burn."""


def test_a_child_that_lived_and_died_unseen_counts() -> None:
    code = """
say('up'); hear()
pid = os.fork()
if pid == 0:
    burn(0.2); os._exit(0)
os.waitpid(pid, 0)
say('done'); hear()
"""
    with child(code) as it:
        it.hear()
        sampler = TreeSampler(it.pid)
        before = sampler.sample()
        it.say()
        it.hear()
        after = sampler.sample()
        assert after.processes == 1
        assert 200 * MS - TICKS <= after.cpu_ns - before.cpu_ns < 200 * MS + START_UP


def test_a_child_seen_alive_then_as_zombie_then_waited_for_counts_once() -> None:
    code = """
pid = os.fork()
if pid == 0:
    burn(0.3); say(os.getpid()); hear(); os._exit(0)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT); say('zombie'); hear()
os.waitpid(pid, 0); say('waited'); hear()
"""
    with child(code) as it:
        it.hear()
        sampler = TreeSampler(it.pid)
        alive = sampler.sample()
        it.say()
        it.hear()
        zombie = sampler.sample()
        it.say()
        it.hear()
        waited = sampler.sample()
        assert (alive.processes, zombie.processes, waited.processes) == (2, 1, 1)
        assert alive.cpu_ns >= 300 * MS - TICKS
        assert alive.cpu_ns <= zombie.cpu_ns <= waited.cpu_ns
        # Counted twice, it would be 300 ms more.
        assert waited.cpu_ns - alive.cpu_ns < 200 * MS


def test_children_that_nobody_waits_for_keep_what_they_used() -> None:
    code = """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    burn(0.2); say(os.getpid()); hear(); os._exit(0)
while True:
    try: os.kill(pid, 0)
    except ProcessLookupError: break
    time.sleep(0.01)
say('gone'); hear()
"""
    with child(code) as it:
        it.hear()
        sampler = TreeSampler(it.pid)
        alive = sampler.sample()
        it.say()
        it.hear()
        for _ in range(3):
            assert sampler.sample().cpu_ns >= alive.cpu_ns >= 200 * MS - TICKS


def test_a_daemon_seen_once_still_belongs_after_its_parents_are_gone() -> None:
    code = """
r, w = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(w); os.read(r, 1)
        burn(0.1); say('burnt'); time.sleep(60)
    say('both'); hear(); os._exit(0)
os.wait(); say('alone'); hear()
os.close(w); time.sleep(60)
"""
    with child(code) as it:
        it.hear()
        sampler = TreeSampler(it.pid)
        assert sampler.sample().processes == 3
        it.say()
        it.hear()
        [daemon] = sampler.descendants()
        assert os.stat(f"/proc/{daemon.pid}")
        before = sampler.sample()
        assert before.processes == 2
        it.say()
        it.hear()
        after = sampler.sample()
        assert after.cpu_ns - before.cpu_ns >= 100 * MS - TICKS
        it.process.kill()
        it.process.wait()
        assert [stray.pid for stray in sampler.descendants()] == [daemon.pid]
        os.kill(daemon.pid, 9)
        assert eventually(lambda: sampler.descendants() == [])
        last = sampler.sample()
        assert (last.processes, last.memory_bytes) == (0, 0)
        assert last.cpu_ns >= after.cpu_ns


def test_a_daemon_never_seen_before_is_found_by_its_roots_session() -> None:
    code = """
if os.fork() == 0:
    if os.fork() == 0:
        say(os.getpid()); hear(); os._exit(0)
    os._exit(0)
os.wait(); hear()
"""
    with child("say('up'); hear()\n" + code, start_new_session=True) as it:
        it.hear()
        sampler = TreeSampler(it.pid)
        it.say()
        daemon = it.hear_pid()
        assert [each.pid for each in sampler.descendants()] == [daemon]


SUBREAPER = """
import json, os, subprocess, sys
from scheduler.processes.tree import TreeSampler, become_subreaper
assert become_subreaper()
code = sys.argv[1]
root = subprocess.Popen([sys.executable, "-S", "-E", "-c", code], stdout=subprocess.PIPE,
                        stdin=subprocess.PIPE, text=True)
sampler = TreeSampler(root.pid, orphans_of=os.getpid())
sampler.sample()
root.stdin.write("go\\n"); root.stdin.flush()
daemon = int(root.stdout.readline())
strays = [stray.pid for stray in sampler.descendants()]
root.stdin.write("go\\n"); root.stdin.flush()
assert root.stdout.readline() == "burnt\\n"
os.waitid(os.P_PID, daemon, os.WEXITED | os.WNOWAIT)
reaped = sampler.reap_orphans()
os.waitid(os.P_PID, root.pid, os.WEXITED | os.WNOWAIT)
last = sampler.sample()
code = root.wait()
after = sampler.sample()
print(json.dumps({"daemon": daemon, "strays": strays, "reaped": reaped, "code": code,
                  "cpu": [last.cpu_ns, after.cpu_ns], "processes": after.processes}))
"""


def test_a_subreaper_adopts_a_daemon_unseen_and_accounts_for_it_when_it_ends() -> None:
    code = (
        PRELUDE
        + """
hear()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        say(os.getpid()); hear(); burn(0.2); say('burnt'); os._exit(0)
    os._exit(0)
os.wait()
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", SUBREAPER, code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["strays"] == [told["daemon"]]
    assert (told["reaped"], told["code"], told["processes"]) == (1, 0, 0)
    assert told["cpu"][0] == told["cpu"][1] >= 200 * MS - TICKS


def test_the_last_moments_count_when_the_root_is_sampled_as_a_zombie() -> None:
    with child("say('up'); hear(); burn(0.2)") as it:
        it.hear()
        sampler = TreeSampler(it.pid)
        before = sampler.sample()
        it.say()
        os.waitid(os.P_PID, it.pid, os.WEXITED | os.WNOWAIT)
        last = sampler.sample()
        assert last.cpu_ns - before.cpu_ns >= 200 * MS - TICKS
        it.process.wait()
        assert sampler.sample().cpu_ns == last.cpu_ns


def test_the_last_moments_count_when_the_wait_is_told() -> None:
    with child("say('up'); hear(); burn(0.2)") as it:
        it.hear()
        sampler = TreeSampler(it.pid)
        before = sampler.sample()
        it.say()
        _, status, used = os.wait4(it.pid, 0)
        it.process.returncode = os.waitstatus_to_exitcode(status)
        sampler.reaped(it.pid, round((used.ru_utime + used.ru_stime) * 1e9))
        assert sampler.sample().cpu_ns - before.cpu_ns >= 200 * MS - TICKS


def test_shared_memory_counts_once_as_pss_and_per_process_as_rss() -> None:
    code = """
block = bytearray(os.urandom(1)) * (64 << 20)
pids = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        hear(); os._exit(0)
    pids.append(pid)
say('up'); hear()
"""
    with child(code) as it:
        it.hear()
        block = 64 << 20
        with_pss = TreeSampler(it.pid).sample()
        with_rss = TreeSampler(it.pid, pss=False).sample()
        assert with_rss.memory_kind == "rss"
        assert with_rss.memory_bytes >= 4 * block
        assert with_rss.processes == 4
        if with_pss.memory_kind != "pss":
            pytest.skip("the kernel has no smaps_rollup")
        assert block <= with_pss.memory_bytes < 2 * block


def test_one_process_without_pss_makes_the_whole_sample_rss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = "pid = os.fork()\nsay('up') if pid else None\nhear()"
    with child(code) as it:
        it.hear()
        real = procfs._pss
        monkeypatch.setattr(procfs, "_pss", lambda pid: None if pid == it.pid else real(pid))
        sampler = TreeSampler(it.pid)
        assert eventually(lambda: sampler.sample().processes == 2)
        assert sampler.sample().memory_kind == "rss"

        def is_all_rss() -> bool:
            # The child takes pages of its own for a while after the fork, between two looks as well.
            mixed = sampler.sample()
            rss = sum(procfs.memory(pid)[1] for pid in (it.pid, sampler.descendants()[0].pid))
            return abs(mixed.memory_bytes - rss) < 1 << 20

        assert eventually(is_all_rss)


def test_sampling_goes_on_while_children_come_and_go_by_the_hundred() -> None:
    code = """
say('up')
for _ in range(300):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    if _ % 7:
        os.waitpid(pid, 0)
say('done'); hear()
"""
    with child(code) as it:
        it.hear()
        sampler = TreeSampler(it.pid)
        totals = [sampler.sample().cpu_ns for _ in range(40)]
        assert totals == sorted(totals)
        it.hear()
        end = sampler.sample()
        own, children = _times(it.pid)
        zombies = sum(sum(_times(pid)) for pid in _children(it.pid))
        assert totals[-1] <= end.cpu_ns
        assert end.cpu_ns <= own + children + zombies + TICKS


def _times(pid: int) -> tuple[int, int]:
    stat = procfs.read_stat(pid)
    assert stat is not None
    return stat.own_cpu_ns, stat.children_cpu_ns


def _children(pid: int) -> list[int]:
    return [stat.pid for stat in procfs.scan().values() if stat.ppid == pid]


def test_a_root_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ProcessLookupError):
        TreeSampler(2**22)


def test_members_from_elsewhere_belong() -> None:
    with child("hear()") as root, child("hear()") as other:
        sampler = TreeSampler(identify(root.pid), members=lambda: [other.pid, 2**22])
        assert [each.pid for each in sampler.descendants()] == [other.pid]
