"""What a manager can be asked to write about pools, quotas, policies, tasks, holders and usage."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from leasebook.calling import Call, Calling, id_or_new, new_command_id, process_of
from leasebook.mapping import node_in
from leasebook.policies import policy_in
from leasebook.settings import default_holder
from ledger import commands as c
from ledger.amounts import check_name, parse_amounts
from ledger.errors import InvalidInput
from ledger.receipts import Receipt
from ledger.requests import NodeSpec


class Arranging(Calling):
    """The part of the writing interface that arranges what is handed out, and notes what is known."""

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
            command_id=id_or_new(command_id),
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
        command = c.ResizePool(command_id=id_or_new(command_id), pool=name, nodes=specs)
        return Call(command, self._receipt)

    def close_pool(self, name: str, *, command_id: str | None = None) -> Call[Receipt]:
        """Grant nothing more from a pool. Raises Refused."""
        return Call(c.ClosePool(command_id=id_or_new(command_id), pool=name), self._receipt)

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
            command_id=id_or_new(command_id),
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
            command_id=id_or_new(command_id),
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
        command = c.SetPolicy(command_id=id_or_new(command_id), pool=pool, policy=policy_in(policy))
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
            command_id=id_or_new(command_id),
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
