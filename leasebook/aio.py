"""``leasebook.aopen(where)`` → :class:`AsyncResourceManager`: the same methods, awaited.

Tasks that write at the same moment share one transaction. Reading and waiting never block the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from collections.abc import Sequence as Seq
from functools import update_wrapper
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from leasebook.calling import Call, new_command_id
from leasebook.calls import Calls
from leasebook.kinds import checked, checks
from leasebook.manager import RENEWALS_PER_TTL, TRIES_PER_RENEWAL, Ledger
from leasebook.mapping import duration_in
from leasebook.questions import Questions
from leasebook.values import (
    AllocationHandle,
    AllocationResult,
    Duration,
    MemoryRequest,
    MetricsSnapshot,
    MonitoringFilters,
    refused,
)
from leasebook.waiting import no_longer_waiting, timeout_in
from ledger.errors import LeasebookError, Refused
from ledger.events import Event

P = ParamSpec("P")
T = TypeVar("T")


def _call(
    build: Callable[Concatenate[Calls, P], Call[T]],
) -> Callable[Concatenate[AsyncResourceManager, P], Awaitable[T]]:
    check = checks(build)

    async def method(self: AsyncResourceManager, /, *args: P.args, **kwargs: P.kwargs) -> T:
        check(args, kwargs)
        call = build(self._calls, *args, **kwargs)
        return call.convert(await self.ledger.carry_out_async(call.command))

    update_wrapper(method, build)
    return method


def _call_on_one(
    build: Callable[Concatenate[Calls, P], Call[T]],
) -> Callable[Concatenate[AsyncResourceManager, P], Awaitable[T]]:
    """For what looks something up in the ledger before it can be asked: not in the event loop."""
    check = checks(build)

    async def method(self: AsyncResourceManager, /, *args: P.args, **kwargs: P.kwargs) -> T:
        check(args, kwargs)
        call = await asyncio.to_thread(build, self._calls, *args, **kwargs)
        return call.convert(await self.ledger.writer.execute_async(call.command))

    update_wrapper(method, build)
    return method


def _ask(
    question: Callable[Concatenate[Questions, P], T],
) -> Callable[Concatenate[AsyncResourceManager, P], Awaitable[T]]:
    check = checks(question)

    async def method(self: AsyncResourceManager, /, *args: P.args, **kwargs: P.kwargs) -> T:
        check(args, kwargs)
        return await asyncio.to_thread(question, self._questions, *args, **kwargs)

    update_wrapper(method, question)
    return method


class AsyncResourceManager:
    """:class:`~leasebook.manager.ResourceManager` for asyncio. An async context manager.

    Handles that it gives out carry no methods of their own: call the manager's, with the handle's id
    and fencing token.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._calls = Calls(ledger.writer, None)
        self._questions = Questions(ledger.writer, None)

    @classmethod
    async def open(cls, where: str | Path | None = None, **options: Any) -> AsyncResourceManager:
        """Open a ledger; see :meth:`leasebook.manager.Ledger.open`."""
        return cls(await asyncio.to_thread(lambda: Ledger.open(where, **options)))

    try_allocate = _call(Calls.try_allocate)
    allocate_batch = _call(Calls.allocate_batch)
    adjust = _call_on_one(Calls.adjust)
    renew = _call_on_one(Calls.renew)
    renew_holder = _call(Calls.renew_holder)
    confirm = _call_on_one(Calls.confirm)
    release = _call_on_one(Calls.release)
    transfer = _call_on_one(Calls.transfer)
    withdraw = _call_on_one(Calls.withdraw)
    reclaim = _call_on_one(Calls.reclaim)
    open_pool = _call(Calls.open_pool)
    resize_pool = _call_on_one(Calls.resize_pool)
    close_pool = _call(Calls.close_pool)
    cordon = _call(Calls.cordon)
    set_quota = _call(Calls.set_quota)
    set_policy = _call(Calls.set_policy)
    observe = _call(Calls.observe)
    start_task = _call(Calls.start_task)
    finish_task = _call(Calls.finish_task)
    see_holder = _call(Calls.see_holder)
    record_usage = _call(Calls.record_usage)

    get = _ask(Questions.get)
    list = _ask(Questions.list)
    pools = _ask(Questions.pools)
    pool = _ask(Questions.pool)
    quotas = _ask(Questions.quotas)
    why = _ask(Questions.why)
    story = _ask(Questions.story)
    verify = _ask(Questions.verify)
    redact = _ask(Questions.redact)
    correct = _ask(Questions.correct)
    report = _ask(Questions.report)
    at = _ask(Questions.at)
    diff = _ask(Questions.diff)
    snapshot = _ask(Questions.snapshot)

    async def allocate(
        self, amounts: Mapping[str, Any], *, pool: str, block: bool = True, **options: Any
    ) -> AllocationHandle:
        """As :meth:`leasebook.manager.ResourceManager.allocate`. Cancelled at any moment, it gives up
        its place or what was granted, unless ``command_id`` was given."""
        keep = options.get("command_id") is not None
        if not keep:
            options["command_id"] = new_command_id()
        try:
            result: AllocationResult = await self.try_allocate(
                amounts, pool=pool, blocks=block and not keep, **options
            )
            if result.outcome == "waiting" and block:
                assert result.allocation is not None
                return await self.wait(result.allocation.id)
        except asyncio.CancelledError:
            if not keep:
                # Nobody can come back for it, and the lease may be long.
                await asyncio.shield(self._give_up(amounts, pool, options))
            raise
        if result.outcome == "refused":
            raise refused(result.receipt)
        assert result.allocation is not None
        return result.allocation

    async def wait(self, allocation: str, timeout: Duration | None = None) -> AllocationHandle:
        """As :meth:`leasebook.manager.ResourceManager.wait`."""
        limit = timeout_in(timeout)
        await self.get(allocation)
        await self.ledger.waiter.until_async(allocation, no_longer_waiting, limit)
        return await asyncio.to_thread(self._questions.granted, allocation)

    async def events(self, **filters: Any) -> Seq[Event]:
        """As :meth:`leasebook.questions.Questions.events`, read at once: give a ``limit``."""
        return await asyncio.to_thread(lambda: [*self._questions.events(**filters)])

    async def _give_up(
        self, amounts: Mapping[str, Any], pool: str, options: dict[str, Any]
    ) -> None:
        """Leave the queue, or give back what was granted. The command may not be committed yet:
        so it is given again, under the same id, and there is a receipt."""
        with contextlib.suppress(LeasebookError):
            result: AllocationResult = await self.try_allocate(amounts, pool=pool, **options)
            if result.allocation is None:
                return
            handle = result.allocation
            for leave in (self.withdraw, self.release):
                with contextlib.suppress(Refused):
                    await leave(handle.id, holder=handle.holder, tenant=handle.tenant)
                    return

    @checked
    async def allocate_memory(self, request: MemoryRequest) -> AllocationHandle:
        """Memory and nothing else."""
        return await self.allocate(
            {"memory": request.size},
            pool=request.pool,
            holder=request.holder,
            task=request.task,
            ttl=request.ttl,
            wait=request.wait,
            priority=request.priority,
        )

    @contextlib.asynccontextmanager
    async def lease(
        self,
        amounts: Mapping[str, Any],
        *,
        pool: str,
        ttl: Duration = 60,
        **options: Any,
    ) -> AsyncIterator[AllocationHandle]:
        """Hold while the block runs: renewed by a task meanwhile, released after it."""
        handle = await self.allocate(amounts, pool=pool, ttl=ttl, **options)
        keeper = asyncio.create_task(self._keep(handle, ttl))
        try:
            yield handle
        finally:
            keeper.cancel()
            try:
                await asyncio.wait({keeper})
            finally:
                with contextlib.suppress(Refused):
                    await self.release(handle.id, token=handle.fencing_token, tenant=handle.tenant)

    async def _keep(self, handle: AllocationHandle, ttl: Duration) -> None:
        pause_s = soon_s = (duration_in(ttl) or 1) / 1e9 / RENEWALS_PER_TTL
        while True:
            await asyncio.sleep(soon_s)
            soon_s = pause_s
            try:
                await self.renew(
                    handle.id, ttl=ttl, token=handle.fencing_token, tenant=handle.tenant
                )
            except Refused:
                return
            except LeasebookError:
                soon_s = pause_s / TRIES_PER_RENEWAL

    async def monitor(
        self, filters: MonitoringFilters | None = None
    ) -> AsyncIterator[MetricsSnapshot]:
        """The fleet's state now and every ``interval_s`` from then on, without end."""
        filters = filters or MonitoringFilters()
        while True:
            yield await self.snapshot(filters)
            await asyncio.sleep(filters.interval_s)

    async def close(self) -> None:
        """Close the ledger. What is held stays held until its lease ends."""
        await asyncio.to_thread(self.ledger.close)

    async def __aenter__(self) -> AsyncResourceManager:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
