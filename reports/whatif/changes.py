"""Changes: what is to be otherwise in a what-if, and how it is put into the book and the commands."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import Any

from ledger import commands as c
from ledger.book import Book, Pool
from ledger.errors import InvalidInput
from ledger.events import (
    AnyBody,
    Event,
    NodeCordoned,
    NodeJoined,
    NodeLeft,
    PolicySet,
    PoolResized,
    QuotaSet,
)
from ledger.evolve import evolve
from ledger.policy import Policy, complaint
from ledger.requests import Amounts, NodeSpec, Request
from ledger.rules.validity import MAX_NODES
from projections.wording import many


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be otherwise. ``pool`` None: in all managed pools.

    ``policy`` are settings (:class:`ledger.policy.Policy`); ``sizes`` (pool, node) → capacities;
    ``nodes`` how many nodes more or fewer each pool has; ``quotas`` tenant → limits in ``pool``;
    ``ttl_ns`` the ttl of every request that has one; ``keep_strategies`` False: also requests that
    named a strategy of their own go by the pool's.
    """

    pool: str | None = None
    policy: dict[str, Any] = field(default_factory=dict)
    sizes: dict[tuple[str, str], Amounts] = field(default_factory=dict)
    nodes: int = 0
    quotas: dict[str, Amounts] = field(default_factory=dict)
    ttl_ns: int | None = None
    keep_strategies: bool = True

    def __bool__(self) -> bool:
        """Whether anything is otherwise."""
        return bool(
            self.policy or self.sizes or self.nodes or self.quotas or self.ttl_ns is not None
        )

    def touches(self, pool: str) -> bool:
        """Whether a pool is meant."""
        return self.pool is None or pool == self.pool

    # --- what is there at the start --------------------------------------------------------------

    def put_into(self, book: Book) -> None:
        """Make the book so. Raises InvalidInput for what cannot be.

        Pools that are opened later are made so by :meth:`said`.
        """
        meant = [p.policy for p in book.pools.values() if self.touches(p.name)]
        for policy in meant or [Policy()]:
            wrong = complaint(self.policy, policy)
            if wrong is not None:
                raise InvalidInput(wrong)
        for pool in list(book.pools.values()):
            if pool.kind == "managed" and not pool.closed:
                self._put_into_pool(book, pool)
        for tenant, limits in self.quotas.items():
            _tell(book, QuotaSet(limits), pool=self.pool, tenant=tenant)

    def _put_into_pool(self, book: Book, pool: Pool) -> None:
        resized = [
            NodeSpec(name, {**pool.space.nodes[name].capacity, **capacity})
            for (where, name), capacity in self.sizes.items()
            if where == pool.name and name in pool.space.nodes
        ]
        if resized:
            _tell(book, PoolResized(tuple(resized)), pool=pool.name)
        if not self.touches(pool.name):
            return
        if self.policy:
            _tell(book, PolicySet(self.policy), pool=pool.name)
        self._count_nodes(book, pool)

    def _count_nodes(self, book: Book, pool: Pool) -> None:
        if not self.nodes or pool.consumable:
            return
        names = list(pool.space.nodes)
        self._spare(pool.name, len(names))
        for name in names[self.nodes :] if self.nodes < 0 else ():
            used = any(pool.space.nodes[name].in_use.values())
            _tell(book, NodeCordoned(name) if used else NodeLeft(name), pool=pool.name)
        if not names or self.nodes < 0:
            return
        last = pool.space.nodes[names[-1]]
        model = NodeSpec(last.name, dict(last.capacity), dict(last.labels))
        for spec in self._more(pool.name, model, set(names)):
            _tell(book, NodeJoined(spec), pool=pool.name)

    # --- what is asked ---------------------------------------------------------------------------

    def asked(self, pool: str, request: Request) -> Request:
        """A request as it is asked here."""
        if not self.touches(pool):
            return request
        if self.ttl_ns is not None and request.ttl_ns is not None:
            request = replace(request, ttl_ns=self.ttl_ns)
        if not self.keep_strategies and request.strategy is not None:
            request = replace(request, strategy=None)
        return request

    def said(self, command: c.AnyCommand) -> c.AnyCommand:
        """A command about pools as it is given here: what is to be otherwise stays so."""
        if isinstance(command, c.OpenPool) and command.kind == "managed":
            return self._opened(command)
        if isinstance(command, c.SetPolicy) and self.policy and self.touches(command.pool):
            return replace(command, policy={**command.policy, **self.policy})
        if isinstance(command, c.ResizePool) and self.sizes:
            nodes = tuple(self._sized(command.pool, spec) for spec in command.nodes)
            return replace(command, nodes=nodes)
        if isinstance(command, c.JoinNode) and self.sizes:
            return replace(command, node=self._sized(command.pool, command.node))
        if not isinstance(command, c.SetQuota) or command.tenant not in self.quotas:
            return command
        if command.holder is not None or command.pool != self.pool:
            return command
        return replace(command, limits=self.quotas[command.tenant])

    def _opened(self, command: c.OpenPool) -> c.OpenPool:
        nodes = tuple(self._sized(command.pool, spec) for spec in command.nodes)
        if not self.touches(command.pool):
            return replace(command, nodes=nodes)
        if self.nodes and not command.consumable:
            self._spare(command.pool, len(nodes))
            names = {spec.name for spec in nodes}
            more = self._more(command.pool, nodes[-1], names) if self.nodes > 0 else []
            nodes = nodes[: self.nodes] if self.nodes < 0 else (*nodes, *more)
        wrong = complaint({**command.policy, **self.policy}, Policy())
        if wrong is not None and complaint(command.policy, Policy()) is None:
            raise InvalidInput(f"pool {command.pool}: {wrong}", "name another --pool")
        return replace(command, nodes=nodes, policy={**command.policy, **self.policy})

    def _spare(self, pool: str, there: int) -> None:
        """Raise InvalidInput where a pool would be left without a node."""
        if self.nodes < 0 and there <= -self.nodes:
            raise InvalidInput(
                f"pool {pool} has {many(there, 'node')}, so {-self.nodes} cannot be taken away",
                "take fewer, or name a --pool",
            )

    def _more(self, pool: str, model: NodeSpec, taken: set[str]) -> list[NodeSpec]:
        """Nodes like another one, under names of their own. Raises InvalidInput for too many."""
        if len(taken) + self.nodes > MAX_NODES:
            raise InvalidInput(
                f"pool {pool} has {len(taken)} nodes, and may have {MAX_NODES}, not {self.nodes} more",
                "take fewer, or name a --pool",
            )
        names = (f"{model.name}+{n}" for n in count(1))
        free = (name for name in names if name not in taken)
        return [replace(model, name=name) for name in islice(free, self.nodes)]

    def _sized(self, pool: str, spec: NodeSpec) -> NodeSpec:
        capacity = self.sizes.get((pool, spec.name))
        return spec if capacity is None else replace(spec, capacity={**spec.capacity, **capacity})


def _tell(book: Book, body: AnyBody, *, pool: str | None, tenant: str = "") -> None:
    """Evolve a private book by something that is in no log: its position and time stay."""
    position, recorded_at = book.position, book.recorded_at
    evolve(
        book,
        Event(position + 1, recorded_at, recorded_at, tenant, pool, None, None, None, None, body),
    )
    book.position = position
