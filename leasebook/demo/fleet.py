"""The script of the demo: who asks for how much, what is done to whom, and in which order.

Nothing here goes by the clock: each step waits for what the ledger's log says of the step before. So
the same things happen on a fast machine and on a slow one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from leasebook.demo.workers import DONE, FORGETS, OUTSTAYS, REFUSED, Job
from ledger.errors import LeasebookError
from ledger.events import Event, HolderSeen
from scheduler.sweeps import run_sweeps

if TYPE_CHECKING:
    from leasebook.demo.telling import Telling
    from leasebook.manager import ResourceManager

MIB: Final = 1 << 20
WORKER_BYTES: Final = 48 * MIB
"""What a member asks for beside the data it works on: the interpreter and what it loads."""

LOOK_EVERY_S: Final = 0.03
SWEEPS: Final = ("expire", "crash")
SWEEP_EVERY_S: Final = 0.25
STILL_EVERY_S: Final = 2.0
GIVE_UP_S: Final = 55.0
GO_HOME_S: Final = 2.0
KILLED: Final = -9


class DemoFailed(LeasebookError):
    """Something happened that the script does not know."""


@dataclass(frozen=True, slots=True)
class Part:
    """One member's part: shares are percent of the pool, ``size_mib`` what it works on."""

    holder: str
    work: str
    cpu_percent: int
    size_mib: int
    work_s: float
    ends: int
    options: Mapping[str, Any] = field(default_factory=dict)


WAITS: Final = {"wait_s": 45.0}

PARTS: Final = (
    # Together the first two leave too little for anybody else.
    Part("packer", "compress", 60, 32, 6.0, DONE, {"until_told": True}),
    Part("squatter", "sort", 30, 12, 6.0, REFUSED, {"ttl_s": 3.0, "leave": OUTSTAYS}),
    Part("greedy", "compress", 50, 8, 1.0, REFUSED),
    # It fits only once the first one has released: all that ends earlier is not enough.
    Part("patient", "hash", 60, 24, 4.0, DONE, {**WAITS, "until_told": True}),
    Part("victim", "compress", 20, 8, 60.0, KILLED, WAITS),
    Part(
        "forgetful",
        "sort",
        20,
        16,
        3.0,
        DONE,
        {**WAITS, "appetite": 0.5, "until_told": True, "leave": FORGETS},
    ),
    # It fits only once what the two before it held has been taken back.
    Part("heir", "hash", 40, 16, 4.0, DONE, WAITS),
)

USAGE_EVERY_S_LEAST: Final = 0.4
QUICK: Final = 0.2
"""How long the quick demo works, of what the full one does."""


def jobs(ledger: Path, pool: str, capacity: Mapping[str, int], quick: bool) -> list[Job]:
    """The parts as jobs for a pool of this capacity (base units): no share is rounded up."""
    pace = QUICK if quick else 1.0
    made = []
    for part in PARTS:
        options = dict(part.options)
        if "ttl_s" in options:
            options["ttl_s"] *= pace
        size = min(part.size_mib, max(1, capacity["memory"] // (32 * MIB))) * MIB
        share = capacity["memory"] * part.cpu_percent // 100
        made.append(
            Job(
                ledger=str(ledger),
                pool=pool,
                holder=part.holder,
                work=part.work,
                cpu=max(1, capacity["cpu"] * part.cpu_percent // 100),
                memory=max(1, min(share, WORKER_BYTES + 2 * size)),
                size=size,
                work_s=part.work_s * pace,
                usage_every_s=max(pace, USAGE_EVERY_S_LEAST),
                **options,
            )
        )
    return made


class Member:
    """One process of the fleet, from its start to its end."""

    def __init__(self, job: Job, ends: int) -> None:
        """Start it. ``ends`` is the exit code that its part comes to."""
        self.job = job
        self._ends = ends
        # In a group of its own: Ctrl-C reaches us alone, and we see them home.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "leasebook.demo.workers", job.to_text()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
            process_group=0,
        )
        self.pid = self._process.pid

    def tell(self) -> None:
        """Say a line: the first lets it ask, the second lets it finish."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        """End it as ``kill -9`` does, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def is_gone(self) -> bool:
        """Whether it has ended. Raises DemoFailed where it ended in another way than its part does."""
        code = self._process.poll()
        if code is not None and code != self._ends:
            assert self._process.stderr is not None
            said = self._process.stderr.read().strip().splitlines()
            raise DemoFailed(
                f"{self.job.holder} (process {self.pid}) ended with {code}"
                + (f": {said[-1]}" if said else ""),
                "run `leasebook doctor`, or try again",
            )
        return code is not None

    def dismiss(self) -> None:
        """Tell it that nobody is there any more."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def see_home(self, end_s: float) -> None:
        """Wait for its end until ``end_s`` (monotonic), then make it end."""
        try:
            self._process.wait(max(0.0, end_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
        if self._process.stderr is not None:
            self._process.stderr.close()


def _environment() -> dict[str, str]:
    """This process's environment, in which a member finds the same packages as this process did."""
    import sysconfig

    environment = dict(os.environ)
    home = str(Path(__file__).resolve().parents[2])
    if home not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        others = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = home + (os.pathsep + others if others else "")
    return environment


class Fleet:
    """The members, and the log as it goes on: a context manager that leaves no process behind."""

    def __init__(
        self,
        manager: ResourceManager,
        pool: str,
        after: int,
        telling: Telling,
    ) -> None:
        """Follow what comes after position ``after`` and concerns the pool, and say it."""
        self.manager = manager
        self.pool = pool
        self.members: dict[str, Member] = {}
        self._position = after
        self._telling = telling
        self._seen: list[Event] = []
        self._give_up_s = time.monotonic() + GIVE_UP_S
        self._sweep_s = 0.0
        self._still_s = time.monotonic() + STILL_EVERY_S

    def start(self, quick: bool) -> None:
        """Start all members, and wait until each has said in the ledger that it is there."""
        path = self.manager.ledger.path
        assert path is not None
        capacity = self.manager.pool(self.pool)["base_units"]["capacity"]
        for part, job in zip(PARTS, jobs(path, self.pool, capacity, quick), strict=True):
            self.members[part.holder] = Member(job, part.ends)
        for holder in self.members:
            self.until("holder_seen", holder)

    def until(self, kind: str, holder: str) -> Event:
        """Wait for an event of this type about a holder. Raises DemoFailed where none comes."""
        while True:
            for event in self._seen:
                if event.type == kind and event.holder == holder:
                    return event
            self._look(f"no {kind} of {holder}")

    def tell(self, holder: str) -> None:
        """Let a member ask, or finish."""
        self.members[holder].tell()

    def until_gone(self) -> None:
        """Wait until all members have ended as their parts say, and the log has been read."""
        while not all(member.is_gone() for member in self.members.values()):
            self._look("not the end of every process")
        self._read()

    def _look(self, what: str) -> None:
        if time.monotonic() > self._give_up_s:
            raise DemoFailed(
                f"{GIVE_UP_S:g} s have brought {what}: this machine is too busy",
                "try again when it has less to do, or with --quick",
            )
        if self.members and time.monotonic() >= self._still_s:
            self._telling.still(self.manager, self.pool)
            self._still_s = time.monotonic() + STILL_EVERY_S
        time.sleep(LOOK_EVERY_S)
        for member in self.members.values():
            member.is_gone()
        if time.monotonic() >= self._sweep_s:
            run_sweeps(self.manager.ledger.writer, SWEEPS)
            self._sweep_s = time.monotonic() + SWEEP_EVERY_S
        self._read()

    def _read(self) -> None:
        for event in self.manager.events(after=self._position):
            self._position = event.position
            member = self.members.get(event.holder or "")
            # Members of another run in this ledger may have the same names, never the same pids.
            if isinstance(event.body, HolderSeen):
                ours = member is not None and event.body.process.pid == member.pid
            else:
                ours = event.pool == self.pool
            if ours:
                self._seen.append(event)
                self._telling.event(event)
                self._still_s = time.monotonic() + STILL_EVERY_S

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        """See everybody home, take back what is left, and close the pool."""
        with _undisturbed():
            for member in self.members.values():
                member.dismiss()
            end_s = time.monotonic() + GO_HOME_S
            for member in self.members.values():
                member.see_home(end_s)
            run_sweeps(self.manager.ledger.writer, SWEEPS)
            for handle in self.manager.list(pool=self.pool):
                self.manager.reclaim(handle.id, reason="the demo is over")
            self.manager.close_pool(self.pool)
            self._read()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let a second signal wait until everybody is home, which takes a moment only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def play(fleet: Fleet, telling: Telling) -> None:
    """The demo from the first request to the last release. Raises DemoFailed."""
    for holder in ("packer", "squatter"):
        fleet.tell(holder)
        fleet.until("allocated", holder)
    fleet.tell("greedy")
    fleet.until("refused", "greedy")
    for holder in ("patient", "victim", "forgetful"):
        fleet.tell(holder)
        fleet.until("queued", holder)
    fleet.tell("packer")
    for holder in ("patient", "victim", "forgetful"):
        fleet.until("allocated", holder)
    fleet.tell("heir")
    fleet.until("queued", "heir")
    fleet.until("usage_recorded", "victim")
    victim = fleet.members["victim"]
    telling.note(f"kill -9 {victim.pid}: the victim, while it holds")
    victim.kill()
    fleet.tell("forgetful")
    for holder in ("victim", "forgetful"):
        fleet.until("reclaimed", holder)
    fleet.until("allocated", "heir")
    fleet.until("refused", "squatter")
    fleet.tell("patient")
    for holder in ("patient", "heir"):
        fleet.until("released", holder)
    fleet.until_gone()
