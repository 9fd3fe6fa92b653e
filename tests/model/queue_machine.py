"""The queue's state machine: it draws commands, and the judge looks at every event that follows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from ledger.commands import (
    Adjust,
    Allocate,
    AllocateBatch,
    Claim,
    Confirm,
    CordonNode,
    ObserveCapacity,
    OpenLedger,
    OpenPool,
    Reclaim,
    Release,
    Renew,
    ResizePool,
    SetPolicy,
    SetQuota,
    Transfer,
    Withdraw,
)
from ledger.requests import NodeSpec, Request
from tests.model import queue_draw as draw
from tests.model.queue_giving import QueueGiving
from tests.model.queue_order import at_the_front
from tests.model.queue_room import fits_at_all, over_quota
from tests.model.queue_state import Entry

OPERATOR = Claim("root", operator=True)


class QueueMachine(QueueGiving):
    """Commands against the pure core; a subclass may put another driver underneath."""

    duplicates = draw.duplicates

    # --- what happens ---------------------------------------------------------------------------

    @initialize(
        nodes=draw.nodes(),
        policy=draw.policies,
        duplicates=st.data(),
        cohort=st.sampled_from((None, None, "kin")),
        askers=st.data(),
    )
    def open_the_ledger(
        self,
        nodes: tuple[NodeSpec, ...],
        policy: dict[str, Any],
        duplicates: st.DataObject,
        cohort: str | None,
        askers: st.DataObject,
    ) -> None:
        """A ledger with one pool of some nodes, perhaps quotas, and some that ask at once."""
        self.specs = nodes
        self.give(OpenLedger(command_id=self.id, ledger_id="L"))
        policy = {**policy, "duplicates": duplicates.draw(self.duplicates)}
        self.give(OpenPool(command_id=self.id, pool="box", nodes=nodes, policy=policy))
        for tenant in ("ann", "bob"):
            if limits := askers.draw(draw.limits(cohort), label="limits"):
                self.give(SetQuota(command_id=self.id, tenant=tenant, limits=limits, cohort=cohort))
        for _ in range(askers.draw(st.integers(0, 8), label="askers")):
            self.ask(askers)

    @rule(by=st.integers(1, 60))
    def time_passes(self, by: int) -> None:
        """Nobody does anything for a while."""
        self.pass_time(by * draw.MS)

    @rule(data=st.data(), count=st.integers(1, 4))
    def some_act(self, data: st.DataObject, count: int) -> None:
        """One after the other asks, or gives something back."""
        for _ in range(count):
            if data.draw(st.sampled_from((True, True, False)), label="asks"):
                self.ask(data)
            else:
                self.give_back(data.draw(draw.numbers, label="which"))

    def ask(self, data: st.DataObject) -> None:
        """One request."""
        request: Request = data.draw(draw.requests(self.specs), label="request")
        self.give(self._allocate(data, request), data.draw(draw.steps, label="by"))

    def _allocate(self, data: st.DataObject, request: Request, **about: Any) -> Allocate:
        return Allocate(
            command_id=about.pop("command_id", None) or self.id,
            tenant=about.pop("tenant", None) or data.draw(draw.tenants, label="tenant"),
            pool="box",
            holder=data.draw(draw.holders, label="holder"),
            task=data.draw(st.sampled_from((None, "t")), label="task"),
            request=request,
        )

    def give_back(self, number: int) -> None:
        """Somebody releases what it holds."""
        entry = self.pick(number, "active", "ending", "reserved")
        if entry is not None:
            self.release(entry)

    def release(self, entry: Entry) -> None:
        """Something is given back."""
        about: dict[str, Any] = {"tenant": entry.tenant, "allocation": entry.id}
        self.give(Release(command_id=self.id, **about, claim=OPERATOR))

    @precondition(lambda self: self.pick(0, "active") is not None)
    @rule(data=st.data(), number=draw.numbers, count=st.integers(1, 5))
    def ask_of_a_parent(self, data: st.DataObject, number: int, count: int) -> None:
        """One after the other asks to draw on an allocation, or gives back what it drew on that.

        Now and then it is one that lends nothing.
        """
        states = data.draw(st.sampled_from((("active",),) * 9 + (("reserved", "ending"),)))
        parent = self.lender(number) or self.pick(number, *states) or self.pick(number, "active")
        assert parent is not None
        for _ in range(count):
            if not parent.placements:
                break
            drawing = self.judge.world.drawing(parent.id)
            if drawing and data.draw(st.sampled_from((False, False, True)), label="gives back"):
                self.release(drawing[number % len(drawing)])
                continue
            request = data.draw(draw.requests_of(parent), label="request")
            tenants = st.sampled_from((parent.tenant,) * 15 + ("cid",))
            command = self._allocate(data, request, tenant=data.draw(tenants, label="tenant"))
            self.give(command, data.draw(draw.steps, label="by"))

    @precondition(lambda self: self.pick(0, "active") is not None)
    @rule(data=st.data(), number=draw.numbers, atomic=st.booleans(), by=draw.steps)
    def ask_of_a_parent_in_a_batch(
        self, data: st.DataObject, number: int, atomic: bool, by: int
    ) -> None:
        """Several requests at once, some of which draw on an allocation. Of these no gang can wait."""
        id, parent = self.id, self.pick(number, "active")
        assert parent is not None
        one = st.one_of(
            draw.requests_of(parent), draw.requests_of(parent), draw.requests(self.specs)
        )
        asked = data.draw(st.lists(one, min_size=2, max_size=3), label="requests")
        if atomic:
            asked = [replace(each, wait_ns=None) for each in asked]
            self.judge.atomic.add(id)
        items = tuple(
            self._allocate(data, each, command_id=id, tenant=parent.tenant) for each in asked
        )
        command = AllocateBatch(command_id=id, tenant=parent.tenant, items=items, atomic=atomic)
        self.give(command, by)

    @rule(data=st.data(), atomic=st.booleans(), tenant=draw.tenants, by=draw.steps)
    def ask_in_a_batch(self, data: st.DataObject, atomic: bool, tenant: str, by: int) -> None:
        """Several requests at once: a gang, or each for itself."""
        id = self.id
        asked = data.draw(
            draw.gangs(self.specs)
            if atomic
            else st.lists(draw.requests(self.specs), min_size=2, max_size=4).map(tuple)
        )
        items = tuple(self._allocate(data, each, command_id=id, tenant=tenant) for each in asked)
        if atomic:
            self.judge.atomic.add(id)
        self.give(AllocateBatch(command_id=id, tenant=tenant, items=items, atomic=atomic), by)

    @precondition(lambda self: bool(self.judge.world.live()))
    @rule(data=st.data(), verb=st.sampled_from((Renew, Adjust, Adjust, Transfer, Confirm, Reclaim)))
    def use(self, data: st.DataObject, verb: Any) -> None:
        """A holder does something with what it holds."""
        number = data.draw(draw.numbers, label="which")
        entry = self.lender(number) or self.pick(number, "active", "reserved", "ending")
        assert entry is not None
        details: dict[str, Any] = {}
        if verb is Adjust:
            resource = data.draw(st.sampled_from(sorted(entry.amounts)), label="resource")
            amount = data.draw(draw.amounts(self.specs), label="amount").get(
                resource, entry.amounts[resource]
            )
            details = {"amounts": {resource: amount}}
        elif verb is Transfer:
            details = {"to_holder": data.draw(draw.holders, label="to")}
        elif verb is Reclaim:
            alive = entry.by_process and data.draw(
                st.sampled_from((True, True, False)), label="alive"
            )
            details = {"cause": "forced" if alive else "crashed", "process_alive": alive}
        about = {"tenant": entry.tenant, "allocation": entry.id, "claim": OPERATOR}
        self.give(verb(command_id=self.id, **about, **details))

    @rule(number=draw.numbers)
    def withdraw(self, number: int) -> None:
        """Somebody gives up its place."""
        entry = self.pick(number, "waiting")
        if entry is not None:
            about: dict[str, Any] = {
                "tenant": entry.tenant,
                "allocation": entry.id,
                "claim": OPERATOR,
            }
            self.give(Withdraw(command_id=self.id, **about))

    @rule(
        data=st.data(),
        what=st.sampled_from(
            ("cordon", "uncordon", "uncordon", "resize", "policy", "quota", "see")
        ),
    )
    def operate(self, data: st.DataObject, what: str) -> None:
        """An operator changes the pool, its policy or a quota."""
        pool = self.judge.world.pools["box"]
        node = data.draw(st.sampled_from(sorted(pool.nodes)), label="node")
        about: dict[str, Any] = {"command_id": self.id, "pool": "box"}
        if what == "resize":
            capacity = {"cpu": data.draw(st.integers(1, 6), label="cpu")}
            self.give(ResizePool(**about, nodes=(NodeSpec(node, capacity),)))
        elif what == "policy":
            self.give(SetPolicy(**about, policy=data.draw(draw.changes, label="policy")))
        elif what == "see":
            outside = {"cpu": data.draw(st.sampled_from((0, 0, 1, 2)), label="outside")}
            self.give(ObserveCapacity(**about, node=node, outside=outside))
        elif what == "quota":
            tenant = data.draw(draw.tenants, label="tenant")
            cohorts = [kin for _, kin in self.judge.world.quotas.values() if kin is not None]
            cohort = cohorts[0] if cohorts else None
            limits = data.draw(draw.limits(cohort), label="limits")
            self.give(SetQuota(command_id=self.id, tenant=tenant, limits=limits, cohort=cohort))
        else:
            self.give(CordonNode(**about, node=node, cordoned=what == "cordon"))

    # --- the end --------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Once everything is given back, whoever could fit is served, and nothing is stuck."""
        try:
            if self.whole and "box" in self.judge.world.pools:
                self._everybody_is_served()
        finally:
            self.driver.close()

    def _everybody_is_served(self) -> None:
        world = self.judge.world
        for node in world.pools["box"].nodes:
            about: dict[str, Any] = {"command_id": self.id, "pool": "box", "node": node}
            self.give(ObserveCapacity(**about, outside={}))
        for _ in range(200):
            if not world.live():
                break
            self.give_back(0)
        assert not world.live()
        units = [unit for unit in world.waiting("box") if not over_quota(world, unit)]
        if world.pools["box"].policy.order == "fifo":
            # In strict order one that only fits on a cordoned node holds up those behind it.
            units = at_the_front(units)
        elif len(units) > world.pools["box"].policy.backfill_depth:
            # One pass looks no further, but at those who have a claim; the others get one in time.
            units = [unit for unit in units if unit.claim]
        for unit in units:
            stuck = fits_at_all(world, unit)
            assert not stuck, f"{unit.id} waits though nobody holds anything"
        self.pass_time(1000 * draw.MS)
        assert not world.waiting("box"), "every place has run out"


class BudgetMachine(QueueMachine):
    """A budget: tokens that are spent, settled, overdrawn, and refilled on a schedule."""

    def ask(self, data: st.DataObject) -> None:
        """Somebody reserves a part of the budget."""
        request = Request(
            {"tokens": data.draw(draw.tokens, label="tokens")},
            ttl_ns=data.draw(draw.durations, label="ttl"),
            wait_ns=data.draw(st.one_of(draw.waits, st.none()), label="wait"),
            priority=data.draw(draw.priorities, label="priority"),
            reserve_ns=data.draw(st.sampled_from((None, None, None, 5 * draw.MS)), label="reserve"),
        )
        self.give(self._allocate(data, request), data.draw(draw.steps, label="by"))

    @initialize(data=st.data(), policy=draw.policies, schedule=draw.budgets)
    def open_the_ledger(
        self, data: st.DataObject, policy: dict[str, Any], schedule: dict[str, Any]
    ) -> None:
        """A ledger with a budget that is refilled."""
        self.give(OpenLedger(command_id=self.id, ledger_id="L"))
        if data.draw(st.booleans(), label="starts"):
            start = self.now + data.draw(st.integers(-100, 100), label="from") * draw.MS
            schedule = {**schedule, "refill_from": start}
        node = NodeSpec("api", {"tokens": 10})
        about: dict[str, Any] = {"command_id": self.id, "pool": "box", "consumable": True}
        policy = {**policy, **schedule, "preemption": "never"}
        self.give(OpenPool(**about, nodes=(node,), policy=policy))

    @rule(number=draw.numbers, consumed=st.one_of(st.none(), st.integers(0, 25)))
    def settle(self, number: int, consumed: int | None) -> None:
        """What was reserved is given back, and what of it was really spent is told."""
        entry = self.pick(number, "active")
        if entry is not None:
            about: dict[str, Any] = {
                "tenant": entry.tenant,
                "allocation": entry.id,
                "claim": OPERATOR,
            }
            spent = None if consumed is None else {"tokens": consumed}
            self.give(Release(command_id=self.id, **about, consumed=spent))

    @rule(data=st.data(), by=st.integers(1, 90))
    def reschedule(self, data: st.DataObject, by: int) -> None:
        """The schedule is moved, or a long time passes."""
        if data.draw(st.sampled_from((False, False, True)), label="moves"):
            settings = data.draw(draw.budgets, label="schedule")
            settings = {**settings, "refill_from": self.now + by * draw.MS}
            self.give(SetPolicy(command_id=self.id, pool="box", policy=settings))
        else:
            self.pass_time(by * draw.MS)

    def ask_in_a_batch(self) -> None:
        """Nothing is asked for in batches here."""

    def ask_of_a_parent_in_a_batch(self) -> None:
        """Nor of what somebody has reserved."""

    def operate(self) -> None:
        """Nothing is changed by an operator here."""

    def _everybody_is_served(self) -> None:
        """Once everything is given back and refills have come, nobody who could fit waits."""
        world = self.judge.world
        for _ in range(200):
            if not world.live():
                break
            self.give_back(0)
        self.pass_time(3000 * draw.MS)
        assert not world.waiting("box"), "every place has run out"
