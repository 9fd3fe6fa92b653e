"""What others use: the formulas on figures that are given, and what of a finding is recorded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import leasebook
from leasebook.policies import policy_in
from leasebook.probing import due_for
from ledger.commands import Claim, ObserveCapacity, Release
from ledger.errors import InvalidInput
from ledger.fields import book_digest, dump, load, to_plain
from ledger.identity import ProcessIdentity
from ledger.nodes import node_from
from ledger.requests import NodeSpec, Placement
from scheduler.probes import cards, lookout, memory
from scheduler.probes import load as loads
from scheduler.probes.cards import cards_outside
from scheduler.probes.finding import Finding, Held, held_on
from scheduler.probes.holders import Processes
from scheduler.probes.load import Note, busy
from scheduler.probes.lookout import View, matters, views_here
from scheduler.probes.memory import MachineMemory, machine_memory, memory_outside
from scheduler.probes.ports import is_port
from scheduler.processes import gpus
from scheduler.processes.gpus import Gpu, GpuProcess
from scheduler.processes.identity import identify, this_host
from scheduler.processes.procfs import read_own_stat
from tests.scenario import PROCESS, Scenario, kinds

MIB = 1 << 20
GIB = 1 << 30
SECOND = 1_000_000_000


def files(root: Path, **contents: str) -> Path:
    for name, text in contents.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal:  8388608 kB\nMemFree: 1 kB\nMemAvailable: 6291456 kB\n"


# --- memory --------------------------------------------------------------------------------------


def test_memory_in_use_is_what_is_not_available(tmp_path: Path) -> None:
    assert machine_memory(files(tmp_path, proc__meminfo=MEMINFO)) == MachineMemory(8 * GIB, 2 * GIB)
    assert machine_memory(tmp_path / "nowhere") is None


def test_within_a_limited_group_the_group_is_the_machine_and_its_cache_is_free(
    tmp_path: Path,
) -> None:
    root = files(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="0::/job\n",
        proc__self__mountinfo="30 1 0:1 / /cg rw - cgroup2 cgroup2 rw\n",
    )
    group = root / "cg" / "job"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{GIB}\n")
    (group / "memory.current").write_text(f"{700 * MIB}\n")
    (group / "memory.stat").write_text(
        f"anon 1\nactive_file {100 * MIB}\ninactive_file {200 * MIB}\nslab_reclaimable {50 * MIB}\n"
    )
    assert machine_memory(root) == MachineMemory(GIB, 350 * MIB)
    (group / "memory.max").write_text("max\n")
    assert machine_memory(root) == MachineMemory(8 * GIB, 2 * GIB)


def test_a_limited_group_of_version_one_is_read_too(tmp_path: Path) -> None:
    root = files(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="4:memory:/job\n",
        proc__self__mountinfo="30 1 0:1 / /cg rw - cgroup cgroup rw,memory\n",
    )
    group = root / "cg" / "job"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(f"{2 * GIB}\n")
    (group / "memory.usage_in_bytes").write_text(f"{GIB}\n")
    (group / "memory.stat").write_text(
        f"total_active_file {MIB}\ntotal_inactive_file {3 * MIB}\nactive_file 7\n"
    )
    assert machine_memory(root) == MachineMemory(2 * GIB, GIB - 4 * MIB)


def outside_of(
    monkeypatch: pytest.MonkeyPatch, used: int, capacity: int, *holders: tuple[int, int | None]
) -> int:
    """What others use of ``capacity`` out of 100 MiB; holders are (granted, really used or None)."""
    machine = MachineMemory(100 * MIB, used)
    monkeypatch.setattr(memory, "machine_memory", lambda root: machine)
    held = [
        Held(f"A{n}", {"memory": granted}, () if real is None else (identity_of(n),))
        for n, (granted, real) in enumerate(holders)
    ]
    sizes = {1000 + n: real for n, (_, real) in enumerate(holders) if real is not None}
    monkeypatch.setattr(memory, "memory_of", lambda pids: sum(sizes[pid] for pid in pids))
    monkeypatch.setattr(memory, "rss_of", lambda pid: 0)

    class Given(Processes):
        @cached_property
        def table(self) -> dict[int, Any]:
            return {pid: stat_of(pid) for pid in sizes}

        def sees(self, one: Held) -> bool:
            return bool(one.processes)

    found = memory_outside(capacity, held, Given())
    assert found is not None
    return found[0]


def identity_of(number: int) -> ProcessIdentity:
    return ProcessIdentity("h", 1000 + number, 5, "boot", "ns")


def stat_of(pid: int) -> Any:
    return replace(read_own_stat(), pid=pid, ppid=1, start_time=5, session=0)


@pytest.mark.parametrize(
    ("used", "capacity", "holders", "outside"),
    [
        # What the pool leaves to others is theirs; only what goes beyond it takes from the pool.
        (10, 90, [], 0),
        (30, 90, [], 20),
        (30, 50, [], 0),
        # A holder's use within what it holds is in the node's in-use already.
        (50, 90, [(40, 40)], 0),
        (70, 90, [(40, 40)], 20),
        (50, 90, [(40, 10)], 30),
        # What it uses beyond that was asked of nobody.
        (70, 90, [(10, 60)], 50),
        # Whose processes nobody knows is taken to use all that it holds.
        (70, 90, [(40, None)], 20),
        (30, 90, [(80, None)], 0),
        # Never more than there is, also where the pool is larger than the machine.
        (100, 90, [], 90),
        (100, 50, [], 50),
        (60, 300, [], 60),
    ],
)
def test_others_use_what_is_taken_less_what_holders_use_and_what_is_kept_free(
    monkeypatch: pytest.MonkeyPatch,
    used: int,
    capacity: int,
    holders: list[tuple[int, int | None]],
    outside: int,
) -> None:
    scaled = [(g * MIB, None if r is None else r * MIB) for g, r in holders]
    assert outside_of(monkeypatch, used * MIB, capacity * MIB, *scaled) == outside * MIB


@given(
    st.integers(0, 100),
    st.integers(1, 200),
    st.lists(st.tuples(st.integers(0, 90), st.none() | st.integers(0, 90)), max_size=4),
)
def test_what_others_use_is_never_negative_nor_more_than_the_node_nor_than_is_used(
    used: int, capacity: int, holders: list[tuple[int, int | None]]
) -> None:
    scaled = [(g * MIB, None if r is None else r * MIB) for g, r in holders]
    with pytest.MonkeyPatch.context() as patch:
        found = outside_of(patch, used * MIB, capacity * MIB, *scaled)
        alone = outside_of(patch, used * MIB, capacity * MIB)
    assert 0 <= found <= alone <= min(used, capacity) * MIB


def test_a_machine_that_does_not_tell_is_not_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "machine_memory", lambda root: None)
    assert memory_outside(GIB, [], Processes()) is None


# --- processors ----------------------------------------------------------------------------------

ME = (7, 70)
OTHER = (8, 80)


def compared(
    before: Note, now: Note, capacity: int, *held: Held, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str] | None:
    from scheduler.processes.cgroup import MachineCapacity

    machine = MachineCapacity(4000, GIB, "", "")
    monkeypatch.setattr(loads, "machine_capacity", lambda root: machine)
    return loads._compare(before, now, capacity, held, Path("/"))


def test_load_is_what_was_busy_less_what_holders_ran_and_what_is_kept_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = {"A1": frozenset({ME})}
    before = Note(0, 100 * SECOND, {ME: 10 * SECOND, OTHER: 0}, mine)
    now = Note(2 * SECOND, 107 * SECOND, {ME: 12 * SECOND, OTHER: 5 * SECOND}, mine)
    held = Held("A1", {"cpu": 500}, (PROCESS,))
    found = compared(before, now, 4000, held, monkeypatch=monkeypatch)
    assert found is not None
    assert found[0] == 2500, "3.5 were busy, of which the holder ran 1"
    assert "(pid 8) 2500m" in found[1]
    kept = compared(before, now, 3600, held, monkeypatch=monkeypatch)
    assert kept is not None and kept[0] == 2100
    # Bound by a ttl: taken to run all that it holds, however much that is.
    unseen = compared(
        replace(before, trees={}),
        replace(now, trees={}),
        4000,
        Held("A1", {"cpu": 3000}),
        monkeypatch=monkeypatch,
    )
    assert unseen is not None and unseen[0] == 500


def test_children_that_ended_between_two_looks_are_counted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = (9, 90)
    before = Note(0, 0, {ME: 0, child: 3 * SECOND}, {"A1": frozenset({ME, child})})
    # The parent has waited for the child: 4 s of it are in its account, 3 s of them older.
    now = Note(SECOND, SECOND, {ME: 4 * SECOND}, {"A1": frozenset({ME})})
    held = Held("A1", {"cpu": 1000}, (PROCESS,))
    assert compared(before, now, 4000, held, monkeypatch=monkeypatch) == (0, "")


def test_holders_whose_times_were_not_noted_make_the_load_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = Note(0, 0, None, {})
    now = Note(SECOND, 4 * SECOND, {ME: 0}, {"A1": frozenset({ME})})
    held = Held("A1", {"cpu": 1}, (PROCESS,))
    assert compared(before, now, 4000, held, monkeypatch=monkeypatch) is None


def test_one_look_alone_says_nothing_of_the_load() -> None:
    load_ = loads.Load()
    assert load_.is_new
    assert load_.look(1000, [], Processes()) is None
    assert load_.look(1000, [], Processes()) is None, "too close to the first to compare"


def test_busy_is_what_processors_did_but_not_waiting_or_stolen_time(tmp_path: Path) -> None:
    lines = [f"cpu{n} 10 20 30 999 999 4 6 999 0 0" for n in range(os.cpu_count() or 1)]
    root = files(tmp_path, proc__stat="\n".join(["cpu 1 1 1 1", *lines, "intr 5"]))
    ticks = os.sysconf("SC_CLK_TCK")
    allowed = len(os.sched_getaffinity(0))
    assert busy(root) == allowed * 70 * (SECOND // ticks)
    assert busy(tmp_path / "nowhere") is None


# --- cards ---------------------------------------------------------------------------------------


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[GpuProcess]]:
    on: list[GpuProcess] = []
    made = [Gpu(i, f"GPU-{i}", "T4", 16 * GIB) for i in range(2)]
    monkeypatch.setattr(gpus, "gpus", lambda: made)
    monkeypatch.setattr(gpus, "processes_on_gpu", lambda: on)
    monkeypatch.setattr(cards, "pid_namespace", lambda: "4026531836")
    yield on


def test_a_cards_share_is_its_memory_that_others_have_taken(two_cards: list[GpuProcess]) -> None:
    assert cards_outside(2000, [], Processes()) == (0, "")
    two_cards.append(GpuProcess(os.getpid(), 0, "GPU-0", 4 * GIB))
    found = cards_outside(2000, [], Processes())
    assert found is not None
    assert found[0] == 250
    assert f"(pid {os.getpid()}) on card 0" in found[1]
    mine = Held("A1", {"gpu": 1000}, (identify(),))
    assert cards_outside(2000, [mine], Processes()) == (0, "")
    assert cards_outside(2000, [Held("A1", {"gpu": 1000})], Processes()) == (0, "")
    two_cards.append(GpuProcess(1, 1, "GPU-1", 15 * GIB))
    found = cards_outside(2000, [], Processes())
    assert found is not None and found[0] == 2000, "more than a card is told in whole cards"


def test_cards_that_cannot_be_told_are_unknown(
    two_cards: list[GpuProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cards_outside(3000, [], Processes()) is None, "a card is missing"
    two_cards.append(GpuProcess(1, 0, "GPU-0", None))
    assert cards_outside(2000, [], Processes()) is None
    two_cards.clear()
    monkeypatch.setattr(cards, "pid_namespace", lambda: "4026532000")
    assert cards_outside(2000, [], Processes()) is None, "its pids are the host's"


def test_a_whole_card_that_others_share_is_refused_as_unmanaged_use() -> None:
    s = Scenario()
    s.pool(n1={"gpu": 2000})
    s.when(ObserveCapacity(command_id="o", pool="box", node="n1", outside={"gpu": 300}))
    refusal = s.refused({"gpu": 2000})
    assert (refusal.reason, refusal.shortfall) == ("unmanaged_use", {"n1": {"gpu": 1000}})
    assert s.got({"gpu": 1000})


# --- who holds, and what is worth recording ------------------------------------------------------


def test_holders_elsewhere_or_hidden_cannot_be_told_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    me = identify()
    processes = Processes()
    assert processes.sees(Held("A1", {}, (me,)))
    assert os.getpid() in {stat.pid for stat in processes.tree([me]).values()}
    assert processes.tree([replace(me, start_time=1)]) == {}
    assert not processes.sees(Held("A1", {}))
    for other in ({"host": "x"}, {"boot_id": "x"}, {"pid_namespace": "x"}):
        assert not processes.sees(Held("A1", {}, (me, replace(me, **other))))
    gone = Held("A1", {}, (replace(me, pid=4194303),))
    assert processes.sees(gone), "an ended one uses nothing, and that is known"
    monkeypatch.setattr("scheduler.processes.procfs.exists", lambda pid: True)
    assert not processes.sees(gone), "it is there, and hidden"


def test_a_machine_that_cannot_be_read_fails_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(lookout, "look_at_host", broken)
    with leasebook.open(":memory:") as manager:
        manager.open_pool("p", capacity={"cpu": 4}, policy={"probe": "host"})
        assert manager.allocate({"cpu": 1}, pool="p").state == "active"


def test_what_draws_on_a_holder_belongs_to_it() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4000}, n2={"cpu": 4000})
    child = replace(PROCESS, pid=9)
    parent = s.got({"cpu": 2000}, process=PROCESS)
    s.got({"cpu": 1000}, process=child, parent=parent)
    timed = s.got({"cpu": 4000})
    s.waits({"cpu": 4000}, process=replace(PROCESS, pid=10))
    s.got({"cpu": 500}, process=child, parent=timed)
    assert held_on(s.book, "box") == {
        "n1": [Held(parent, {"cpu": 2000}, (PROCESS, child))],
        "n2": [Held(timed, {"cpu": 4000}, ())],
    }


def test_a_resource_that_was_not_measured_stays_as_it_was_seen() -> None:
    found = Finding({"memory": 5, "gpu": 0}, {"memory": "a (pid 1)"})
    merged = found.after({"cpu": 3, "gpu": 7, "memory": 9}, {"cpu": "b", "gpu": "c"})
    assert merged == Finding({"cpu": 3, "memory": 5}, {"cpu": "b", "memory": "a (pid 1)"})


def view(outside: dict[str, int], in_use: dict[str, int] | None = None, **more: Any) -> View:
    node = node_from(NodeSpec("n1", {"cpu": 8000, "memory": 1000 * MIB, "port": 1}))
    node = node.plus(Placement("n1", in_use or {}, {}), 1).seen(outside=outside)
    return View("box", "host", node, [], more.get("waiting", []))


@pytest.mark.parametrize(
    ("before", "found", "asked", "worth"),
    [
        ({}, {}, [], False),
        ({}, {"memory": 50 * MIB}, [], False),
        ({}, {"memory": 51 * MIB}, [], True),
        ({"memory": 100 * MIB}, {"memory": 60 * MIB}, [], False),
        ({"memory": 100 * MIB}, {}, [], True),
        ({}, {"cpu": 500}, [], False),
        ({}, {"cpu": 600}, [], True),
        ({}, {"port": 1}, [], True),
        # Little, but it decides.
        ({}, {"memory": 10 * MIB}, [{"memory": 995 * MIB}], True),
        ({}, {"memory": 10 * MIB}, [{"memory": 990 * MIB}], False),
        ({"cpu": 400}, {}, [{"cpu": 8000}], True),
    ],
)
def test_a_finding_is_recorded_where_it_is_noticeable_or_decides(
    before: dict[str, int], found: dict[str, int], asked: list[dict[str, int]], worth: bool
) -> None:
    assert matters(view(before), Finding(found), asked) is worth
    assert matters(view(before, waiting=asked), Finding(found), ()) is worth


def test_the_same_use_is_news_only_once_it_is_somebody_elses() -> None:
    me, gone = f"a (pid {os.getpid()})", "a (pid 4194304)"
    for known, found, worth in (
        (me, gone, False),
        (gone, me, True),
        (gone, "a process that cannot be seen from here", False),
        (me, me, False),
    ):
        node = node_from(NodeSpec("n1", {"port": 1})).seen(
            outside={"port": 1}, basis={"port": known}
        )
        seen = View("box", "ports", node, [], [])
        assert matters(seen, Finding({"port": 1}, {"port": found}), ()) is worth


def test_only_pools_with_a_probe_for_this_machine_are_looked_at() -> None:
    s = Scenario()
    here = {"probe": "host", "probe_host": this_host()}
    s.pool("mine", policy=here, n1={"cpu": 1})
    s.pool("away", policy={"probe": "host", "probe_host": "elsewhere"}, n1={"cpu": 1})
    s.pool("none", n1={"cpu": 1})
    s.pool("several", policy=here, n1={"cpu": 1}, n2={"cpu": 1})
    s.pool("named", policy=here, **{"n1": {"cpu": 1}, os.uname().nodename: {"cpu": 1}})
    ports = {"probe": "ports", "probe_host": this_host()}
    s.pool("web", policy=ports, **{"3100": {"port": 1}, "x": {"port": 1}, "3101": {"cpu": 1}})
    assert [(one.pool, one.node.name) for one in views_here(s.book)] == [
        ("mine", "n1"),
        ("named", os.uname().nodename),
        ("web", "3100"),
    ]
    assert views_here(s.book, ["none", "nowhere"]) == []


def test_a_pool_without_a_probe_is_never_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with leasebook.open(":memory:") as manager:
        manager.open_pool("plain", capacity={"cpu": 4})
        manager.open_pool("probed", capacity={"cpu": 4}, policy={"probe": "host"})

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("looked")

        monkeypatch.setattr(lookout.Lookout, "look", refuse)
        assert manager.allocate({"cpu": 1}, pool="plain").state == "active"
        assert manager.try_allocate({"cpu": 1}, pool="nowhere").outcome == "refused"
        with pytest.raises(AssertionError, match="looked"):
            manager.allocate({"cpu": 1}, pool="probed")


def test_a_pool_is_looked_at_once_a_second_at_most() -> None:
    with leasebook.open(":memory:") as manager:
        manager.open_pool("p", capacity={"cpu": 4}, policy={"probe": "host"})
        call = manager._calls.try_allocate({"cpu": 1}, pool="p")
        writer = manager.ledger.writer
        assert due_for(writer, call.command) == {"p": [{"cpu": 1000}]}
        manager.allocate({"cpu": 1}, pool="p")
        assert due_for(writer, call.command) == {}


# --- the words and the book ----------------------------------------------------------------------


def test_a_probe_looks_at_this_machine_unless_told_otherwise() -> None:
    assert policy_in({"probe": "host"}) == {"probe": "host", "probe_host": this_host()}
    assert policy_in({"probe": "ports", "probe_host": "x"})["probe_host"] == "x"
    assert policy_in({"probe": "none"}) == {"probe": "none"}
    assert policy_in({"probe": None}) == {"probe": "none"}


def test_a_port_is_a_node_named_by_its_number() -> None:
    assert is_port("3100", {"port": 1})
    for name, capacity in (("web", {"port": 1}), ("3100", {"cpu": 1}), ("٣", {"port": 1})):
        assert not is_port(name, capacity)


def seen_by(s: Scenario, basis: dict[str, str], **outside: int) -> list[str]:
    command = ObserveCapacity(
        command_id=s.next_id(), pool="box", node="n1", outside=outside, basis=basis
    )
    return kinds(s.when(command))


def test_a_refusal_says_whose_process_it_is() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4000, "memory": GIB})
    assert seen_by(s, {"memory": "hog (pid 12) 300Mi"}, memory=300 * MIB) == ["capacity_observed"]
    refusal = s.refused({"memory": GIB})
    assert refusal.reason == "unmanaged_use"
    assert "memory=300Mi (hog (pid 12) 300Mi)" in refusal.message
    held = s.got({"memory": 500 * MIB})
    mixed = s.refused({"memory": 600 * MIB})
    assert mixed.reason == "insufficient_capacity"
    assert "others use memory=300Mi (hog (pid 12) 300Mi) of it" in mixed.message
    s.on(Release, held, claim=Claim("h1"))
    assert "hog" not in s.refused({"cpu": 4001}).message


def test_whose_it_is_stands_in_the_book_and_survives_a_snapshot() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4000, "memory": GIB})
    before = to_plain(s.book)["pools"][0][1]["nodes"][0]
    assert "outside_basis" not in before, "books without it keep their digests"
    seen_by(s, {"cpu": "x (pid 3)", "memory": "nothing to say"}, cpu=1000, memory=0)
    node = s.book.pools["box"].space.nodes["n1"]
    assert (node.outside, node.outside_basis) == ({"cpu": 1000}, {"cpu": "x (pid 3)"})
    s.got({"cpu": 1000})
    assert s.book.pools["box"].space.nodes["n1"].outside_basis == {"cpu": "x (pid 3)"}
    assert book_digest(load(dump(s.book))) == book_digest(s.book)
    assert seen_by(s, {"cpu": "x (pid 3)"}, cpu=1000) == []
    assert seen_by(s, {"cpu": "y (pid 4)"}, cpu=1000) == ["capacity_observed"]
    assert seen_by(s, {}) == ["capacity_observed"]
    assert s.book.pools["box"].space.nodes["n1"].outside_basis == {}


@pytest.mark.parametrize("basis", [{"cpu": "x" * 501}, {"cpu": "two\nlines"}, {"no good": "x"}])
def test_a_basis_is_one_short_line_for_each_resource(basis: dict[str, str]) -> None:
    s = Scenario()
    s.pool(n1={"cpu": 4000})
    with pytest.raises(InvalidInput):
        seen_by(s, basis, cpu=1)
