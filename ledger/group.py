"""Group commit: callers from threads and asyncio tasks share transactions.

The first caller in leads: it takes everything that waits at that moment, commits for all, and wakes
them. What came in meanwhile is led by the first of those. So nobody waits for more than the commit
under way and their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any

from ledger.commands import AnyCommand
from ledger.errors import LedgerUnavailable, LimitExceeded

if TYPE_CHECKING:
    # The command line has no use for these, and they take longer to import than the whole ledger.
    import asyncio
    from concurrent.futures import Executor

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
    """A ticket whose caller blocks until it is settled, or made the leader."""

    __slots__ = ("wake",)

    def __init__(self, command: AnyCommand) -> None:
        super().__init__(command)
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


def _release(ticket: ThreadTicket) -> None:
    """Wake a ticket's caller. Once too often does no harm: nobody waits for a lock twice."""
    with contextlib.suppress(RuntimeError):
        ticket.wake.release()


class Group:
    """The commands that wait, and who leads. ``commit`` settles a batch of tickets.

    An interrupt (Ctrl-C) may strike the leader between any two lines. So every step of leading is
    one that :meth:`_abandon` can take again, and nobody is left waiting for a leader that is gone.
    """

    def __init__(self, commit: Callable[[list[Ticket]], None]) -> None:
        self._commit = commit
        self._running_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
        self.start_anew()

    def start_anew(self) -> None:
        """Forget the line: a forked child has its parent's, but not the threads that stand in it."""
        self._lock = Lock()
        self._pending: list[Ticket] = []
        self._batch: list[Ticket] = []
        self._leader: Ticket | None = None
        self._executor: Executor | None = None

    def execute(self, command: AnyCommand) -> Any:
        """Run one command and block until it is committed."""
        ticket = ThreadTicket(command)
        try:
            self._enter(ticket)
            if self._leader is not ticket:
                ticket.wake.acquire()
            if self._leader is ticket:
                self._lead(ticket)
        except BaseException:
            self._abandon(ticket)
            raise
        return ticket.result()

    async def execute_async(self, command: AnyCommand) -> Any:
        """Run one command; the loop goes on while it is committed.

        A task that is cancelled meanwhile leaves its command to be carried out.
        """
        running_loop = self._running_loop
        if running_loop is None:
            from asyncio import get_running_loop

            # Kept, since to import it anew for each command takes longer than to call it.
            running_loop = self._running_loop = get_running_loop
        loop = running_loop()
        ticket = TaskTicket(command, loop)
        self._enter(ticket)
        if self._leader is ticket:
            # Led from the loop's next turn, so that all tasks of this turn share the transaction.
            loop.call_soon(self._lead_elsewhere, ticket)
        await ticket.future
        return ticket.result()

    def _enter(self, ticket: Ticket) -> None:
        """Put a ticket in line; where nobody leads, it does."""
        with self._lock:
            if len(self._pending) >= PENDING_MAX:
                raise LimitExceeded(
                    f"{PENDING_MAX} commands wait for the ledger already", "slow down and try again"
                )
            self._pending.append(ticket)
            leader = self._leader
            if leader is None:
                self._leader = ticket
        if isinstance(leader, TaskTicket) and not leader.loop.is_running():
            # Its loop was stopped before the next turn, and may never take it.
            self._lead_elsewhere(leader)

    def _lead_elsewhere(self, leader: TaskTicket) -> None:
        """Lead in a thread of its own, so that no event loop waits for the disk."""
        try:
            with self._lock:
                if self._executor is None:
                    from concurrent.futures import ThreadPoolExecutor

                    # One thread only: asked twice for the same leader, it leads once.
                    self._executor = ThreadPoolExecutor(1, "leasebook-writer")
                executor = self._executor
            executor.submit(self._lead_if_still, leader)
        except RuntimeError:
            # The interpreter is ending and starts no more threads.
            self._lead_if_still(leader)

    def _lead_if_still(self, leader: TaskTicket) -> None:
        try:
            if self._leader is leader:
                self._lead(leader)
        except BaseException:
            self._abandon(leader)
            raise

    def _lead(self, leader: Ticket) -> None:
        """Commit one batch, wake its callers, and hand the lead on."""
        with self._lock:
            self._batch, self._pending = self._pending[:BATCH_MAX], self._pending[BATCH_MAX:]
        try:
            self._commit(self._batch)
        except Exception as error:
            self._fail(error)
        self._hand_on(leader)

    def _fail(self, error: Exception) -> None:
        for ticket in self._batch:
            if ticket.receipt is None and ticket.error is None:
                ticket.error = error

    def _hand_on(self, leader: Ticket) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[TaskTicket]] = {}
        for ticket in self._batch:
            if isinstance(ticket, TaskTicket):
                by_loop.setdefault(ticket.loop, []).append(ticket)
            elif ticket is not leader and isinstance(ticket, ThreadTicket):
                _release(ticket)
        for loop, tickets in by_loop.items():
            try:
                loop.call_soon_threadsafe(_resolve, tickets)
            except RuntimeError:
                # The loop was closed meanwhile: nobody is left to tell.
                continue
        with self._lock:
            self._batch = []
            self._leader = following = self._pending[0] if self._pending else None
        self._call(following)

    def _call(self, leader: Ticket | None) -> None:
        """Tell a ticket's caller that it is the one to lead."""
        if isinstance(leader, ThreadTicket):
            _release(leader)
        elif isinstance(leader, TaskTicket):
            self._lead_elsewhere(leader)

    def _abandon(self, ticket: Ticket) -> None:
        """A caller was interrupted: take it out of the line, and finish what it led."""
        with self._lock:
            if ticket in self._pending:
                self._pending.remove(ticket)
            leader = self._leader
        if leader is ticket:
            self._fail(_interruption())
            self._hand_on(ticket)
        else:
            # It may have been interrupted just before it called its follower.
            self._call(leader)

    def close(self) -> None:
        """Wait for the thread that leads for asyncio tasks, if there is one."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True)
