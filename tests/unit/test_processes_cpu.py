"""The processor time of a tree against a model of how a kernel accounts for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from scheduler.processes.procfs import ProcStat
from scheduler.processes.tree import CpuLedger, TreeTracker, _parents_first

INIT = 1
ROOT = 100


@dataclass
class Process:
    pid: int
    ppid: int
    own: int = 0
    children: int = 0
    zombie: bool = False


@dataclass
class Kernel:
    """Forks, runs, ends and waits as Linux does; ``used`` is the truth."""

    adopting: bool
    """Whether the root is a subreaper: orphans become its children and not init's."""

    table: dict[int, Process] = field(default_factory=lambda: {ROOT: Process(ROOT, 0)})
    used: int = 0
    lost: int = 0
    next_pid: int = ROOT + 1

    def pick(self, number: int) -> Process:
        running = [process for process in self.table.values() if not process.zombie]
        return running[number % len(running)]

    def act(self, what: str, number: int) -> None:
        process = self.pick(number)
        if what == "fork":
            self.table[self.next_pid] = Process(self.next_pid, process.pid)
            self.next_pid += 1
        elif what == "run":
            process.own += 1 + number % 5
            self.used += 1 + number % 5
        elif what == "exit" and process.pid != ROOT:
            self.exit(process)
        elif what == "wait":
            for child in [c for c in self.table.values() if c.ppid == process.pid and c.zombie]:
                process.children += child.own + child.children
                del self.table[child.pid]
        elif what == "ignore":  # The parent has SIGCHLD ignored: nobody is credited.
            for child in [c for c in self.table.values() if c.ppid == process.pid and c.zombie]:
                self.lost += child.own + child.children
                del self.table[child.pid]

    def exit(self, process: Process) -> None:
        process.zombie = True
        heir = ROOT if self.adopting else INIT
        for child in list(self.table.values()):
            if child.ppid == process.pid:
                child.ppid = heir
                if child.zombie and heir == INIT:
                    self.lost += child.own + child.children
                    del self.table[child.pid]
        if process.ppid == INIT:
            self.lost += process.own + process.children
            del self.table[process.pid]

    def stat(self, pid: int) -> ProcStat | None:
        process = self.table.get(pid)
        if process is None:
            return None
        state = "Z" if process.zombie else "R"
        return ProcStat(pid, process.ppid, pid, state, 1, 0, process.own, process.children)

    def order(self) -> list[int]:
        stats = {(pid, pid): stat for pid in self.table if (stat := self.stat(pid)) is not None}
        return [stat.pid for stat in _parents_first(stats)]

    def read(self, between: Iterator[tuple[str, int]], meanwhile: bool) -> list[ProcStat]:
        """Read all, parents first, while the world goes on between two readings."""
        found = []
        for pid in self.order():
            stat = self.stat(pid)
            if stat is not None:
                found.append(stat)
            if meanwhile and (action := next(between, None)) is not None and action[0] != "look":
                self.act(*action)
        return found

    def wind_up(self) -> None:
        """Everyone but the root ends, and is waited for by whoever is the parent."""
        while len(self.table) > 1:
            for pid in sorted(self.table, reverse=True):
                if pid != ROOT and pid in self.table and not self.table[pid].zombie:
                    self.exit(self.table[pid])
            for process in list(self.table.values()):
                if not process.zombie:
                    self.act("wait", list(self.table).index(process.pid))


actions = st.lists(
    st.tuples(
        st.sampled_from(["fork", "run", "run", "exit", "wait", "ignore", "look", "look"]),
        st.integers(0, 60),
    ),
    max_size=60,
)


@given(actions, st.booleans(), st.booleans())
def test_processor_time_never_falls_and_never_exceeds_what_was_used(
    script: list[tuple[str, int]], adopting: bool, meanwhile: bool
) -> None:
    kernel, ledger, last = Kernel(adopting), CpuLedger(), 0
    todo = iter(script)
    for what, number in todo:
        if what != "look":
            kernel.act(what, number)
            continue
        total = ledger.look(kernel.read(todo, meanwhile))
        assert last <= total <= kernel.used
        last = total


@given(actions, st.booleans())
def test_processor_time_is_complete_when_every_step_is_looked_at(
    script: list[tuple[str, int]], adopting: bool
) -> None:
    kernel, ledger = Kernel(adopting), CpuLedger()
    for what, number in script:
        kernel.act(what, number)
        assert ledger.look(kernel.read(iter(()), False)) == kernel.used


@given(actions, st.booleans())
def test_processor_time_is_complete_in_the_end_when_every_child_was_waited_for(
    script: list[tuple[str, int]], meanwhile: bool
) -> None:
    kernel, ledger = Kernel(adopting=True), CpuLedger()
    todo = iter([action for action in script if action[0] != "ignore"])
    for what, number in todo:
        if what == "look":
            ledger.look(kernel.read(todo, meanwhile))
        else:
            kernel.act(what, number)
    kernel.wind_up()
    assert kernel.lost == 0
    assert ledger.look(kernel.read(iter(()), False)) == kernel.used


def stat(pid: int, ppid: int, own: int, children: int = 0) -> ProcStat:
    return ProcStat(pid, ppid, pid, "R", 1, 0, own, children)


def test_what_an_observer_waited_for_replaces_what_was_last_seen() -> None:
    ledger = CpuLedger()
    ledger.look([stat(100, 1, 50), stat(101, 100, 7)])
    # 101 was waited for by 100, which then used up to 60, ended, and was waited for by us.
    ledger.reaped(100, 60 + 9)
    assert ledger.look([]) == 69
    assert ledger.look([]) == 69


def test_a_child_that_outlives_a_root_that_was_waited_for_still_counts() -> None:
    ledger = CpuLedger()
    ledger.look([stat(100, 1, 50), stat(101, 100, 7)])
    ledger.reaped(100, 55)
    assert ledger.look([stat(101, 1, 9)]) == 64
    assert ledger.look([]) == 64


def test_an_orphan_that_was_never_seen_counts_once_it_was_waited_for() -> None:
    ledger = CpuLedger()
    ledger.look([stat(100, 1, 50)])
    ledger.reaped(222, 8)
    assert ledger.look([stat(100, 1, 50)]) == 58


def test_a_misread_cycle_of_parents_ends() -> None:
    looped = {(pid, pid): stat(pid, ppid, 0) for pid, ppid in ((5, 6), (6, 5), (7, 5))}
    assert {each.pid for each in _parents_first(looped)} == {5, 6, 7}


def test_an_older_process_is_nobodys_child() -> None:
    old, new = stat(7, 9, 0), stat(9, 1, 0)
    found = TreeTracker._close([new], {9: [old]})
    assert set(found) == {(9, 9)}
