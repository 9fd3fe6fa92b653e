"""A ledger with a pool of four processors, a clock set by hand, and processes to hold with."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ledger.book import Allocation
from ledger.clock import Reading, machine_clock
from ledger.codec import from_row
from ledger.commands import Allocate, Claim, OpenPool, Reclaim
from ledger.events import Event
from ledger.identity import ProcessIdentity
from ledger.requests import NodeSpec, Request
from ledger.snapshots import Snapshots
from ledger.sqlite_log import SqliteLog
from ledger.writer import Writer, begin
from scheduler.processes.identity import identify
from scheduler.sweeps import SweepReport
from tests.integration.processes_children import Child, child

SECOND = 1_000_000_000
SLEEPER = "say(os.getpid()); hear()"


class HandClock:
    """The machine's clocks, put forward by hand: time that passed, or that was slept through."""

    def __init__(self) -> None:
        self.ahead = 0
        self.slept = 0
        self._read = machine_clock()

    def __call__(self) -> Reading:
        real = self._read()
        return real._replace(
            wall=real.wall + self.ahead + self.slept,
            boot=real.boot + self.ahead + self.slept,
            monotonic=real.monotonic + self.ahead,
        )


@dataclass
class Bench:
    """A ledger file with a pool of four processors, and the clock it goes by."""

    path: Path
    clock: HandClock
    writer: Writer
    count: int = 0

    def open_again(self) -> Writer:
        return Writer(SqliteLog.open(self.path), clock=self.clock)

    def allocate(self, process: ProcessIdentity | None = None, **options: Any) -> Allocation:
        self.count += 1
        cpu = options.pop("cpu", 1000)
        holder = options.pop("holder", f"agent-{self.count}")
        if process is None:
            options.setdefault("ttl_ns", 900 * SECOND)
        receipt = self.writer.execute(
            Allocate(
                command_id=f"allocate-{self.count}",
                pool="box",
                holder=holder,
                request=Request({"cpu": cpu}, process=process, **options),
            )
        )
        assert receipt.allocation is not None, receipt.message
        return receipt.allocation

    def ask_to_end(self, allocation: Allocation, **options: Any) -> None:
        receipt = self.writer.execute(
            Reclaim(
                command_id=f"force-{allocation.id}",
                allocation=allocation.id,
                claim=Claim("operator", operator=True),
                cause="forced",
                process_alive=True,
                **{"grace_ns": 30 * SECOND, **options},
            )
        )
        assert receipt.outcome == "ending"

    def state(self, allocation: Allocation) -> Allocation:
        found = self.writer.present(allocation.id)
        assert found is not None
        return found

    def events(self) -> list[Event]:
        return [from_row(row) for row in self.writer.log.read()]

    def types(self) -> Counter[str]:
        return Counter(event.type for event in self.events())

    def last(self, allocation: Allocation) -> Event:
        return [event for event in self.events() if event.allocation == allocation.id][-1]


@contextmanager
def open_bench(folder: Path) -> Iterator[Bench]:
    path = folder / "ledger.db"
    clock = HandClock()
    writer = Writer(SqliteLog.open(path, create=True), clock=clock, snapshots=Snapshots(path))
    begin(writer.log, "test-ledger", writer)
    writer.execute(
        OpenPool(
            command_id="open-box",
            pool="box",
            nodes=(NodeSpec("box", {"cpu": 4000}),),
            policy={"order": "fifo"},
        )
    )
    try:
        yield Bench(path, clock, writer)
    finally:
        writer.close()


@contextmanager
def sleeper() -> Iterator[tuple[Child, ProcessIdentity]]:
    with child(SLEEPER) as made:
        yield made, identify(made.hear_pid())


def dead_process() -> ProcessIdentity:
    with sleeper() as (made, identity):
        made.end()
    return identity


def elsewhere(identity: ProcessIdentity) -> ProcessIdentity:
    return replace(identity, host="another-host#00000000")


def both(act: Callable[[int], SweepReport]) -> list[SweepReport]:
    """What two threads that begin together each report."""
    barrier = threading.Barrier(2)
    reports: list[SweepReport] = []

    def run(number: int) -> None:
        barrier.wait()
        reports.append(act(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 2
    return reports
