"""What real processes use without asking: it is not handed out, and comes back when they are gone."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import leasebook
from leasebook.manager import ResourceManager
from leasebook.run.sizing import ensure_local
from scheduler.probes import holders, load, lookout, memory
from scheduler.probes.finding import Held
from scheduler.probes.holders import Processes, memory_of
from scheduler.probes.memory import MachineMemory, machine_memory
from scheduler.probes.ports import look_at_ports
from scheduler.processes.cgroup import machine_capacity
from scheduler.processes.identity import identify, this_host
from scheduler.processes.procfs import read_stat
from scheduler.sweeps import observe, run_sweeps
from tests.command_line import ROOT, CommandLine
from tests.integration.processes_children import Child, child, eventually

MIB = 1 << 20

HOG = """
open("/proc/self/comm", "w").write("hog")
say("ready")
hear()
taken = bytearray(300 << 20)
for at in range(0, len(taken), 4096):
    taken[at] = 1
say("taken")
hear()
"""

LISTENER = """
import socket
open("/proc/self/comm", "w").write("webby")
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0))
listener.listen()
say(listener.getsockname()[1])
hear()
listener.close()
say("closed")
hear()
"""


@pytest.fixture(autouse=True)
def _look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request looks, and names more than it usually does: this machine may be busy."""
    monkeypatch.setattr(lookout, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(holders, "NAMED_MAX", 8)


@contextmanager
def hog(mib: int = 300) -> Iterator[Child]:
    """A process that is ready to take so much."""
    with child(HOG.replace("300 << 20", f"{mib} << 20")) as made:
        assert made.hear() == ["ready"]
        yield made


def take(one: Child) -> None:
    one.say()
    assert one.hear() == ["taken"]


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine of 4 GiB on which 1 GiB is in use, and what the named children really use."""

    def watch(*children: Child) -> None:
        def read(root: Path) -> MachineMemory:
            return MachineMemory(4096 * MIB, 1024 * MIB + memory_of(c.pid for c in children))

        monkeypatch.setattr(memory, "machine_memory", read)

    return watch


@contextmanager
def pool_of(mib: int, probe: str = "host") -> Iterator[ResourceManager]:
    """A pool of so much of this machine's memory."""
    with leasebook.open(":memory:") as manager:
        manager.open_pool("here", capacity={"memory": mib * MIB}, policy={"probe": probe})
        yield manager


def asked(manager: ResourceManager, mib: int) -> Any:
    """The result of asking for so much; what is granted goes back at once."""
    result = manager.try_allocate({"memory": mib * MIB}, pool="here")
    if result.allocation is not None:
        result.allocation.release()
    return result


# --- memory --------------------------------------------------------------------------------------

CAPACITY = 2922
"""Of the calm machine, so that others have 1 GiB and 150 MiB."""


def test_memory_that_a_process_took_without_asking_is_not_handed_out_until_it_is_gone(
    calm: Callable[..., None],
) -> None:
    with pool_of(CAPACITY) as manager:
        with hog() as made:
            calm(made)
            assert asked(manager, CAPACITY).granted
            take(made)
            refusal = asked(manager, CAPACITY)
            assert refusal.reason == "unmanaged_use"
            assert f"hog (pid {made.pid}) 3" in refusal.message
            assert 140 * MIB < refusal.shortfall["here"]["memory"] < 200 * MIB
            node = manager.pool("here")["nodes"][0]
            assert f"hog (pid {made.pid})" in node["used_outside_by"]["memory"]
            assert asked(manager, CAPACITY - 200).granted
        assert asked(manager, CAPACITY).granted
        kinds = [e.type for e in manager.events() if e.type != "released"]
        assert kinds[2:] == [
            "allocated",
            "capacity_observed",
            "refused",
            "allocated",
            "capacity_observed",
            "allocated",
        ]
        assert manager.verify().ok


def test_the_machines_real_figures_tell_of_a_process_that_took_memory() -> None:
    """Whatever else runs here takes and gives back memory too: one of a few tries is left alone.

    The refusal names the largest few, so this one has to be larger than those of the tests beside it.
    """

    def sequence() -> bool:
        machine = machine_memory()
        assert machine is not None
        capacity = (machine.total - machine.used) // MIB - 150
        with pool_of(capacity) as manager:
            with hog(mib=1024) as made:
                first = asked(manager, capacity)
                take(made)
                second = asked(manager, capacity)
            third = asked(manager, capacity)
        return bool(
            first.granted
            and second.reason == "unmanaged_use"
            and f"hog (pid {made.pid})" in second.message
            and third.granted
        )

    assert any(sequence() for _ in range(20))


def test_what_a_holder_uses_of_what_it_holds_is_not_counted_twice(
    calm: Callable[..., None],
) -> None:
    with pool_of(CAPACITY) as manager, hog() as made:
        calm(made)
        held = manager.allocate({"memory": 400 * MIB}, pool="here", pid=made.pid)
        take(made)
        assert asked(manager, CAPACITY - 400).granted
        # What it holds and does not use is held all the same.
        assert asked(manager, CAPACITY - 399).reason == "insufficient_capacity"
        held.release()
        assert asked(manager, CAPACITY).reason == "unmanaged_use"


def test_what_a_holder_uses_beyond_what_it_holds_was_not_asked_for(
    calm: Callable[..., None],
) -> None:
    with pool_of(CAPACITY) as manager, hog() as made:
        calm(made)
        manager.allocate({"memory": 50 * MIB}, pool="here", pid=made.pid)
        assert asked(manager, CAPACITY - 50).granted
        take(made)
        refusal = asked(manager, CAPACITY - 50)
        assert refusal.reason == "unmanaged_use"
        assert f"hog (pid {made.pid})" in refusal.message


def test_what_a_child_of_a_holder_uses_is_the_holders(calm: Callable[..., None]) -> None:
    with pool_of(CAPACITY) as manager, hog() as made:
        calm(made)
        manager.allocate({"memory": 400 * MIB}, pool="here", pid=os.getpid())
        take(made)
        assert asked(manager, CAPACITY - 400).granted


def test_a_holder_bound_by_a_ttl_is_taken_to_use_what_it_holds(calm: Callable[..., None]) -> None:
    with pool_of(CAPACITY) as manager, hog() as made:
        calm(made)
        manager.allocate({"memory": 400 * MIB}, pool="here", ttl=60)
        take(made)
        assert asked(manager, CAPACITY - 400).granted


def test_without_a_probe_nobody_looks(calm: Callable[..., None]) -> None:
    with pool_of(CAPACITY, probe="none") as manager, hog() as made:
        calm(made)
        take(made)
        assert asked(manager, CAPACITY).granted
        assert run_sweeps(manager.ledger.writer, ["observe"])[0].examined == 0
        assert list(manager.events(type="capacity_observed")) == []


def test_a_probe_can_be_switched_off_and_what_it_saw_last_is_forgotten(
    calm: Callable[..., None],
) -> None:
    with pool_of(CAPACITY) as manager, hog() as made:
        calm(made)
        take(made)
        assert asked(manager, CAPACITY).reason == "unmanaged_use"
        manager.set_policy("here", {"probe": "none"})
        assert asked(manager, CAPACITY).granted


def test_who_waits_gets_what_a_process_gives_back(calm: Callable[..., None]) -> None:
    with pool_of(CAPACITY) as manager:
        with hog() as made:
            calm(made)
            take(made)
            waiting = manager.allocate(
                {"memory": CAPACITY * MIB}, pool="here", wait=60, block=False
            )
            assert waiting.state == "waiting"
        assert observe(manager.ledger.writer).acted == 1
        assert waiting.get().state == "active"


def test_an_awaited_request_looks_too() -> None:
    async def ask(capacity: int) -> Any:
        async with await leasebook.aopen(":memory:") as manager:
            await manager.open_pool(
                "here", capacity={"memory": capacity * MIB}, policy={"probe": "host"}
            )
            return await manager.try_allocate({"memory": capacity * MIB}, pool="here")

    machine = machine_memory()
    assert machine is not None
    # A pool of the whole machine keeps nothing free, so that whoever runs here is in its way.
    result = asyncio.run(ask(machine.total // MIB))
    assert result.reason == "unmanaged_use"
    assert "(pid " in result.message


# --- processors ----------------------------------------------------------------------------------


def test_a_busy_process_is_load_of_others_unless_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    with child("say('go')\nburn(60)") as made:
        made.hear()

        def only_the_childs(root: Path) -> int:
            stat = read_stat(made.pid)
            assert stat is not None
            return stat.own_cpu_ns

        monkeypatch.setattr(load, "busy", only_the_childs)
        mine = [Held("A1", {"cpu": 1000}, (identify(made.pid),))]
        free, held = load.Load(), load.Load()
        found: list[tuple[int, int]] = []

        def looked() -> bool:
            # The holder's times are read after the counter, so that it never seems to run less.
            theirs = free.look(10**6, [], Processes())
            own = held.look(10**6, mine, Processes())
            if theirs is not None and own is not None:
                found.append((theirs[0], own[0]))
            return bool(found) and found[-1][0] >= 100

        assert eventually(looked)
        assert found[-1][1] == 0


def test_an_old_figure_for_the_load_is_checked_before_it_stands_in_the_way() -> None:
    with leasebook.open(":memory:") as manager:
        machine = machine_capacity()
        manager.open_pool(
            "here", capacity={"cpu": machine.cpu_milli * 100}, policy={"probe": "host"}
        )
        manager.observe("here", "here", {"cpu": machine.cpu_milli * 99}, basis={"cpu": "old"})
        # The machine cannot be so busy, and one process alone, which asks once, finds that out.
        assert manager.try_allocate({"cpu": f"{machine.cpu_milli * 90}m"}, pool="here").granted


# --- ports ---------------------------------------------------------------------------------------


def test_a_port_that_a_process_listens_on_is_not_handed_out_until_it_closes(
    lb: CommandLine,
) -> None:
    with child(LISTENER) as made:
        port = made.hear()[0]
        opened = lb.ok("pool", "open", "web", "--node", f"{port}:port=1")
        assert opened["pool"]["policy"]["probe"] == "ports"
        assert opened["pool"]["policy"]["probe_host"] == this_host()
        answer = lb("allocate", "web", "port=1", "--json")
        assert (answer.code, answer.json["reason"]) == (3, "unmanaged_use")
        assert f"webby (pid {made.pid})" in answer.json["message"]
        assert lb("allocate", "web", "port=1").err.count("\n") == 1
        node = lb.ok("pool", "show", "web")["nodes"][0]
        assert node["used_outside"] == {"port": "1"}
        assert "observe: recorded 0 of 1" in lb("sweep", "observe").out
        made.say()
        assert made.hear() == ["closed"]
        held = lb.ok("allocate", "web", "port=1")["allocation"]
        assert held["placements"][0]["node"] == port


def test_the_next_port_is_given_where_one_is_taken(lb: CommandLine) -> None:
    with child(LISTENER) as made:
        taken = made.hear()[0]
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            free = str(other.getsockname()[1])
        lb.ok("pool", "open", "web", "--node", f"{taken}:port=1", "--node", f"{free}:port=1")
        held = lb.ok("allocate", "web", "port=1")["allocation"]
        assert held["placements"][0]["node"] == free
        assert lb("allocate", "web", "port=1").code == 3


def test_a_closed_port_goes_to_who_waits_for_it(lb: CommandLine) -> None:
    with child(LISTENER) as made:
        port = made.hear()[0]
        lb.ok("pool", "open", "web", "--node", f"{port}:port=1")
        waiting = lb.process("allocate", "web", "port=1", "--wait", "60s", "--json")
        assert eventually(lambda: lb.ok("pool", "show", "web")["waiting"] == 1, 30)
        made.say()
        assert made.hear() == ["closed"]
        out, _ = waiting.communicate(timeout=30)
        assert json.loads(out)["allocation"]["placements"][0]["node"] == port


def test_a_waiter_of_this_process_gets_a_closed_port_too() -> None:
    with child(LISTENER) as made, leasebook.open(":memory:") as manager:
        port = made.hear()[0]
        manager.open_pool("web", nodes={port: {"port": 1}}, policy={"probe": "ports"})
        got: list[Any] = []

        def wait() -> None:
            got.append(manager.allocate({"port": 1}, pool="web", wait=60))

        thread = threading.Thread(target=wait)
        thread.start()
        assert eventually(lambda: bool(manager.list(state="waiting")))
        made.say()
        assert made.hear() == ["closed"]
        thread.join(30)
        assert [handle.node for handle in got] == [port]


def test_a_holder_listens_on_its_own_port_and_leaves_it_in_use_if_it_stays() -> None:
    with child(LISTENER) as made, leasebook.open(":memory:") as manager:
        port = made.hear()[0]
        manager.open_pool("web", nodes={port: {"port": 1}})
        held = manager.allocate({"port": 1}, pool="web", pid=made.pid)
        manager.set_policy("web", {"probe": "ports"})
        writer = manager.ledger.writer
        assert observe(writer).acted == 0
        held.release()
        again = manager.try_allocate({"port": 1}, pool="web")
        assert again.reason == "unmanaged_use"
        assert f"webby (pid {made.pid})" in again.message


def test_a_stranger_on_a_port_that_is_held_is_seen_but_not_where_nobody_can_tell() -> None:
    with child(LISTENER) as stranger, child("say('x')\nhear()") as holder:
        port = stranger.hear()[0]
        holder.hear()
        mine = Held("A1", {"port": 1}, (identify(holder.pid),))
        found = (look_at_ports({port: [mine]}) or {})[port]
        assert found.outside == {"port": 1}
        assert f"(pid {stranger.pid})" in found.basis["port"]
        assert look_at_ports({port: [Held("A1", {"port": 1})]}) == {}


def test_a_port_in_two_pools_is_outside_use_of_the_one_that_does_not_hold_it() -> None:
    with child(LISTENER) as made, leasebook.open(":memory:") as manager:
        port = made.hear()[0]
        for pool in ("one", "two"):
            manager.open_pool(pool, nodes={port: {"port": 1}})
        manager.allocate({"port": 1}, pool="one", pid=made.pid)
        for pool in ("one", "two"):
            manager.set_policy(pool, {"probe": "ports"})
        report = observe(manager.ledger.writer)
        assert [(d["pool"], d["outside"]) for d in report.details] == [("two", {"port": 1})]


# --- how it is switched on -----------------------------------------------------------------------


def test_pools_of_this_machine_have_a_probe_unless_told_otherwise(lb: CommandLine) -> None:
    def probe(*arguments: str) -> str:
        opened = lb.ok("pool", "open", *arguments)["pool"]["policy"]
        return str(opened["probe"])

    assert probe("a", "--host") == "host"
    assert probe("b", "--host", "--policy", "probe=none") == "none"
    assert probe("c", "cpu=4") == "none"
    assert probe("d", "--node", "3100..3102:port=1") == "ports"
    assert probe("e", "--node", "3100..3102:port=1", "--policy", "probe=none") == "none"
    assert probe("f", "--node", "3100:port=1", "--node", "web:port=1") == "none"
    assert probe("g", "cpu=4", "--policy", "probe=host") == "host"
    assert probe("h", "--host", "--observed") == "none"
    lb.ok("policy", "set", "a", "probe=none")
    assert lb.ok("pool", "show", "a")["policy"]["probe"] == "none"


def test_local_has_a_probe() -> None:
    with leasebook.open(":memory:") as manager:
        ensure_local(manager)
        policy = manager.pool("local")["policy"]
        assert (policy["probe"], policy["probe_host"]) == ("host", this_host())


def test_the_command_line_looks_without_psutil(lb: CommandLine) -> None:
    lb.ok("pool", "open", "a", "--host")
    lb.ok("pool", "open", "b", "--node", "3100:port=1")
    code = (
        "import sys; from leasebook.__main__ import main; "
        "main(['allocate', 'a', 'cpu=1m', '--json']); main(['allocate', 'b', 'port=1', '--json']); "
        "print('psutil' in sys.modules, 'scheduler.probes.lookout' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "False True"


def test_the_sweep_says_what_it_recorded(lb: CommandLine) -> None:
    with child(LISTENER) as made:
        port = made.hear()[0]
        lb.ok("pool", "open", "web", "--node", f"{port}:port=1")
        dry = lb("sweep", "observe", "--dry-run").out
        assert "observe: would record 1 of 1" in dry
        assert lb.ok("events", "--type", "capacity_observed")["events"] == []
        said = lb("sweep", "observe").out
        assert "observe: recorded 1 of 1" in said
        assert f"others use on {port} of web: port=1 (webby (pid {made.pid}))" in said
        assert lb.ok("sweep", "observe")["sweeps"][0]["acted"] == 0
