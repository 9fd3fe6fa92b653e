"""The allocation that a command runs under: getting it, recording its use, noticing its loss.

It is bound to this process, so that a run that is killed is found as a crash. While the command
runs, everything that touches the ledger happens in a thread of its own: a ledger that is slow for a
minute must not hold up a signal.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from leasebook.calling import new_command_id
from leasebook.run.environment import ALLOCATION, LEDGER
from leasebook.run.options import RunOptions
from leasebook.run.sizing import default_amounts, ensure_local
from leasebook.settings import LOCAL_POOL, default_holder
from leasebook.waiting import no_longer_waiting
from ledger.book import Allocation
from ledger.errors import LeasebookError, LedgerUnavailable, Refused
from ledger.events import Event, UsageRecorded
from ledger.requests import Amounts

if TYPE_CHECKING:
    from leasebook.manager import ResourceManager
    from leasebook.run.signals import Signals

Say = Callable[[str], None]

LOOK_EVERY_S: Final = 2.0
"""How often the allocation is looked up when nobody rings: a lost ring costs this long."""

ATTEMPTS: Final = 3
_PAUSES_S: Final = (0.2, 1.0)
_GRACE_S: Final = 5.0
_GRACE_S_MAX: Final = 30.0

_NEWS: Final = frozenset({"ending", "reclaimed", "expired", "released", "transferred"})


class Interrupted(Exception):
    """A signal asked this process to go before the command was started."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


@dataclass(frozen=True, slots=True)
class Loss:
    """The allocation is no longer ours to use: why, in words, and how long the command may take."""

    why: str
    grace_s: float


class Hold:
    """An allocation that this process holds, and what is done with it."""

    def __init__(
        self, manager: ResourceManager, allocation: Allocation, tenant: str, sized: str
    ) -> None:
        self.manager = manager
        self.allocation = allocation
        self.tenant = tenant
        self.sized = sized

    @property
    def id(self) -> str:
        """The allocation's id."""
        return self.allocation.id

    def amounts(self) -> Amounts | None:
        """What it has now, in base units; None where it holds nothing. Raises LedgerUnavailable."""
        found = self.manager.ledger.writer.read(lambda book, now: book.allocations.get(self.id))
        return None if found is None else found.amounts

    def loss(self) -> Loss | None:
        """Whether the allocation was lost by now. Raises LedgerUnavailable."""
        writer = self.manager.ledger.writer
        state, now = writer.read(lambda book, now: (book.allocations.get(self.id), now))
        if state is not None and state.token == self.allocation.token:
            if state.state != "ending":
                return None
            left_s = ((state.deadline or now) - now) / 1e9
            # A part of the grace is left for the end itself: after it the sweep ends us as well.
            return Loss(self._why(), min(_GRACE_S_MAX, max(0.2, left_s * 0.8)))
        return Loss(self._why(), _GRACE_S)

    def _why(self) -> str:
        events = self.manager.story(self.id).steps
        news = [step.text for step in events if step.type in _NEWS]
        return news[-1] if news else "its allocation is gone"

    def record(self, usage: UsageRecorded) -> None:
        """Record one aggregate, once however often this is tried.

        Raises LedgerUnavailable, and Refused where the allocation is not known any more.
        """
        self.manager.record_usage(
            self.id,
            **usage_fields(usage),
            tenant=self.tenant,
            command_id=f"run-{self.id}-usage-{usage.since}",
        )

    def release(self) -> None:
        """Give it back. Raises Refused where that has happened otherwise, LedgerUnavailable."""
        self.manager.release(
            self.id,
            holder=self.allocation.holder,
            token=self.allocation.token,
            tenant=self.tenant,
            command_id=f"run-{self.id}-release",
        )

    def see_program(self, program: str) -> None:
        """Put on record which process the holder is, and the command's name."""
        self.manager.see_holder(
            self.allocation.holder, pid=os.getpid(), program=program, tenant=self.tenant
        )


def usage_fields(usage: UsageRecorded) -> dict[str, Any]:
    """An aggregate as the fields of a recording command."""
    return {name: getattr(usage, name) for name in UsageRecorded.__slots__}


# --- getting it ----------------------------------------------------------------------------------


def parent_of(manager: ResourceManager, options: RunOptions) -> Allocation | None:
    """The allocation that this process itself runs in, if the command can draw on it.

    It is named by the environment, has to be in this very ledger, live, of the same tenant and in
    the pool that was asked for. One that has ended is nobody's parent: the run stands for itself.
    """
    name, where = os.environ.get(ALLOCATION), os.environ.get(LEDGER)
    path = manager.ledger.path
    if not name or not where or path is None:
        return None
    if os.path.realpath(where) != os.path.realpath(path):
        return None
    found = manager.ledger.writer.read(lambda book, now: book.allocations.get(name))
    if found is None or found.state != "active":
        return None
    if options.tenant not in (None, found.tenant) or options.pool not in (None, found.pool):
        return None
    return found


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of the ledger for a run, with everything filled in that was left open."""

    pool: str
    parent: str | None
    tenant: str
    holder: str
    task: str | None
    amounts: dict[str, Any]
    sized: str


def prepare(manager: ResourceManager, options: RunOptions, say: Say) -> Ask:
    """Fill in what was left open; opens ``local`` where that is what is asked.

    Raises Refused (``local`` cannot be opened), InvalidInput, LedgerUnavailable.
    """
    parent = parent_of(manager, options)
    pool = options.pool or (LOCAL_POOL if parent is None else parent.pool)
    if pool == LOCAL_POOL and parent is None:
        opened = ensure_local(manager)
        if opened is not None:
            say(opened)
    tenant = options.tenant or ("default" if parent is None else parent.tenant)
    task = options.task or (None if parent is None else parent.task)
    holder = options.holder or os.environ.get("LEASEBOOK_HOLDER")
    holder = holder or (default_holder() if parent is None else parent.holder)
    amounts, sized = dict(options.amounts), ""
    if not amounts:
        found = default_amounts(
            manager,
            pool=pool,
            parent=None if parent is None else parent.id,
            task=task,
            tenant=tenant,
            select=options.select,
        )
        # Where no node fits there is nothing to share: the least request gets the true refusal.
        base, sized = found or ({"cpu": 1}, "")
        amounts = as_input(base)
    return Ask(pool, None if parent is None else parent.id, tenant, holder, task, amounts, sized)


def as_input(amounts: dict[str, int]) -> dict[str, str]:
    """Base units as the text that reads back as the same."""
    from ledger.amounts import format_amounts

    return format_amounts(amounts)


def acquire(
    manager: ResourceManager,
    ask: Ask,
    options: RunOptions,
    program: str,
    command_id: str,
    wait_ns: int,
    signals: Signals,
    say: Say,
) -> Hold:
    """Ask, wait for the turn, and hold. Twice under one ``command_id`` is once.

    Raises Refused, Interrupted (nothing is held then), InvalidInput, LedgerUnavailable.
    """
    from leasebook.mapping import allocate_in, request_in
    from leasebook.values import refused
    from scheduler.processes.identity import identify

    request = request_in(
        ask.amounts,
        process=identify(),
        wait=wait_ns / 1e9 if wait_ns else None,
        priority=options.priority,
        select=options.select,
        parent=ask.parent,
    )
    command = allocate_in(
        request,
        command_id=command_id,
        pool=ask.pool,
        holder=ask.holder,
        task=ask.task,
        tenant=ask.tenant,
        metadata={"program": program},
    )
    receipt = manager.ledger.carry_out(command)
    if receipt.outcome == "refused":
        raise refused(receipt)
    assert receipt.allocation is not None
    state = receipt.allocation
    if state.state == "waiting":
        reason = getattr(receipt.event.body, "reason", "") if receipt.event is not None else ""
        say(f"{state.id} waits for {ask.pool}: {reason.replace('_', ' ')}")
        state = _wait(manager, state, signals)
    number = signals.asked_to_end()
    hold = Hold(manager, state, ask.tenant, ask.sized)
    if number is not None:
        with contextlib.suppress(Refused):
            hold.release()
        raise Interrupted(number)
    return hold


def _wait(manager: ResourceManager, waiting: Allocation, signals: Signals) -> Allocation:
    """Block until it is granted. Raises Interrupted after giving the place up, Refused."""

    def done(state: Allocation | None) -> bool:
        return no_longer_waiting(state) or signals.asked_to_end() is not None

    manager.ledger.waiter.until(waiting.id, done)
    number = signals.asked_to_end()
    if number is not None:
        try:
            manager.withdraw(
                waiting.id,
                holder=waiting.holder,
                tenant=waiting.tenant,
                reason=f"interrupted by signal {number}",
            )
            raise Interrupted(number)
        except Refused:
            # Granted or ended in this very moment; the former is given back by the caller.
            pass
    manager.wait(waiting.id)
    state = manager.ledger.writer.present(waiting.id)
    assert state is not None
    return state


# --- while the command runs ----------------------------------------------------------------------


class Keeper:
    """Talks to the ledger while the command runs, in a thread of its own.

    ``loss`` is set once the allocation is lost, ``amounts`` to what it has now; ``wake`` is called
    when one of them changes.
    """

    def __init__(self, hold: Hold, wake: Callable[[], None], program: str) -> None:
        self.loss: Loss | None = None
        self.amounts = hold.allocation.amounts
        self._hold = hold
        self._program: str | None = program
        self._recorded: set[int] = set()
        self._wake = wake
        self._news = threading.Event()
        self._stopping = False
        self._usages: deque[UsageRecorded] = deque()
        ledger = hold.manager.ledger
        self._unlisten = ledger.writer.listen(self._heard)
        if ledger.bell is not None:
            ledger.bell.listen(ledger.writer.refresh)
        self._thread = threading.Thread(target=self._run, name="leasebook-keeper", daemon=True)
        self._thread.start()

    def _heard(self, events: list[Event]) -> None:
        news = (*_NEWS, "adjusted")
        if any(e.allocation == self._hold.id and e.type in news for e in events):
            self._news.set()

    def record(self, usage: UsageRecorded) -> None:
        """Record this soon; what cannot be recorded now is tried again."""
        self._usages.append(usage)
        self._news.set()

    def _run(self) -> None:
        while not self._stopping:
            self._turn()
            self._news.wait(LOOK_EVERY_S)
            self._news.clear()

    def _turn(self) -> None:
        try:
            if self._program is not None:
                self._hold.see_program(self._program)
                self._program = None
            while self._usages and not self._stopping:
                self._hold.record(self._usages[0])
                self._recorded.add(self._usages.popleft().since)
            if self.loss is None:
                amounts, self.loss = self._hold.amounts(), self._hold.loss()
                changed = amounts is not None and amounts != self.amounts
                if amounts is not None and changed:
                    self.amounts = amounts
                if changed or self.loss is not None:
                    self._wake()
        except LeasebookError:
            # Unknown is not lost. It is tried again in a moment, and at the end for good.
            return

    def stop(self) -> frozenset[int]:
        """End the thread; the beginnings of the aggregates that it has recorded. Twice is fine."""
        if not self._stopping:
            self._stopping = True
            self._news.set()
            self._thread.join()
            self._unlisten()
        return frozenset(self._recorded)


# --- at the end ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What the ledger did not take at the end, and the error that it gave."""

    usages: list[UsageRecorded]
    released: bool
    error: LeasebookError


def settle(hold: Hold, usages: list[UsageRecorded]) -> Unfinished | None:
    """Record what is left and release, with a few attempts; None when the ledger has it all."""
    left = list(usages)
    error: LeasebookError | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(_PAUSES_S[min(attempt, len(_PAUSES_S)) - 1])
        try:
            while left:
                hold.record(left[0])
                left.pop(0)
            hold.release()
            return None
        except Refused:
            # It was taken back meanwhile, or is gone with its tenant: there is nothing to give.
            return None
        except LedgerUnavailable as unavailable:
            error = unavailable
        except LeasebookError as damage:
            return Unfinished(left, False, damage)
    assert error is not None
    return Unfinished(left, False, error)


def fresh_command_id() -> str:
    """A command id for one run, the same for all its attempts."""
    return f"run-{new_command_id()}"
