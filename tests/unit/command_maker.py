"""Random commands on a small house of pools, chosen by a seed: everything that can be asked, at once.

Three pools (nodes with cards and labels, a second one, a budget), two tenants in a cohort, four
holders. Amounts are small and few, so that commands meet.
"""

from __future__ import annotations

from random import Random
from typing import Any

from ledger.book import Book
from ledger.commands import (
    Adjust,
    Allocate,
    AllocateBatch,
    AnyCommand,
    Await,
    Claim,
    ClosePool,
    Confirm,
    CordonNode,
    ExtendTime,
    JoinNode,
    LeaveNode,
    ObserveCapacity,
    OpenLedger,
    OpenPool,
    Reclaim,
    Release,
    Renew,
    RenewHolder,
    ResizePool,
    SetPolicy,
    SetQuota,
    Transfer,
    Withdraw,
)
from ledger.identity import ProcessIdentity
from ledger.requests import PRIORITIES, NodeSpec, Request

SECOND = 1_000_000_000
PROCESS = ProcessIdentity("host", 4242, 77, "boot", "ns")
TENANTS = ("ann", "bob")
HOLDERS = ("h1", "h2", "h3", "h4")
NODES = ("n1", "n2", "n3")
STRATEGIES = (None, "first_fit", "best_fit", "worst_fit", "random")


class CommandMaker:
    """Commands from a seed, made with an eye on the book, so that most of them have an effect."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self._ids = 0

    def opening(self) -> list[AnyCommand]:
        """The commands that every run begins with."""
        nodes = tuple(
            NodeSpec(name, {"cpu": 4, "gpu": 2000}, {"zone": "ab"[i % 2]})
            for i, name in enumerate(NODES)
        )
        refill = {"refill": "reset", "refill_every_ns": 20 * SECOND}
        small = {"overtakes_max": 2, "claim_after_ns": 20 * SECOND, "ageing_ns": 10 * SECOND}
        api = (NodeSpec("api", {"cpu": 20}),)
        return [
            OpenLedger(command_id=self.id(), ledger_id="L"),
            OpenPool(command_id=self.id(), pool="box", nodes=nodes, policy=small | self._policy()),
            OpenPool(
                command_id=self.id(),
                pool="bag",
                nodes=(NodeSpec("n1", {"cpu": 6}),),
                policy=self._policy(),
            ),
            OpenPool(command_id=self.id(), pool="api", nodes=api, consumable=True, policy=refill),
        ]

    def id(self) -> str:
        self._ids += 1
        return f"c{self._ids}"

    def wait(self) -> int:
        """How long until the next command, ns."""
        return self.random.choice((0, 1, 1, SECOND, SECOND, 2 * SECOND, 9 * SECOND))

    def next(self, book: Book) -> AnyCommand:
        """One more command."""
        kind = self.random.choices(
            (self._ask, self._batch, self._on_one, self._on_pool, self._on_quota), (12, 2, 8, 2, 1)
        )[0]
        return kind(book)

    # --- requests --------------------------------------------------------------------------------

    def _ask(self, book: Book, **fixed: Any) -> Allocate:
        r = self.random
        pool = fixed.pop("pool", None) or r.choice(("box", "box", "box", "bag", "api"))
        amounts = {"cpu": r.choice((1, 1, 2, 3, 4))}
        if pool == "box" and r.random() < 0.4:
            gpu = {"gpu": r.choice((300, 500, 1000, 2000))}
            amounts = (
                {**gpu, **amounts} if r.random() < 0.5 else r.choice(({**amounts, **gpu}, gpu))
            )
        more: dict[str, Any] = {}
        tenant = fixed.pop("tenant", None) or r.choice(TENANTS)
        if r.random() < 0.2:
            more["most"] = {
                k: min(2000, 3 * v) if k == "gpu" else v + 3 for k, v in amounts.items()
            }
            if more["most"].get("gpu", 1000) not in (500, 900, 1000, 2000):
                more["most"]["gpu"] = 2000
        elif r.random() < 0.1:
            more["spread"] = r.choice((0, 2))
        elif r.random() < 0.2:
            active = [a for a in book.allocations.values() if a.state in ("active", "ending")]
            if active:
                parent = r.choice(active)
                more["parent"], pool, tenant = parent.id, parent.pool, parent.tenant
        if r.random() < 0.2:
            more["select"] = {"zone": r.choice(("a", "b", "a|b"))}
        if r.random() < 0.15:
            more["reserve_ns"] = 4 * SECOND
        if r.random() < 0.1:
            more["sticky"] = r.choice("xy")
        if r.random() < 0.1:
            more["max_age_ns"] = 30 * SECOND
        if r.random() < 0.25:
            more["process"] = PROCESS
        else:
            more["ttl_ns"] = r.choice((3, 20, 90)) * SECOND
        waits = r.choice((None, 8 * SECOND, 90 * SECOND, 90 * SECOND, 90 * SECOND))
        batched = fixed.pop("alone", False)
        if batched:
            more.pop("parent", None)
            waits = fixed.pop("wait_ns")
        alone = r.random() < 0.2 and waits is not None and not batched
        return Allocate(
            asker=PROCESS if alone else None,
            command_id=self.id(),
            pool=pool,
            tenant=tenant,
            holder=r.choice(HOLDERS),
            task=r.choice((None, "t1", "t2")),
            request=Request(
                amounts,
                priority=r.choice(PRIORITIES),
                strategy=r.choice(STRATEGIES),
                wait_ns=waits,
                **more,
            ),
        )

    def _batch(self, book: Book) -> AllocateBatch:
        r = self.random
        tenant, wait_ns = r.choice(TENANTS), r.choice((None, 30 * SECOND))
        count = r.choice((2, 2, 3))
        items = tuple(
            self._ask(book, alone=True, pool="box", tenant=tenant, wait_ns=wait_ns)
            for _ in range(count)
        )
        return AllocateBatch(
            command_id=self.id(), tenant=tenant, items=items, atomic=r.random() < 0.6
        )

    # --- on what is there ------------------------------------------------------------------------

    def _on_one(self, book: Book) -> AnyCommand:
        r = self.random
        there = list(book.allocations.values())
        if not there:
            return self._ask(book)
        a = r.choice(there)
        base: dict[str, Any] = {
            "command_id": self.id(),
            "tenant": a.tenant,
            "allocation": a.id,
            "claim": Claim(a.holder),
        }
        if a.state == "waiting":
            if r.random() < 0.2:
                return Await(**base)
            return Withdraw(**base) if r.random() < 0.3 else self._ask(book)
        if a.state == "reserved" and r.random() < 0.7:
            return Confirm(**base)
        what = r.randrange(10)
        if what < 2:
            settled = book.pools[a.pool].consumable and r.random() < 0.7
            consumed = {"cpu": r.choice((0, 1, 2, 9))} if settled else None
            return Release(**base, consumed=consumed)
        if what < 5:
            amounts = {"cpu": r.choice((0, 1, 2, 5))}
            if "gpu" in a.amounts:
                amounts["gpu"] = r.choice((0, 500, 1000, 2000))
            return Adjust(**base, amounts=amounts)
        if what == 5:
            return Renew(**base, ttl_ns=r.choice((None, 20 * SECOND)))
        if what == 6:
            bound = r.choice(({"process": PROCESS}, {"ttl_ns": 9 * SECOND}, {}))
            return Transfer(**base, to_holder=r.choice(HOLDERS), **bound)
        if what == 7:
            alive = r.random() < 0.5
            return Reclaim(**base, cause="idle", process_alive=alive, grace_ns=4 * SECOND)
        if what == 8:
            return RenewHolder(command_id=self.id(), tenant=a.tenant, holder=a.holder)
        return Release(**base)

    # --- on pools, quotas and time ---------------------------------------------------------------

    def _policy(self) -> dict[str, Any]:
        r = self.random
        return {
            "order": r.choice(("fair", "fair", "fifo")),
            "preemption": r.choice(("never", "lower_priority")),
            "grace_ns": r.choice((0, 4 * SECOND)),
            "duplicates": r.choice(("allow", "allow", "report", "refuse", "answer")),
            "backfill_depth": r.choice((1, 2, 500)),
        }

    def _on_pool(self, book: Book) -> AnyCommand:
        r = self.random
        base: dict[str, Any] = {"command_id": self.id(), "pool": r.choice(("box", "box", "bag"))}
        node = r.choice(NODES)
        what = r.randrange(9)
        if what == 0:
            return SetPolicy(**base, policy=self._policy())
        if what == 1:
            return CordonNode(**base, node=node, cordoned=r.random() < 0.4)
        if what == 2:
            size = {"cpu": r.choice((1, 4, 6))}
            if base["pool"] == "box":
                size["gpu"] = r.choice((0, 1000, 2000))
            return ResizePool(**base, nodes=(NodeSpec(node, size),))
        if what == 3:
            return LeaveNode(**base, node=node)
        if what == 4:
            return JoinNode(**base, node=NodeSpec(node, {"cpu": 4}, {"zone": "a"}))
        if what == 5:
            return ObserveCapacity(**base, node=node, outside={"cpu": r.choice((0, 0, 2))})
        if what == 6:
            now = book.recorded_at
            return ExtendTime(
                command_id=self.id(), by_ns=5 * SECOND, since=now - SECOND, until=now, why="slept"
            )
        if what == 7 and r.random() < 0.3:
            return ClosePool(command_id=self.id(), pool="bag")
        return OpenPool(
            command_id=self.id(), pool="bag", nodes=(NodeSpec("n1", {"cpu": 6}),), policy={}
        )

    def _on_quota(self, book: Book) -> SetQuota:
        r = self.random
        return SetQuota(
            command_id=self.id(),
            tenant=r.choice(TENANTS),
            limits=r.choice(({}, {"cpu": 2}, {"gpu": 1000, "cpu": 6}, {"cpu": 8})),
            holder=r.choice((None, None, *HOLDERS[:2])),
            pool=r.choice((None, "box")),
            cohort=r.choice((None, "c")),
        )
