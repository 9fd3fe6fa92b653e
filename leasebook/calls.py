"""What a manager can be asked to write, once for the blocking and the awaited manager.

Each method turns a caller's words into a :class:`Call`: a command, and what to make of its receipt.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from leasebook.arranging import Arranging
from leasebook.calling import Call, holder_or_own, id_or_new, process_of
from leasebook.kinds import checks
from leasebook.mapping import allocate_in, duration_in, request_in
from leasebook.values import (
    AllocationHandle,
    AllocationRequest,
    AllocationResult,
    BatchResult,
    Duration,
    ReleaseResult,
)
from ledger import commands as c
from ledger.amounts import check_name, parse_amounts
from ledger.errors import InvalidInput
from ledger.identity import ProcessIdentity
from ledger.receipts import Receipt
from ledger.requests import DEFAULT_PRIORITY

_check_fields = checks(AllocationRequest.__init__)


def _check_item(given: object, number: int) -> None:
    if not isinstance(given, AllocationRequest):
        raise InvalidInput(
            f"item {number} of the batch is a {type(given).__name__}",
            "give AllocationRequest values, or dicts of their fields",
        )
    _check_fields((), {name: getattr(given, name) for name in AllocationRequest.__slots__})


class Calls(Arranging):
    """The writing half of a manager's interface. Its docstrings are the managers'."""

    # --- allocating ------------------------------------------------------------------------------

    def try_allocate(
        self,
        amounts: Mapping[str, Any],
        *,
        pool: str,
        holder: str | None = None,
        task: str | None = None,
        tenant: str = "default",
        ttl: Duration | None = None,
        pid: int | None = None,
        process: ProcessIdentity | None = None,
        wait: Duration | None = None,
        priority: str = DEFAULT_PRIORITY,
        strategy: str | None = None,
        select: Mapping[str, str] | None = None,
        spread: int | None = None,
        sticky: str | None = None,
        reserve: Duration | None = None,
        max_age: Duration | None = None,
        parent: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        command_id: str | None = None,
        blocks: bool = False,
    ) -> Call[AllocationResult]:
        """Ask once and return the result, a refusal too, without blocking.

        Arguments as :meth:`ResourceManager.allocate`; with ``wait`` a place in the queue is kept that
        long. ``blocks`` says that this process, and nobody else, is going to wait for it: the place is
        given up when it dies. Raises InvalidInput, LedgerUnavailable, LedgerCorrupt.
        """
        request = request_in(
            amounts,
            ttl=ttl,
            process=process or process_of(pid),
            max_age=max_age,
            wait=wait,
            priority=priority,
            strategy=strategy,
            select=select,
            spread=spread,
            sticky=sticky,
            reserve=reserve,
            parent=parent,
        )
        command = allocate_in(
            request,
            command_id=id_or_new(command_id),
            pool=pool,
            holder=holder_or_own(holder),
            task=task,
            tenant=tenant,
            metadata=metadata,
            asker=process_of(os.getpid()) if blocks and request.wait_ns is not None else None,
        )
        return Call(command, self._result)

    def allocate_batch(
        self,
        requests: Iterable[AllocationRequest | Mapping[str, Any]],
        *,
        atomic: bool = False,
        tenant: str = "default",
        command_id: str | None = None,
    ) -> Call[BatchResult]:
        """Ask for several at once; refusals are values in the result.

        ``atomic`` grants all or none. ``requests`` are :class:`AllocationRequest` values or dicts of
        their fields. Raises InvalidInput (nothing of the batch is done then), LedgerUnavailable.
        """
        batch_id = id_or_new(command_id)
        items = []
        for number, given in enumerate(requests):
            if isinstance(given, Mapping):
                from leasebook.schemas import batch_item

                given = batch_item(given, number)
            _check_item(given, number)
            request = request_in(
                given.amounts,
                ttl=given.ttl,
                process=process_of(given.pid),
                max_age=given.max_age,
                wait=given.wait,
                priority=given.priority,
                strategy=given.strategy,
                select=given.select,
                parent=given.parent,
            )
            items.append(
                allocate_in(
                    request,
                    command_id=batch_id,
                    pool=given.pool,
                    holder=holder_or_own(given.holder),
                    task=given.task,
                    tenant=tenant,
                    metadata=given.metadata,
                )
            )
        command = c.AllocateBatch(
            command_id=batch_id, tenant=tenant, items=tuple(items), atomic=atomic
        )
        return Call(command, self._batch)

    # --- tenure ----------------------------------------------------------------------------------

    def adjust(
        self,
        allocation: str,
        amounts: Mapping[str, Any],
        *,
        holder: str | None = None,
        token: int | None = None,
        tenant: str | None = None,
        command_id: str | None = None,
    ) -> Call[AllocationHandle]:
        """Hold other amounts on the same node; resources not named keep theirs, 0 gives one up.

        Raises Refused, InvalidInput, LedgerUnavailable.
        """
        base = parse_amounts(amounts, allow_zero=True)
        target = self._target(allocation, holder, token, False, tenant, command_id)
        return Call(c.Adjust(amounts=base, **target), self._handle)

    def renew(
        self,
        allocation: str,
        *,
        ttl: Duration | None = None,
        holder: str | None = None,
        token: int | None = None,
        tenant: str | None = None,
        command_id: str | None = None,
    ) -> Call[AllocationHandle]:
        """Extend a lease to now + ``ttl`` (the ttl it was asked with, if None); never shortens it.

        Raises Refused (``max_age_reached``, ``already_ended``, …), InvalidInput, LedgerUnavailable.
        """
        target = self._target(allocation, holder, token, False, tenant, command_id)
        return Call(c.Renew(ttl_ns=duration_in(ttl), **target), self._handle)

    def renew_holder(
        self,
        holder: str,
        *,
        ttl: Duration | None = None,
        tenant: str = "default",
        command_id: str | None = None,
    ) -> Call[Receipt]:
        """Extend every ttl lease of a holder, with one event. Raises Refused."""
        check_name("holder", holder)
        command = c.RenewHolder(
            holder=holder,
            ttl_ns=duration_in(ttl),
            tenant=tenant,
            command_id=id_or_new(command_id),
        )
        return Call(command, self._receipt)

    def confirm(
        self,
        allocation: str,
        *,
        holder: str | None = None,
        token: int | None = None,
        tenant: str | None = None,
        command_id: str | None = None,
    ) -> Call[AllocationHandle]:
        """Turn a reservation into an allocation. Raises Refused."""
        target = self._target(allocation, holder, token, False, tenant, command_id)
        return Call(c.Confirm(**target), self._handle)

    def release(
        self,
        allocation: str,
        *,
        consumed: Mapping[str, Any] | None = None,
        holder: str | None = None,
        token: int | None = None,
        tenant: str | None = None,
        command_id: str | None = None,
    ) -> Call[ReleaseResult]:
        """Give an allocation back. Raises Refused (``already_ended``, ``not_holder``, …)."""
        spent = None if consumed is None else parse_amounts(consumed, allow_zero=True)
        target = self._target(allocation, holder, token, False, tenant, command_id)
        return Call(c.Release(consumed=spent, **target), self._released)

    def transfer(
        self,
        allocation: str,
        *,
        to: str,
        to_task: str | None = None,
        pid: int | None = None,
        ttl: Duration | None = None,
        holder: str | None = None,
        token: int | None = None,
        tenant: str | None = None,
        command_id: str | None = None,
    ) -> Call[AllocationHandle]:
        """Hand an allocation to another holder; its fencing token changes. Raises Refused."""
        check_name("holder", to)
        target = self._target(allocation, holder, token, False, tenant, command_id)
        command = c.Transfer(
            to_holder=to,
            to_task=to_task,
            process=process_of(pid),
            ttl_ns=duration_in(ttl),
            **target,
        )
        return Call(command, self._handle)

    def withdraw(
        self,
        allocation: str,
        *,
        reason: str = "",
        holder: str | None = None,
        token: int | None = None,
        tenant: str | None = None,
        command_id: str | None = None,
    ) -> Call[AllocationHandle]:
        """Give up a place in the queue, or a reservation. Raises Refused."""
        target = self._target(allocation, holder, token, False, tenant, command_id)
        return Call(c.Withdraw(reason=reason, **target), self._handle)

    def reclaim(
        self,
        allocation: str,
        *,
        reason: str,
        by: str | None = None,
        grace: Duration = 10,
        tenant: str | None = None,
        command_id: str | None = None,
    ) -> Call[AllocationHandle]:
        """Take an allocation back by force, as an operator. Raises Refused.

        Bound to a process that lives, it is asked to end first, and ends when the process is gone.
        """
        if not reason.strip():
            raise InvalidInput("a forced reclaim needs a reason", "say why, for the record")
        target = self._target(allocation, by, None, True, tenant, command_id)
        present = self._writer.present(allocation)
        evidence: dict[str, Any] = {}
        alive = False
        if present is not None and present.request.process is not None:
            from scheduler.processes.liveness import Liveness, observe

            seen = observe(present.request.process)
            evidence = seen.evidence()
            alive = seen.liveness is not Liveness.DEAD
        command = c.Reclaim(
            cause="forced",
            evidence=evidence,
            reason=reason,
            process_alive=alive,
            enforced=bool(evidence),
            grace_ns=duration_in(grace, zero_is_none=True) or 1,
            **target,
        )
        return Call(command, self._handle)
