"""The state machine: it draws commands, gives them to a ledger and to the model, and compares."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from ledger.book import Book
from ledger.codec import from_row
from ledger.commands import (
    Allocate,
    AllocateBatch,
    AnyCommand,
    Claim,
    ClosePool,
    CordonNode,
    ExtendTime,
    JoinNode,
    LeaveNode,
    OpenLedger,
    OpenPool,
    RenewHolder,
    ResizePool,
    SetPolicy,
    SetQuota,
    TakeCheckpoint,
)
from ledger.evolve import evolve
from ledger.fields import book_digest, dump, load
from ledger.requests import NodeSpec, Request
from tests.model import strategies as draw
from tests.model.apply import apply, refusals_of_all
from tests.model.comparing import Comparing, outcome
from tests.model.verdicts import (
    on_allocate,
    on_pool,
    on_renew_holder,
    on_targeted,
)

FIRST_COME = {"order": "fifo"}
"""The order that the model knows."""


def somebody_is_there(machine: Comparing) -> bool:
    """Whether anything holds or waits."""
    return any(held.ended_at is None for held in machine.model.all)


class LedgerMachine(Comparing):
    """What happens, drawn at random. A subclass may put another driver underneath."""

    def pick(self, number: int) -> str:
        """An allocation: mostly one that has not ended, now and then an ended or unknown one."""
        alive = [held.id for held in self.model.all if held.ended_at is None]
        if number < 60 and alive:
            return alive[number % len(alive)]
        ended = [held.id for held in self.model.all if held.ended_at is not None]
        return ended[number % len(ended)] if ended and number < 63 else "A999"

    def claim(self, id: str, how: str) -> tuple[str, Claim]:
        """A tenant and a claim for a command on an allocation, right or wrong."""
        held = self.model.get(id)
        if held is None:
            return "acme", Claim("ann")
        other = "bob" if held.holder == "ann" else "ann"
        claims = {
            "holder": Claim(held.holder),
            "token": Claim(other, held.token),
            "operator": Claim("root", operator=True),
            "other": Claim(other),
            "stale": Claim(held.holder, held.token - 1),
            "foreign": Claim(held.holder),
        }
        tenant = held.tenant
        if how == "foreign":
            tenant = "zeta" if tenant == "acme" else "acme"
        return tenant, claims[how]

    # --- what happens ---------------------------------------------------------------------------

    @initialize(data=st.data())
    def open_the_ledger(self, data: st.DataObject) -> None:
        """A ledger with two pools and one that is only observed; some ask at once."""
        self.give(OpenLedger(command_id=self.id, ledger_id="L"), 1)
        for pool, nodes in (("box", draw.BOX), ("gpus", draw.GPUS)):
            self.pool_command(
                OpenPool(command_id=self.id, pool=pool, nodes=nodes, policy=FIRST_COME), 1
            )
        seen = OpenPool(command_id=self.id, pool="seen", nodes=draw.BOX[:1], kind="observed")
        self.pool_command(seen, 1)
        for _ in range(data.draw(st.integers(0, 6), label="askers")):
            self.ask(data)

    @rule(by=st.integers(1, 60))
    def time_passes(self, by: int) -> None:
        """Nobody does anything for a while."""
        self.pass_time(by)
        self.compare()

    @rule(data=st.data(), count=st.integers(1, 3))
    def some_act(self, data: st.DataObject, count: int) -> None:
        """Holders do what holders do, one after the other."""
        for _ in range(count):
            what = data.draw(st.sampled_from(draw.ACTS), label="act")
            if what is Allocate or not somebody_is_there(self):
                self.ask(data)
            else:
                how = data.draw(st.sampled_from(draw.CLAIMS), label="claim")
                pick = data.draw(draw.picks, label="pick")
                self.targeted(data, what, pick, data.draw(draw.steps, label="by"), how)

    def ask(self, data: st.DataObject) -> None:
        """One request."""
        pool = data.draw(draw.pools, label="pool")
        request = data.draw(draw.requests(pool), label="request")
        self.allocate(data, pool, request)

    @precondition(lambda self: any(held.state == "active" for held in self.model.all))
    @rule(data=st.data(), number=st.integers(0, 15))
    def ask_of_a_parent(self, data: st.DataObject, number: int) -> None:
        """Somebody asks to draw on an allocation, mostly on one that lends."""
        active = [held for held in self.model.all if held.state == "active"]
        parent = active[number % len(active)]
        if number == 15:
            ending = [held for held in self.model.all if held.state != "active"]
            parent = ending[0] if ending else parent
        request = data.draw(draw.requests_of(parent), label="request")
        self.allocate(data, parent.pool, request, parent.tenant)

    def allocate(
        self, data: st.DataObject, pool: str, request: Request, tenant: str | None = None
    ) -> None:
        """One request for capacity."""
        others = data.draw(draw.tenants, label="tenant")
        command = Allocate(
            command_id=self.id,
            tenant=others if tenant is None or others == "zeta" else tenant,
            pool=pool,
            holder=data.draw(draw.holders, label="holder"),
            request=request,
        )
        taken = self.give(command, data.draw(draw.steps, label="by"))
        self.one(command, on_allocate(self.model, command), taken)

    @rule(data=st.data(), by=draw.steps, tenant=draw.tenants, atomic=st.booleans())
    def ask_in_a_batch(self, data: st.DataObject, by: int, tenant: str, atomic: bool) -> None:
        """Several requests at once."""
        id = self.id
        items = []
        for _ in range(data.draw(st.integers(1, 4), label="items")):
            pool = data.draw(st.sampled_from(draw.POOLS), label="pool")
            request = data.draw(draw.requests(pool, may_wait=not atomic), label="request")
            holder = data.draw(draw.holders, label="holder")
            item = Allocate(command_id=id, tenant=tenant, pool=pool, holder=holder, request=request)
            items.append(item)
        command = AllocateBatch(command_id=id, tenant=tenant, items=tuple(items), atomic=atomic)
        taken = self.give(command, by)
        assert taken is not None
        if atomic and outcome(taken.own) != "granted":
            reason = outcome(taken.own)
            assert len(taken.own) == 1
            assert reason in refusals_of_all(self.model, items, self.now), reason
            self.settle_command(taken, [])
            return
        assert len(taken.own) == len(items)
        # Where they do not fit in their order, each by its strategy, a whole batch is packed.
        packed = atomic and bool(refusals_of_all(self.model, items, self.now))
        for item, event in zip(items, taken.own, strict=True):
            allowed = on_allocate(self.model, item)
            assert outcome([event]) in allowed, f"{event}; {allowed} expected"
            if outcome([event]) in ("granted", "waiting"):
                apply(self.model, item, event, self.now, packed)
        self.settle_command(taken, [])

    @precondition(somebody_is_there)
    @rule(data=st.data(), verb=st.sampled_from(draw.VERBS), pick=draw.picks, by=draw.steps)
    def use(self, data: st.DataObject, verb: Any, pick: int, by: int) -> None:
        """A holder does something with what it holds."""
        self.targeted(data, verb, pick, by, "holder")

    def targeted(self, data: st.DataObject, verb: Any, pick: int, by: int, how: str) -> None:
        """One command on one allocation."""
        id = self.pick(pick)
        tenant, claim = self.claim(id, how)
        command = verb(
            command_id=self.id,
            tenant=tenant,
            allocation=id,
            claim=claim,
            **data.draw(draw.details(verb, self.now), label="details"),
        )
        taken = self.give(command, by)
        self.one(command, on_targeted(self.model, command, self.now), taken)

    @rule(tenant=draw.tenants, holder=draw.holders, by=draw.steps, ttl=draw.durations)
    def renew_holder(self, tenant: str, holder: str, by: int, ttl: int) -> None:
        """All that a holder holds is renewed with one event."""
        command = RenewHolder(command_id=self.id, tenant=tenant, holder=holder, ttl_ns=ttl)
        taken = self.give(command, by)
        self.one(command, on_renew_holder(self.model, command, self.now), taken)

    @rule(
        data=st.data(),
        by=draw.steps,
        pool=draw.pools,
        node=draw.nodes,
        what=st.sampled_from(("resize", "resize", "cordon", "uncordon", "join", "leave", "policy")),
    )
    def change_pool(self, data: st.DataObject, by: int, pool: str, node: str, what: str) -> None:
        """An operator changes a pool."""
        about: dict[str, Any] = {"command_id": self.id, "pool": pool}
        if what in ("resize", "join"):
            spec = NodeSpec(node, data.draw(draw.capacities, label="capacity"))
            command: Any = (
                ResizePool(**about, nodes=(spec,))
                if what == "resize"
                else JoinNode(**about, node=spec)
            )
        elif what == "policy":
            command = SetPolicy(**about, policy=data.draw(draw.policies, label="policy"))
        elif what == "leave":
            command = LeaveNode(**about, node=node)
        else:
            command = CordonNode(**about, node=node, cordoned=what == "cordon")
        self.pool_command(command, by)

    @rule(
        by=draw.steps,
        pool=st.sampled_from(("extra",) * 8 + ("box", "gpus", "none")),
        kind=st.sampled_from(("managed", "managed", "observed")),
        close=st.sampled_from((False, False, True)),
    )
    def open_or_close_pool(self, by: int, pool: str, kind: str, close: bool) -> None:
        """A pool comes or goes."""
        command: AnyCommand
        if close:
            command = ClosePool(command_id=self.id, pool=pool)
        else:
            command = OpenPool(
                command_id=self.id, pool=pool, nodes=draw.EXTRA, kind=kind, policy=FIRST_COME
            )
        self.pool_command(command, by)

    @rule(
        by=draw.steps,
        tenant=draw.tenants,
        holder=st.one_of(st.none(), draw.holders),
        pool=st.sampled_from((None, None, "box", "gpus", "none")),
        limits=draw.limits,
    )
    def set_quota(
        self, by: int, tenant: str, holder: str | None, pool: str | None, limits: dict[str, int]
    ) -> None:
        """A hard quota is set, changed or lifted."""
        self.pool_command(
            SetQuota(command_id=self.id, tenant=tenant, holder=holder, pool=pool, limits=limits), by
        )

    def pool_command(self, command: Any, by: int) -> None:
        """A command on a pool, a quota or a policy."""
        taken = self.give(command, by)
        self.one(command, on_pool(self.model, command), taken)

    @rule(data=st.data(), by=draw.steps, what=st.sampled_from(("checkpoint", "time", "nonsense")))
    def upkeep(self, data: st.DataObject, by: int, what: str) -> None:
        """A digest of the book, time given back, or a request that can never be right."""
        if what == "time":
            self.pass_time(by)
            command = ExtendTime(
                command_id=self.id,
                by_ns=data.draw(st.integers(1, 20), label="gain"),
                since=self.now,
                until=self.now,
                why="asleep",
            )
            self.one(command, {"granted"}, self.give(command, 0))
        elif what == "nonsense":
            request = data.draw(draw.nonsense, label="request")
            ask = Allocate(command_id=self.id, pool="box", holder="ann", request=request)
            assert self.give(ask, by) is None
        else:
            taken = self.give(TakeCheckpoint(command_id=self.id), by)
            assert taken is not None
            assert [event.type for event in taken.events] == ["checkpointed"]
        self.compare()

    def teardown(self) -> None:
        """At the end: a fold of all rows from position 1, and a snapshot, lead to the same book."""
        try:
            # Where a step has failed, that step says so itself.
            if self.compared:
                book = Book()
                for row in self.rows:
                    evolve(book, from_row(row))
                digest = book_digest(self.driver.book)
                assert book_digest(book) == digest
                assert book_digest(load(dump(self.driver.book))) == digest
        finally:
            self.driver.close()
