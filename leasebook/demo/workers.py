"""One member of the demo's fleet: a process of its own that asks, works, measures itself, and goes.

Started as ``python -m leasebook.demo.workers JOB`` with a job as JSON. It opens the ledger, says that
it is there, and waits on its standard input: the first line lets it ask, the second lets it finish.
The end of that input means that whoever started it is gone, and so it gives back and goes too.
"""

from __future__ import annotations

import json
import os
import random
import select
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from leasebook.manager import ResourceManager
    from leasebook.values import AllocationHandle
    from scheduler.processes.usage import UsageAggregate

RELEASES: Final = "releases"
FORGETS: Final = "forgets"
OUTSTAYS: Final = "outstays"

DONE: Final = 0
FAILED: Final = 1
REFUSED: Final = 3

KIB: Final = 1024
_CHUNK_BYTES: Final = 256 * KIB
_FLOAT_BYTES: Final = 32
"""What one float costs in a list: the object and the pointer to it."""
_RUN_LENGTH: Final = 20_000
_THREADS_MAX: Final = 32
_PAUSE_S: Final = 0.02
_SAMPLES_PER_PERIOD: Final = 4


@dataclass(frozen=True, slots=True)
class Job:
    """What one member is to ask for, to do, and how it takes its leave.

    ``cpu`` (thousandths) and ``memory`` (bytes) are what it asks for; ``size`` is how many bytes it
    works on, ``appetite`` the part of its processor time that the work needs. It works for
    ``work_s`` at least, and until it is told when ``until_told``. ``usage_every_s`` is how often it
    records what it used. ``ttl_s`` binds its lease to a time, else its process does.
    """

    ledger: str
    pool: str
    holder: str
    work: str
    cpu: int
    memory: int
    size: int
    work_s: float
    usage_every_s: float
    appetite: float = 1.0
    wait_s: float | None = None
    ttl_s: float | None = None
    until_told: bool = False
    leave: str = RELEASES

    @property
    def task(self) -> str:
        """The task's name, which no other run in this ledger has: the pool's is in it."""
        return f"{self.pool}/{self.work}-{self.holder}"

    def to_text(self) -> str:
        """As JSON, for a command line."""
        return json.dumps(asdict(self))


# --- the work ------------------------------------------------------------------------------------


def compressing(size: int, threads: int) -> Iterator[None]:
    """Deflate ``size`` bytes of text over and over, one step of some chunks at a time."""
    dice = random.Random(size)
    words = [f"{dice.getrandbits(24):x}" for _ in range(5000)]
    block = " ".join(dice.choices(words, k=40_000)).encode()
    text = memoryview((block * (size // len(block) + 1))[:size])
    return _in_threads(text, threads, lambda chunk: len(zlib.compress(chunk)))


def hashing(size: int, threads: int) -> Iterator[None]:
    """SHA-256 of ``size`` random bytes over and over, one step of some chunks at a time."""
    return _in_threads(
        memoryview(os.urandom(size)), threads, lambda chunk: len(sha256(chunk).digest())
    )


def sorting(size: int, threads: int) -> Iterator[None]:
    """Sort ``size`` bytes' worth of numbers run by run, over and over; one thread can do no more."""
    dice = random.Random(size)
    numbers = [dice.random() for _ in range(max(_RUN_LENGTH, size // _FLOAT_BYTES))]
    for start in cycle(range(0, len(numbers), _RUN_LENGTH)):
        sorted(numbers[start : start + _RUN_LENGTH])
        yield


def _in_threads(data: memoryview, threads: int, one: Callable[[memoryview], int]) -> Iterator[None]:
    """Work on chunk after chunk. zlib and hashlib let go of the interpreter, so threads do help."""
    chunks = [data[at : at + _CHUNK_BYTES] for at in range(0, len(data), _CHUNK_BYTES)]
    steps = [chunks[at : at + threads] for at in range(0, len(chunks), threads)]
    with ThreadPoolExecutor(threads) as pool:
        for step in cycle(steps):
            list(pool.map(one, step))
            yield


WORK: Final[dict[str, Callable[[int, int], Iterator[None]]]] = {
    "compress": compressing,
    "hash": hashing,
    "sort": sorting,
}
"""Kind of work → ``(bytes, threads)`` → its steps, without end."""


# --- being told, and measuring -------------------------------------------------------------------


class Told:
    """What whoever started this process says on a pipe, line by line."""

    def __init__(self, source: int) -> None:
        self._source = source
        self.lines = 0
        self.closed = False

    def look(self, timeout_s: float = 0.0) -> None:
        """Take in what has been said, waiting at most ``timeout_s`` for it."""
        if not self.closed and select.select([self._source], [], [], timeout_s)[0]:
            said = os.read(self._source, 64)
            self.lines += said.count(b"\n")
            self.closed = not said

    def wait(self) -> bool:
        """Wait for the first line; False when nobody is there to say it any more."""
        while not self.lines and not self.closed:
            self.look(60.0)
        return bool(self.lines)


class Gauge:
    """Measures this process from its grant on, and records an aggregate every so often."""

    def __init__(
        self, manager: ResourceManager, handle: AllocationHandle, usage_every_s: float
    ) -> None:
        from scheduler.processes.tree import TreeSampler
        from scheduler.processes.usage import UsageAggregator

        granted = manager.ledger.writer.present(handle.id)
        assert granted is not None
        assert granted.granted_at is not None
        ledger_now = manager.ledger.writer.read(lambda book, now: now)
        # Samples are dated in ledger time, as the grant is: the wall clock may be set meanwhile.
        self._offset_ns = ledger_now - time.monotonic_ns()
        self._manager = manager
        self._handle = handle
        self._every_ns = int(usage_every_s * 1e9 / _SAMPLES_PER_PERIOD)
        self._sampler = TreeSampler(os.getpid(), clock_ns=self.now)
        # It has run before the grant: processor time counts from the first sample.
        self._usage = UsageAggregator(
            granted.granted_at,
            self._every_ns,
            cpu_start_ns=None,
            period_ns=int(usage_every_s * 1e9),
        )
        self._due_ns = 0
        # What is used beyond the lease is recorded apart from what was used within it.
        self._lease_until = granted.lease_until
        self.look()

    def now(self) -> int:
        """Ledger time (ns)."""
        return time.monotonic_ns() + self._offset_ns

    def look(self) -> None:
        """Take a sample if one is due, and record what a full period came to."""
        now = self.now()
        if now < self._due_ns:
            return
        sample = self._sampler.sample()
        full = self._usage.add(sample)
        self._due_ns = now + self._every_ns
        if self._lease_until is not None and now >= self._lease_until:
            full = full or self._usage.finish(sample.at_ns)
            self._lease_until = None
        elif self._lease_until is not None:
            self._due_ns = min(self._due_ns, self._lease_until)
        self._record(full)

    def finish(self) -> None:
        """Record what is left, up to this moment."""
        full = self._usage.add(self._sampler.sample())
        rest = self._usage.finish(self.now())
        self._record(full, final=rest is None)
        self._record(rest, final=True)

    def _record(self, usage: UsageAggregate | None, *, final: bool = False) -> None:
        if usage is None:
            return
        used, peak, basis = {}, {}, {}
        if usage.cpu_ns is not None:
            # Thousandths of a core × seconds: a millionth of core-nanoseconds.
            used["cpu"] = round(usage.cpu_ns / 1e6)
            basis["cpu"] = "proc"
        if usage.memory_byte_s is not None:
            used["memory"] = usage.memory_byte_s
        if usage.memory_peak_bytes is not None:
            peak["memory"] = usage.memory_peak_bytes
            basis["memory"] = str(usage.memory_kind)
        self._manager.record_usage(
            self._handle.id,
            since=usage.since_ns,
            until=usage.until_ns,
            used=used,
            peak=peak,
            basis=basis,
            samples=usage.samples,
            gaps_ns=usage.gaps_ns,
            final=final,
        )


# --- one life ------------------------------------------------------------------------------------


def live(manager: ResourceManager, job: Job, told: Told) -> int:
    """Ask, work, record, and leave as the job says; the exit code. Raises Refused."""
    manager.see_holder(job.holder, program="leasebook-demo")
    if not told.wait():
        return DONE
    bound: dict[str, Any] = {"pid": os.getpid()} if job.ttl_s is None else {"ttl": job.ttl_s}
    handle = manager.allocate(
        {"cpu": f"{job.cpu}m", "memory": job.memory},
        pool=job.pool,
        holder=job.holder,
        task=job.task,
        wait=job.wait_s,
        **bound,
    )
    gauge = Gauge(manager, handle, job.usage_every_s)
    _work(job, gauge, told, _until(manager, handle, job, told))
    gauge.finish()
    if job.leave == FORGETS and not told.closed:
        return DONE
    if job.leave == OUTSTAYS and not told.closed:
        handle.renew()
    handle.release()
    return DONE


def _until(
    manager: ResourceManager, handle: AllocationHandle, job: Job, told: Told
) -> Callable[[], bool]:
    """What tells when the work is over."""
    end_s = time.monotonic() + job.work_s

    def over() -> bool:
        told.look()
        if told.closed:
            return True
        if time.monotonic() < end_s or (job.until_told and told.lines < 2):
            return False
        return job.leave != OUTSTAYS or manager.get(handle.id).state == "ended"

    return over


def _work(job: Job, gauge: Gauge, told: Told, over: Callable[[], bool]) -> None:
    """Do the job's work in steps until it is over, at the pace that its grant allows."""
    threads = max(1, min(job.cpu // 1000, _THREADS_MAX))
    steps = WORK[job.work](job.size, threads)
    cores = job.cpu / 1000 * job.appetite
    began_s, used_s = time.monotonic(), time.process_time()
    while not over():
        ahead_s = (time.process_time() - used_s) / cores - (time.monotonic() - began_s)
        if ahead_s > 0:
            told.look(min(ahead_s, _PAUSE_S))
        else:
            next(steps)
        gauge.look()


def main(argv: list[str]) -> int:
    """Live the life of the job in ``argv[0]``; failures are one line on stderr."""
    from leasebook import LeasebookError, Refused
    from leasebook import open as open_ledger
    from leasebook.cli.failures import failure_from

    job = Job(**json.loads(argv[0]))
    # Releasing and renewing are signed with the holder's name.
    os.environ["LEASEBOOK_HOLDER"] = job.holder
    try:
        with open_ledger(job.ledger, create=False) as manager:
            return live(manager, job, Told(sys.stdin.fileno()))
    except Refused as refusal:
        print(failure_from(refusal).line(), file=sys.stderr)
        return REFUSED
    except (LeasebookError, OSError) as error:
        print(failure_from(error).line(), file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
