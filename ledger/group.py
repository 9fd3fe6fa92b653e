"""Group commit: callers from threads and asyncio tasks share transactions.

The first caller in leads: it takes everything that waits at that moment, commits for all, and wakes
them. What came in meanwhile is led by the first of those. So nobody waits for more than the commit
under way and their own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor
from threading import Lock
from typing import Any

from ledger.commands import AnyCommand
from ledger.errors import LedgerUnavailable, LimitExceeded

BATCH_MAX = 1_024
"""The most commands that share one transaction."""
PENDING_MAX = 100_000
"""The most commands that may wait for a transaction; more are turned away."""


class Ticket:
    """One command on its way: what came of it, or the error, once ``settle`` was called."""

    __slots__ = ("command", "error", "receipt")

    def __init__(self, command: AnyCommand) -> None:
        self.command = command
        self.receipt: Any = None
        self.error: BaseException | None = None

    def result(self) -> Any:
        """The receipt; raises what went wrong."""
        if self.error is not None:
            raise self.error
        return self.receipt


class ThreadTicket(Ticket):
    """A ticket whose caller blocks; ``lead`` tells the woken caller to lead the next batch."""

    __slots__ = ("lead", "wake")

    def __init__(self, command: AnyCommand) -> None:
        super().__init__(command)
        self.lead = False
        self.wake = Lock()
        self.wake.acquire()


class TaskTicket(Ticket):
    """A ticket whose caller awaits a future of its event loop."""

    __slots__ = ("future", "loop")

    def __init__(self, command: AnyCommand, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(command)
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()


def _interruption() -> LedgerUnavailable:
    return LedgerUnavailable(
        "the commit was interrupted", "try again under the same command id: it has one effect"
    )


def _resolve(tickets: list[TaskTicket]) -> None:
    for ticket in tickets:
        if not ticket.future.done():
            ticket.future.set_result(None)


class Group:
    """The commands that wait, and who leads. ``commit`` settles a batch of tickets."""

    def __init__(self, commit: Callable[[list[Ticket]], None]) -> None:
        self._commit = commit
        self._executor: Executor | None = None
        self._reset()

    def _reset(self) -> None:
        self._lock = Lock()
        self._pending: list[Ticket] = []
        self._busy = False
        self._pid = os.getpid()

    def _enter(self, ticket: Ticket) -> bool:
        """Put a ticket in line; True when its caller is the one to lead."""
        if self._pid != os.getpid():
            # A forked child has its parent's line, but not the threads that stand in it.
            self._reset()
            self._executor = None
        with self._lock:
            if len(self._pending) >= PENDING_MAX:
                raise LimitExceeded(
                    f"{PENDING_MAX} commands wait for the ledger already", "slow down and try again"
                )
            self._pending.append(ticket)
            if self._busy:
                return False
            self._busy = True
            return True

    def execute(self, command: AnyCommand) -> Any:
        """Run one command and block until it is committed."""
        ticket = ThreadTicket(command)
        if self._enter(ticket):
            self._lead(ticket)
        else:
            try:
                ticket.wake.acquire()
            except BaseException:
                self._abandon(ticket)
                raise
            if ticket.lead:
                self._lead(ticket)
        return ticket.result()

    def _abandon(self, ticket: ThreadTicket) -> None:
        """A caller was interrupted in line: leave it, or lead once if the lead was just handed over."""
        with self._lock:
            lead = ticket.lead
            if not lead and ticket in self._pending:
                self._pending.remove(ticket)
        if lead:
            self._lead(ticket)

    async def execute_async(self, command: AnyCommand) -> Any:
        """Run one command; the loop goes on while it is committed.

        A task that is cancelled meanwhile leaves its command to be carried out.
        """
        loop = asyncio.get_running_loop()
        ticket = TaskTicket(command, loop)
        if self._enter(ticket):
            # Led from the loop's next turn, so that all tasks of this turn share the transaction.
            loop.call_soon(self._lead_elsewhere)
        await ticket.future
        return ticket.result()

    def _lead_elsewhere(self) -> None:
        if self._executor is None:
            from concurrent.futures import ThreadPoolExecutor

            self._executor = ThreadPoolExecutor(1, "leasebook-writer")
        self._executor.submit(self._lead, None)

    def _lead(self, mine: Ticket | None) -> None:
        """Commit one batch, wake its callers, and hand the lead on."""
        with self._lock:
            batch = self._pending[:BATCH_MAX]
            del self._pending[:BATCH_MAX]
        try:
            self._commit(batch)
        except BaseException as error:
            interrupted = not isinstance(error, Exception)
            for ticket in batch:
                if ticket.receipt is None and ticket.error is None:
                    ticket.error = _interruption() if interrupted else error
            if interrupted:
                self._hand_on(batch, mine)
                raise
        self._hand_on(batch, mine)

    def _hand_on(self, batch: list[Ticket], mine: Ticket | None) -> None:
        with self._lock:
            following = self._pending[0] if self._pending else None
            self._busy = following is not None
            if isinstance(following, ThreadTicket):
                following.lead = True
        by_loop: dict[asyncio.AbstractEventLoop, list[TaskTicket]] = {}
        for ticket in batch:
            if isinstance(ticket, TaskTicket):
                by_loop.setdefault(ticket.loop, []).append(ticket)
            elif ticket is not mine and isinstance(ticket, ThreadTicket):
                ticket.wake.release()
        for loop, tickets in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, tickets)
        if isinstance(following, ThreadTicket):
            following.wake.release()
        elif following is not None:
            self._lead_elsewhere()

    def close(self) -> None:
        """Wait for the thread that leads for asyncio tasks, if there is one."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None
