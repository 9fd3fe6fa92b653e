"""What a manager can be asked to write, once for the blocking and the awaited manager.

Each method turns a caller's words into a :class:`Call`: a command, and what to make of its receipt.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from leasebook.kinds import checks
from leasebook.mapping import allocate_in, duration_in, node_in, request_in
from leasebook.policies import policy_in
from leasebook.settings import default_holder
from leasebook.values import (
    AllocationHandle,
    AllocationRequest,
    AllocationResult,
    BatchResult,
    Duration,
    ReleaseResult,
    refused,
    result_from,
)
from ledger import commands as c
from ledger.amounts import check_name, parse_amounts
from ledger.errors import InvalidInput
from ledger.identity import ProcessIdentity
from ledger.receipts import Receipt
from ledger.requests import DEFAULT_PRIORITY, NodeSpec
from ledger.writer import Writer

if TYPE_CHECKING:
    from leasebook.manager import ResourceManager

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A command on its way, and how its receipt becomes what the caller gets."""

    command: c.AnyCommand
    convert: Callable[[Receipt], T]


def new_command_id() -> str:
    """A fresh command id: a UUID of version 7. It identifies; it never orders."""
    import uuid_utils

    return str(uuid_utils.uuid7())


def _id_or_new(command_id: str | None) -> str:
    # An empty id is not "none": it comes from an unset variable, and would lose the one effect.
    return new_command_id() if command_id is None else command_id


def _holder_or_own(holder: str | None) -> str:
    return default_holder() if holder is None else holder


def process_of(pid: int | None) -> ProcessIdentity | None:
    """The identity of a running process. Raises InvalidInput where there is none."""
    if pid is None:
        return None
    from scheduler.processes.identity import identify

    try:
        return identify(pid)
    except (ProcessLookupError, ValueError, OverflowError):
        raise InvalidInput(
            f"there is no process {pid} to bind to", "give the pid of a running process"
        ) from None


_check_fields = checks(AllocationRequest.__init__)


def _check_item(given: object, number: int) -> None:
    if not isinstance(given, AllocationRequest):
        raise InvalidInput(
            f"item {number} of the batch is a {type(given).__name__}",
            "give AllocationRequest values, or dicts of their fields",
        )
    _check_fields((), {name: getattr(given, name) for name in AllocationRequest.__slots__})


class Calls:
    """The writing half of a manager's interface. Its docstrings are the managers'."""

    def __init__(self, writer: Writer, manager: ResourceManager | None) -> None:
        self._writer = writer
        self._manager = manager

    # --- conversions -----------------------------------------------------------------------------

    def _handle(self, receipt: Receipt) -> AllocationHandle:
        if receipt.outcome == "refused":
            raise refused(receipt)
        assert receipt.allocation is not None
        metadata = None if receipt.event is None else receipt.event.metadata
        return AllocationHandle(self._manager, receipt.allocation, metadata, receipt.replayed)

    def _released(self, receipt: Receipt) -> ReleaseResult:
        handle = self._handle(receipt)
        return ReleaseResult(receipt.outcome, handle, receipt.positions, receipt.replayed, receipt)

    def _receipt(self, receipt: Receipt) -> Receipt:
        if receipt.outcome == "refused":
            raise refused(receipt)
        return receipt

    def _batch(self, receipt: Receipt) -> BatchResult:
        results = tuple(result_from(self._manager, r) for r in receipt.results)
        return BatchResult(receipt.outcome, results, receipt.replayed, receipt)

    def _result(self, receipt: Receipt) -> AllocationResult:
        return result_from(self._manager, receipt)

    def _target(
        self,
        allocation: str,
        holder: str | None,
        token: int | None,
        operator: bool,
        tenant: str | None,
        command_id: str | None,
    ) -> dict[str, Any]:
        """What every command on one allocation needs; the tenant is the allocation's own."""
        if not allocation or len(allocation) > 32 or not allocation.isprintable():
            raise InvalidInput(
                f"{str(allocation)[:40]!r} is not an allocation's id", "ids look like A17"
            )
        if tenant is None:
            present = self._writer.present(allocation)
            tenant = "default" if present is None else present.tenant
        return {
            "allocation": allocation,
            "claim": c.Claim(_holder_or_own(holder), token, operator),
            "tenant": tenant,
            "command_id": _id_or_new(command_id),
        }

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
            command_id=_id_or_new(command_id),
            pool=pool,
            holder=_holder_or_own(holder),
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
        batch_id = _id_or_new(command_id)
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
                    holder=_holder_or_own(given.holder),
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
            command_id=_id_or_new(command_id),
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
            grace_ns=duration_in(grace) or 1,
            **target,
        )
        return Call(command, self._handle)

    # --- pools and rules -------------------------------------------------------------------------

    def open_pool(
        self,
        name: str,
        *,
        capacity: Mapping[str, Any] | None = None,
        nodes: Mapping[str, Mapping[str, Any]] | Iterable[NodeSpec] | None = None,
        labels: Mapping[str, Mapping[str, str]] | None = None,
        kind: str = "managed",
        consumable: bool = False,
        policy: Mapping[str, Any] | None = None,
        basis: str = "",
        command_id: str | None = None,
    ) -> Call[Receipt]:
        """Open a pool: ``capacity`` for one node named as the pool, or ``nodes`` (name → capacity).

        ``labels`` maps node to label to value. Raises Refused (``already_exists``), InvalidInput.
        """
        check_name("pool", name)
        if (capacity is None) == (nodes is None):
            raise InvalidInput(
                "a pool takes a capacity or nodes, exactly one of them",
                "such as cpu=8 memory=16GiB",
            )
        if capacity is not None:
            specs = [node_in(name, capacity, (labels or {}).get(name))]
        elif isinstance(nodes, Mapping):
            specs = [node_in(n, cap, (labels or {}).get(n)) for n, cap in nodes.items()]
        else:
            specs = list(nodes or ())
            if not all(isinstance(spec, NodeSpec) for spec in specs):
                raise InvalidInput("nodes are NodeSpec values, or a mapping of name to capacity")
        command = c.OpenPool(
            command_id=_id_or_new(command_id),
            pool=name,
            nodes=tuple(specs),
            kind=kind,
            consumable=consumable,
            policy=policy_in(policy or {}),
            basis=basis,
        )
        return Call(command, self._receipt)

    def resize_pool(
        self,
        name: str,
        *,
        capacity: Mapping[str, Any] | None = None,
        nodes: Mapping[str, Mapping[str, Any]] | None = None,
        command_id: str | None = None,
    ) -> Call[Receipt]:
        """Give a pool's one node (``capacity``) or named nodes another capacity. Raises Refused."""
        if capacity is not None:
            names = self._writer.read(
                lambda book, now: list(book.pools[name].space.nodes) if name in book.pools else []
            )
            if len(names) > 1:
                raise InvalidInput(
                    f"pool {name} has {len(names)} nodes", "say which one: --node NAME:cpu=8"
                )
            nodes = {names[0] if names else name: capacity}
        specs = tuple(node_in(n, cap, None) for n, cap in (nodes or {}).items())
        command = c.ResizePool(command_id=_id_or_new(command_id), pool=name, nodes=specs)
        return Call(command, self._receipt)

    def close_pool(self, name: str, *, command_id: str | None = None) -> Call[Receipt]:
        """Grant nothing more from a pool. Raises Refused."""
        return Call(c.ClosePool(command_id=_id_or_new(command_id), pool=name), self._receipt)

    def cordon(
        self,
        pool: str,
        node: str,
        *,
        cordoned: bool = True,
        reason: str = "",
        command_id: str | None = None,
    ) -> Call[Receipt]:
        """Let nothing new land on a node, or (``cordoned`` False) lift that. Raises Refused."""
        command = c.CordonNode(
            command_id=_id_or_new(command_id),
            pool=pool,
            node=node,
            cordoned=cordoned,
            reason=reason,
        )
        return Call(command, self._receipt)

    def set_quota(
        self,
        limits: Mapping[str, Any],
        *,
        tenant: str = "default",
        holder: str | None = None,
        pool: str | None = None,
        cohort: str | None = None,
        command_id: str | None = None,
    ) -> Call[Receipt]:
        """Limit what a tenant, or one holder of it, holds at once; empty limits lift it.

        Tenants of one ``cohort`` lend each other what their quotas leave unused.
        """
        base = parse_amounts(limits, allow_zero=True) if limits else {}
        command = c.SetQuota(
            command_id=_id_or_new(command_id),
            tenant=tenant,
            limits=base,
            holder=holder,
            pool=pool,
            cohort=cohort,
        )
        return Call(command, self._receipt)

    def observe(
        self,
        pool: str,
        node: str,
        outside: Mapping[str, int],
        *,
        basis: Mapping[str, str] | None = None,
        command_id: str | None = None,
    ) -> Call[Receipt]:
        """Record what others use of a node without asking the ledger, in base units.

        It is not handed out until a later look finds less. Raises Refused.
        """
        command = c.ObserveCapacity(
            command_id=command_id or new_command_id(),
            pool=pool,
            node=node,
            outside=dict(outside),
            basis=dict(basis or {}),
        )
        return Call(command, self._receipt)

    def set_policy(
        self, pool: str, policy: Mapping[str, Any], *, command_id: str | None = None
    ) -> Call[Receipt]:
        """Change settings of a pool's policy (see :mod:`leasebook.policies`). Raises Refused."""
        command = c.SetPolicy(
            command_id=_id_or_new(command_id), pool=pool, policy=policy_in(policy)
        )
        return Call(command, self._receipt)

    # --- tasks, holders, usage -------------------------------------------------------------------

    def start_task(
        self, task: str, *, by: str | None = None, tenant: str = "default"
    ) -> Call[Receipt]:
        """Say that a task begins. Raises Refused (``already_exists``)."""
        check_name("task", task)
        command = c.StartTask(
            command_id=new_command_id(), tenant=tenant, task=task, by=by or default_holder()
        )
        return Call(command, self._receipt)

    def finish_task(
        self,
        task: str,
        *,
        outcome: str = "",
        by: str | None = None,
        tenant: str = "default",
    ) -> Call[Receipt]:
        """Say that a task is over."""
        check_name("task", task)
        command = c.FinishTask(
            command_id=new_command_id(),
            tenant=tenant,
            task=task,
            by=by or default_holder(),
            outcome=outcome,
        )
        return Call(command, self._receipt)

    def see_holder(
        self,
        holder: str,
        *,
        pid: int | None = None,
        program: str = "",
        tenant: str = "default",
    ) -> Call[Receipt]:
        """Record which process a holder is (this one, if no pid is given)."""
        process = process_of(os.getpid() if pid is None else pid)
        assert process is not None
        command = c.SeeHolder(
            command_id=new_command_id(),
            tenant=tenant,
            holder=holder,
            process=process,
            program=program,
        )
        return Call(command, self._receipt)

    def record_usage(
        self,
        allocation: str,
        *,
        since: int,
        until: int,
        used: Mapping[str, int],
        peak: Mapping[str, int],
        basis: Mapping[str, str] | None = None,
        samples: int = 0,
        gaps_ns: int = 0,
        final: bool = False,
        exit_code: int | None = None,
        tenant: str = "default",
        command_id: str | None = None,
    ) -> Call[Receipt]:
        """Record what an allocation really used; see :class:`ledger.events.UsageRecorded`."""
        command = c.RecordUsage(
            command_id=_id_or_new(command_id),
            tenant=tenant,
            allocation=allocation,
            since=since,
            until=until,
            used=dict(used),
            peak=dict(peak),
            basis=dict(basis or {}),
            samples=samples,
            gaps_ns=gaps_ns,
            final=final,
            exit_code=exit_code,
        )
        return Call(command, self._receipt)
