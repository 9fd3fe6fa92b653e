"""``leasebook.open(where)`` → :class:`ResourceManager`: the whole ledger from Python, blocking.

:mod:`leasebook.aio` has the same, awaited. Both are made of :mod:`leasebook.calls` and
:mod:`leasebook.questions`; what stands here is only how a call is carried out.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import update_wrapper
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from leasebook.calling import Call, new_command_id
from leasebook.calls import Calls
from leasebook.kinds import checked, checks
from leasebook.probing import due_for, look_before, take_look
from leasebook.questions import Questions
from leasebook.settings import ledger_path, which_ledger
from leasebook.values import (
    AllocationHandle,
    AllocationResult,
    Duration,
    MemoryRequest,
    MetricsSnapshot,
    MonitoringFilters,
    refused,
    result_from,
)
from leasebook.waiting import Waiter, no_longer_waiting, timeout_in
from ledger.clock import Reading
from ledger.commands import Allocate, AllocateBatch, AnyCommand
from ledger.errors import InvalidInput, LeasebookError, Reason, Refused
from ledger.log import Log
from ledger.receipts import Receipt
from ledger.snapshots import Snapshots
from ledger.wake import Bell
from ledger.writer import Writer, begin

P = ParamSpec("P")
T = TypeVar("T")

_FOR_WANT_OF_ROOM = frozenset(
    {
        Reason.INSUFFICIENT_CAPACITY,
        Reason.RESERVED_FOR_WAITING,
        Reason.QUOTA_EXCEEDED,
        Reason.QUEUE_FULL,
    }
)

RENEWALS_PER_TTL = 3
TRIES_PER_RENEWAL = 5


def lacks_room(command: AnyCommand, receipt: Receipt) -> bool:
    """Whether a request was refused, or has to wait, for something that others hold.

    Not one of a batch by itself: what the others of it came to stays.
    """
    if receipt.replayed or not isinstance(command, Allocate | AllocateBatch):
        return False
    if isinstance(command, AllocateBatch) and not command.atomic:
        return False
    return receipt.outcome == "waiting" or receipt.reason in _FOR_WANT_OF_ROOM


def _as_new(receipt: Receipt) -> Receipt:
    """A receipt that its caller has not seen before, whatever the ledger had."""
    results = tuple([replace(each, replayed=False) for each in receipt.results])
    return replace(receipt, replayed=False, results=results)


class Ledger:
    """One open ledger: the writer, the bell, and what both managers are made of."""

    def __init__(self, log: Log, path: Path | None, clock: Callable[[], Reading] | None) -> None:
        self.path = path
        self.bell = None if path is None else Bell(path)
        self.writer = Writer(
            log,
            clock=clock,
            snapshots=None if path is None else Snapshots(path),
            wake_others=None if self.bell is None else self.bell.ring,
        )
        self.waiter = Waiter(self.writer, self.bell)

    @classmethod
    def open(
        cls,
        where: str | Path | None = None,
        *,
        create: bool = True,
        read_only: bool = False,
        clock: Callable[[], Reading] | None = None,
    ) -> Ledger:
        """Open the ledger at a path (made if it is not there), or ``":memory:"``.

        Raises NotALedger, LedgerUnavailable, LedgerCorrupt, InvalidInput.
        """
        if where == ":memory:":
            from ledger.memory_log import MemoryLog

            ledger = cls(MemoryLog(), None, clock)
        else:
            from ledger.sqlite_log import SqliteLog

            if where is not None and not isinstance(where, str | os.PathLike):
                raise InvalidInput(
                    f"{str(where)[:40]!r} is not a ledger's name", "give a path, as text or as Path"
                )
            path = ledger_path(which_ledger(None if where is None else os.fspath(where)))
            log = SqliteLog.open(path, create=create and not read_only, read_only=read_only)
            ledger = cls(log, log.path, clock)
        try:
            if ledger.writer.log.read_only_reason is None:
                begin(ledger.writer.log, new_command_id(), ledger.writer)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def carry_out(self, command: AnyCommand) -> Receipt:
        """Execute a command, after a look at what others use of the pools that it asks.

        A request that finds no room is decided once more where that was held by the dead: nobody
        should need a sweep for what can be seen here and now. Raises what the writer raises.
        """
        look_before(self.writer, command)
        receipt = self.writer.execute(command)
        if lacks_room(command, receipt) and self.waiter.look_for_crashes():
            receipt = _as_new(self.writer.execute(command))
        return receipt

    async def carry_out_async(self, command: AnyCommand) -> Receipt:
        """As :meth:`carry_out`, awaited."""
        import asyncio

        asked = due_for(self.writer, command)
        if asked:
            await asyncio.to_thread(take_look, self.writer, asked)
        receipt = await self.writer.execute_async(command)
        if lacks_room(command, receipt):
            look = self.waiter.look_for_crashes
            if await asyncio.to_thread(look):
                receipt = _as_new(await self.writer.execute_async(command))
        return receipt

    def close(self) -> None:
        """Let go of files, sockets and threads."""
        if self.bell is not None:
            self.bell.close()
        self.writer.close()


def _call(
    build: Callable[Concatenate[Calls, P], Call[T]],
) -> Callable[Concatenate[ResourceManager, P], T]:
    check = checks(build)

    def method(self: ResourceManager, /, *args: P.args, **kwargs: P.kwargs) -> T:
        check(args, kwargs)
        call = build(self._calls, *args, **kwargs)
        return call.convert(self.ledger.carry_out(call.command))

    update_wrapper(method, build)
    return method


def _ask(
    question: Callable[Concatenate[Questions, P], T],
) -> Callable[Concatenate[ResourceManager, P], T]:
    check = checks(question)

    def method(self: ResourceManager, /, *args: P.args, **kwargs: P.kwargs) -> T:
        check(args, kwargs)
        return question(self._questions, *args, **kwargs)

    update_wrapper(method, question)
    return method


class ResourceManager:
    """Allocates, renews, releases, and answers; a context manager that closes the ledger.

    Threads may share one: their calls share transactions. Refusals raise
    :class:`~ledger.errors.Refused`, bad input :class:`~ledger.errors.InvalidInput`, infrastructure
    faults :class:`~ledger.errors.LedgerUnavailable`, damage :class:`~ledger.errors.LedgerCorrupt`.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._calls = Calls(ledger.writer, self)
        self._questions = Questions(ledger.writer, self)

    # What is written.
    try_allocate = _call(Calls.try_allocate)
    allocate_batch = _call(Calls.allocate_batch)
    adjust = _call(Calls.adjust)
    renew = _call(Calls.renew)
    renew_holder = _call(Calls.renew_holder)
    confirm = _call(Calls.confirm)
    release = _call(Calls.release)
    transfer = _call(Calls.transfer)
    withdraw = _call(Calls.withdraw)
    reclaim = _call(Calls.reclaim)
    open_pool = _call(Calls.open_pool)
    resize_pool = _call(Calls.resize_pool)
    close_pool = _call(Calls.close_pool)
    cordon = _call(Calls.cordon)
    set_quota = _call(Calls.set_quota)
    set_policy = _call(Calls.set_policy)
    observe = _call(Calls.observe)
    start_task = _call(Calls.start_task)
    finish_task = _call(Calls.finish_task)
    see_holder = _call(Calls.see_holder)
    record_usage = _call(Calls.record_usage)

    # What is asked.
    get = _ask(Questions.get)
    list = _ask(Questions.list)
    pools = _ask(Questions.pools)
    pool = _ask(Questions.pool)
    quotas = _ask(Questions.quotas)
    why = _ask(Questions.why)
    story = _ask(Questions.story)
    events = _ask(Questions.events)
    verify = _ask(Questions.verify)
    redact = _ask(Questions.redact)
    correct = _ask(Questions.correct)
    report = _ask(Questions.report)
    at = _ask(Questions.at)
    diff = _ask(Questions.diff)
    snapshot = _ask(Questions.snapshot)

    def allocate(
        self, amounts: Mapping[str, Any], *, pool: str, block: bool = True, **options: Any
    ) -> AllocationHandle:
        """Ask for ``amounts`` (such as ``{"cpu": 2, "memory": "4GiB"}``) of a pool.

        Interrupted while it waits, or killed, it gives its place up, unless ``command_id`` was given.

        Options: ``holder`` (default ``$LEASEBOOK_HOLDER``, else ``user@host``), ``task``, ``tenant``,
        ``ttl`` (default 15 min) or ``pid``, ``wait`` (how long a place in the queue is kept; the call
        blocks that long unless ``block`` is False, and then gives back a waiting handle),
        ``priority``, ``strategy``, ``select``, ``max_age``, ``reserve``, ``parent``, ``metadata``,
        ``command_id`` (asking twice under one id has one effect).

        Raises Refused (``reason``, ``shortfall``, ``blockers``), InvalidInput, LedgerUnavailable.
        """
        keep = options.get("command_id") is not None
        if not keep:
            options["command_id"] = new_command_id()
        try:
            result: AllocationResult = self.try_allocate(
                amounts, pool=pool, blocks=block and not keep, **options
            )
            if result.outcome == "waiting" and block:
                assert result.allocation is not None
                return self.wait(result.allocation.id)
        except BaseException as error:
            if not isinstance(error, Exception) and not keep:
                # Interrupted, and without an id nobody can come back for it.
                self._give_up(amounts, pool, options)
            raise
        if result.outcome == "refused":
            raise refused(result.receipt)
        assert result.allocation is not None
        return result.allocation

    def wait(self, allocation: str, timeout: Duration | None = None) -> AllocationHandle:
        """Block until a waiting request is granted; a handle that still waits after ``timeout``.

        Raises Refused (``wait_timed_out``, ``already_ended``, ``no_such_allocation``).
        """
        limit = timeout_in(timeout)
        self._questions.get(allocation)
        self.ledger.waiter.until(allocation, no_longer_waiting, limit)
        return self._questions.granted(allocation)

    def _give_up(self, amounts: Mapping[str, Any], pool: str, options: dict[str, Any]) -> None:
        """Leave the queue, or give back what was granted. Whether the command was committed is not
        known at that moment: so it is given again, under the same id, and there is a receipt.
        """
        with contextlib.suppress(LeasebookError):
            result: AllocationResult = self.try_allocate(amounts, pool=pool, **options)
            if result.allocation is None:
                return
            handle = result.allocation
            for leave in (self.withdraw, self.release):
                with contextlib.suppress(Refused):
                    leave(handle.id, holder=handle.holder, tenant=handle.tenant)
                    return

    @checked
    def allocate_memory(self, request: MemoryRequest) -> AllocationHandle:
        """Memory and nothing else. Raises as :meth:`allocate`."""
        return self.allocate(
            {"memory": request.size},
            pool=request.pool,
            holder=request.holder,
            task=request.task,
            ttl=request.ttl,
            wait=request.wait,
            priority=request.priority,
        )

    @contextlib.contextmanager
    def lease(
        self,
        amounts: Mapping[str, Any],
        *,
        pool: str,
        ttl: Duration = 60,
        **options: Any,
    ) -> Iterator[AllocationHandle]:
        """Hold while the block runs: renewed from a thread meanwhile, released after it.

        Options as :meth:`allocate`. A lease that is lost while the block runs is not an error at its
        end; ``handle.get()`` tells inside the block.
        """
        handle = self.allocate(amounts, pool=pool, ttl=ttl, **options)
        stop = threading.Event()
        keeper = threading.Thread(
            target=self._keep, args=(handle, ttl, stop), name=f"leasebook-{handle.id}", daemon=True
        )
        keeper.start()
        try:
            yield handle
        finally:
            stop.set()
            keeper.join()
            with contextlib.suppress(Refused):
                handle.release()

    def _keep(self, handle: AllocationHandle, ttl: Duration, stop: threading.Event) -> None:
        from leasebook.mapping import duration_in

        pause_s = soon_s = (duration_in(ttl) or 1) / 1e9 / RENEWALS_PER_TTL
        while not stop.wait(soon_s):
            soon_s = pause_s
            try:
                handle.renew(ttl)
            except Refused:
                return
            except LeasebookError:
                # The disk may be back before the lease is over: tried again sooner, and so in time.
                soon_s = pause_s / TRIES_PER_RENEWAL

    @checked
    def monitor(self, filters: MonitoringFilters | None = None) -> Iterator[MetricsSnapshot]:
        """The fleet's state now and every ``interval_s`` from then on, without end."""
        filters = filters or MonitoringFilters()
        while True:
            yield self._questions.snapshot(filters)
            time.sleep(filters.interval_s)

    @checked
    def result_of(self, receipt: Receipt) -> AllocationResult:
        """The result that a receipt stands for."""
        return result_from(self, receipt)

    def close(self) -> None:
        """Close the ledger. What is held stays held until its lease ends."""
        self.ledger.close()

    def __enter__(self) -> ResourceManager:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
