"""Blocking until something happens to an allocation, without anybody polling.

A waiter is woken by commits of this process and of others. Between them it looks up only when time
itself may have changed something: when the next lease ends, and every few seconds for holders whose
process died without a word. So a ledger needs no daemon to hand things on.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from leasebook.probing import look_for_waiting
from ledger.book import Allocation, Book
from ledger.commands import Await, Claim
from ledger.errors import LedgerReadOnly, LedgerUnavailable
from ledger.events import Event
from ledger.rules.leases import next_due
from ledger.wake import Bell
from ledger.writer import Writer

LOOK_FOR_CRASHES_EVERY_S = 1.0


def _due_in_s(book: Book, now: int) -> float:
    when = next_due(book)
    return LOOK_FOR_CRASHES_EVERY_S if when is None else max(0.0, (when - now) / 1e9)


class Waiter:
    """Waits on one ledger: for an allocation to leave a state, or for anything at all."""

    def __init__(self, writer: Writer, bell: Bell | None) -> None:
        self._writer = writer
        self._bell = bell
        self._crashes_at = 0.0

    def look_for_crashes(self) -> bool | None:
        """Take back what dead processes hold, at most once a second; whether there was anything. None
        where it was just done: one of those who wait here looks for all of them.
        """
        if time.monotonic() < self._crashes_at:
            return None
        self._crashes_at = time.monotonic() + LOOK_FOR_CRASHES_EVERY_S
        from scheduler.sweeps import crash

        with contextlib.suppress(LedgerUnavailable, LedgerReadOnly):
            return crash(self._writer).acted > 0
        return False

    def _look(self, allocation: str) -> tuple[Allocation | None, float]:
        """The present state, with what time or a crash has ended written down; when to look again."""
        if self.look_for_crashes() is not None:
            look_for_waiting(self._writer)
        self._writer.settle()
        state = self._writer.present(allocation)
        due = self._writer.read(_due_in_s)
        return state, min(LOOK_FOR_CRASHES_EVERY_S, due + 0.001)

    def _subscribe(self, allocation: str, wake: Callable[[], object]) -> Callable[[], None]:
        def heard(events: list[Event]) -> None:
            if any(e.allocation == allocation or e.allocation is None for e in events):
                wake()

        stop = self._writer.listen(heard)
        if self._bell is not None:
            self._bell.listen(self._writer.refresh)
        return stop

    def _keep_place(self, allocation: str) -> None:
        """Where another process alone waited for a request, its place no longer depends on that one."""
        present = self._writer.present(allocation)
        if present is None or present.state != "waiting" or present.asker is None:
            return
        from leasebook.calling import new_command_id, process_of
        from leasebook.settings import default_holder

        if present.asker == process_of(os.getpid()):
            return
        command = Await(
            command_id=new_command_id(),
            tenant=present.tenant,
            allocation=allocation,
            claim=Claim(default_holder(), operator=True),
        )
        # Who may only read waits all the same.
        with contextlib.suppress(LedgerReadOnly):
            self._writer.execute(command)

    def until(
        self,
        allocation: str,
        done: Callable[[Allocation | None], bool],
        timeout_s: float | None = None,
    ) -> Allocation | None:
        """Block until ``done(state)``, or ``timeout_s`` is over; return the state then."""
        self._keep_place(allocation)
        # Not an Event: Ctrl-C inside its wait can leave its lock taken for ever, and then whoever
        # sets it hangs, with all that it holds. A queue in C has no such moment.
        wake: SimpleQueue[None] = SimpleQueue()
        end = None if timeout_s is None else time.monotonic() + timeout_s
        stop = self._subscribe(allocation, lambda: wake.put(None))
        try:
            while True:
                state, pause = self._look(allocation)
                left = None if end is None else end - time.monotonic()
                if done(state) or (left is not None and left <= 0):
                    return state
                with contextlib.suppress(Empty):
                    wake.get(timeout=pause if left is None else min(pause, left))
                    while True:
                        wake.get_nowait()
        finally:
            stop()

    async def until_async(
        self,
        allocation: str,
        done: Callable[[Allocation | None], bool],
        timeout_s: float | None = None,
    ) -> Allocation | None:
        """As :meth:`until`, awaited."""
        # Imported here because the command line, which never awaits, starts faster without it.
        import asyncio

        loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._keep_place, allocation)
        wake = asyncio.Event()
        end = None if timeout_s is None else loop.time() + timeout_s
        stop = self._subscribe(allocation, lambda: loop.call_soon_threadsafe(wake.set))
        try:
            while True:
                wake.clear()
                state, pause = await asyncio.to_thread(self._look, allocation)
                left = None if end is None else end - loop.time()
                if done(state) or (left is not None and left <= 0):
                    return state
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), pause if left is None else min(pause, left))
        finally:
            stop()


def no_longer_waiting(state: Allocation | None) -> bool:
    """Whether a request has left the queue."""
    return state is None or state.state != "waiting"


def timeout_in(timeout: object) -> float | None:
    """How long a call may block, in seconds. None is for ever; 0 is not at all."""
    from leasebook.mapping import duration_in

    return None if timeout is None else (duration_in(timeout, zero_is_none=True) or 0) / 1e9
