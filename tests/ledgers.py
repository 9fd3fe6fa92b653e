"""Ledgers for tests of the writer: on each kind of log, with a clock set by hand, and children that
use one from a process of their own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ledger.book import Book
from ledger.clock import Reading, machine_clock
from ledger.codec import from_row
from ledger.commands import Allocate, AnyCommand, Claim, OpenPool, Release
from ledger.events import Event
from ledger.evolve import evolve
from ledger.fields import book_digest
from ledger.log import Log
from ledger.memory_log import MemoryLog
from ledger.receipts import Receipt
from ledger.requests import NodeSpec, Request
from ledger.snapshots import Snapshots
from ledger.sqlite_log import SqliteLog
from ledger.verify import verify
from ledger.writer import Writer, begin

ROOT = Path(__file__).parents[1]
SECOND = 1_000_000_000
HOUR = 3_600 * SECOND


class Clock:
    """A machine's clocks that go only when told to."""

    def __init__(self) -> None:
        self.reading = Reading(1_790_000_000 * SECOND, 1_000 * SECOND, 1_000 * SECOND, "boot-1")

    def __call__(self) -> Reading:
        return self.reading

    def run(self, seconds: float) -> None:
        """Time passes."""
        by = int(seconds * SECOND)
        wall, boot, monotonic, boot_id = self.reading
        self.reading = Reading(wall + by, boot + by, monotonic + by, boot_id)

    def sleep(self, seconds: float) -> None:
        """The machine is suspended."""
        by = int(seconds * SECOND)
        wall, boot, monotonic, boot_id = self.reading
        self.reading = Reading(wall + by, boot + by, monotonic, boot_id)

    def set_wall(self, by_seconds: float) -> None:
        """Somebody sets the wall clock."""
        self.reading = self.reading._replace(wall=self.reading.wall + int(by_seconds * SECOND))


class Slow:
    """The machine's clocks, going twenty times slower: a lease outlasts what is done in its time,
    however busy the machine is."""

    def __init__(self) -> None:
        self._read = machine_clock()
        self._from = self._read()

    def __call__(self) -> Reading:
        now = [
            start + (n - start) // 20
            for n, start in zip(self._read()[:3], self._from[:3], strict=True)
        ]
        return Reading(*now, self._from.boot_id)


class Ledger:
    """One ledger on one kind of log: a writer, how to open it anew, and a second writer on it."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.path = folder / "ledger.db"
        self.kind = kind
        self.clock = Clock()
        self._memory = MemoryLog()
        self._writers: list[Writer] = []
        self.count = 0
        self.writer = self.another()
        begin(self.writer.log, "test-ledger", self.writer)

    def another(self, log: Log | None = None) -> Writer:
        """One more writer on the same ledger, as another process would have it."""
        snapshots = None
        if self.kind == "sqlite":
            snapshots = Snapshots(self.path)
            log = log or SqliteLog.open(self.path, create=True)
        writer = Writer(log or self._memory, clock=self.clock, snapshots=snapshots)
        self._writers.append(writer)
        return writer

    def reopen(self) -> Writer:
        """Close, and open again."""
        self.close()
        self.writer = self.another()
        return self.writer

    def close(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    def do(self, command: AnyCommand) -> Receipt:
        return self.writer.execute(command)

    def next_id(self) -> str:
        self.count += 1
        return f"c{self.count}"

    def pool(self, name: str = "box", **nodes: dict[str, int]) -> None:
        specs = tuple(NodeSpec(node, capacity) for node, capacity in nodes.items())
        outcome = self.do(OpenPool(command_id=self.next_id(), pool=name, nodes=specs)).outcome
        assert outcome == "pool_opened"

    def ask(self, cpu: int = 1000, **options: Any) -> Receipt:
        return self.do(allocate(options.pop("command_id", self.next_id()), cpu, **options))

    def got(self, cpu: int = 1000, **options: Any) -> str:
        receipt = self.ask(cpu, **options)
        assert receipt.outcome == "granted", receipt
        assert receipt.allocation is not None
        return receipt.allocation.id

    def release(self, allocation: str, holder: str = "h1") -> Receipt:
        return self.do(release(self.next_id(), allocation, holder))

    def events(self) -> list[Event]:
        return [from_row(row) for row in self.writer.log.read()]

    def types(self) -> list[str]:
        return [row.type for row in self.writer.log.read()]

    def state(self, allocation: str) -> str:
        found = self.writer.present(allocation)
        return "none" if found is None else found.state


def allocate(command_id: str, cpu: int = 1000, **options: Any) -> Allocate:
    """A request for so many thousandths of a processor, by ``h1`` in ``box`` for 1000 s."""
    names = {
        name: options.pop(name)
        for name in ("pool", "holder", "task", "tenant", "metadata")
        if name in options
    }
    wait = options.pop("wait", None)
    ttl = options.pop("ttl", 1000)
    if "process" in options:
        ttl = None
    request = Request(
        {"cpu": cpu},
        ttl_ns=None if ttl is None else int(ttl * SECOND),
        wait_ns=None if wait is None else int(wait * SECOND),
        **options,
    )
    return Allocate(
        command_id=command_id, request=request, **{"pool": "box", "holder": "h1", **names}
    )


def release(
    command_id: str, allocation: str, holder: str = "h1", tenant: str = "default"
) -> Release:
    """A release by the holder's name."""
    return Release(command_id=command_id, allocation=allocation, claim=Claim(holder), tenant=tenant)


def together(writer: Writer, *commands: AnyCommand) -> list[Any]:
    """Carry commands out in one transaction, in this order: the receipt or the error of each."""

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(
            *(writer.execute_async(command) for command in commands), return_exceptions=True
        )

    return asyncio.run(all_at_once())


def refolded(log: Log) -> Book:
    """The book folded anew from position 1."""
    book = Book()
    for row in log.read():
        evolve(book, from_row(row))
    return book


def check_whole(writer: Writer) -> Book:
    """The log proves itself, the present book is what it adds up to, and the accounts balance."""
    result = verify(writer.log)
    assert result.ok, result.reason
    while True:
        # What is due counts as ended for readers, so it is written down before the two are compared;
        # a real clock may make something due in between.
        writer.settle()
        position, digest = writer.read(
            lambda present, now: (present.position, book_digest(present))
        )
        book = refolded(writer.log)
        if position == book.position:
            break
    assert digest == book_digest(book)
    check_accounts(book)
    return book


def check_accounts(book: Book) -> None:
    """0 ≤ in use ≤ capacity, and in use is the sum of what is held, on every node."""
    for pool in book.pools.values():
        held: dict[tuple[str, str], int] = {}
        for one in book.allocations.values():
            if one.pool == pool.name and one.request.parent is None and one.state != "waiting":
                for placement in one.placements:
                    for resource, amount in placement.amounts.items():
                        key = (placement.node, resource)
                        held[key] = held.get(key, 0) + amount
        for node in pool.space.nodes.values():
            for resource, capacity in node.capacity.items():
                in_use = node.in_use.get(resource, 0)
                assert 0 <= in_use <= capacity, (pool.name, node.name, resource)
                assert in_use == held.get((node.name, resource), 0), (pool.name, node.name)


def unmeasured() -> dict[str, str]:
    """The environment of a process that the coverage tool does not follow."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def python(
    code: str, *arguments: object, measured: bool = True, **options: Any
) -> subprocess.Popen[str]:
    """A process that runs ``code`` with this project on its path, and pipes to and from it.

    One that is to be interrupted is not ``measured``: an interrupt can strike inside the coverage tool
    too, which then keeps a lock of its own for ever.
    """
    environment = {**(os.environ if measured else unmeasured()), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that a process says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def say_to(process: subprocess.Popen[str], line: str = "go") -> None:
    """Say a line to a process."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def end(process: subprocess.Popen[str], *, kill: bool = False) -> int:
    """Wait until a process is gone, killing it first if so asked; its exit code."""
    if kill:
        process.kill()
    process.communicate(timeout=60)
    return process.returncode
