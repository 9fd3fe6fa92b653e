"""The queue's state machine: it draws commands, and the judge looks at every event that follows."""

from __future__ import annotations

from typing import Any

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ledger.advance import advance
from ledger.book import Allocation
from ledger.commands import (
    Adjust,
    Allocate,
    AllocateBatch,
    AnyCommand,
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
from ledger.errors import InvalidInput
from ledger.events import Event
from ledger.requests import NodeSpec, Request
from tests.model import queue_draw as draw
from tests.model.driver import Driver, PureDriver
from tests.model.queue_accounts import in_use
from tests.model.queue_judge import Judge, at_the_front
from tests.model.queue_room import fits_at_all, over_quota
from tests.model.queue_state import Entry
from tests.model.queue_stretch import grows_no_more
from tests.model.queue_wrong import told

OPERATOR = Claim("root", operator=True)


class QueueMachine(RuleBasedStateMachine):
    """Commands against the pure core; a subclass may put another driver underneath."""

    duplicates = draw.duplicates

    def make_driver(self) -> Driver:
        """The ledger under test."""
        return PureDriver()

    def __init__(self) -> None:
        super().__init__()
        self.driver = self.make_driver()
        self.judge = Judge()
        self.now = 1000 * draw.MS
        self.commands = 0
        self.folded: dict[str, Allocation] = {}
        self.whole = True
        self.specs: tuple[NodeSpec, ...] = ()

    # --- giving commands ------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """A fresh command id."""
        self.commands += 1
        return f"c{self.commands}"

    def pass_time(self, by: int) -> None:
        """Let time pass, and let the ledger write down what it has ended."""
        self.whole = False
        self.now += by
        while True:
            events = self.driver.settle(self.now)
            self._judge(events)
            if not events:
                break
            self.now += 1
        self.whole = True

    def give(self, command: AnyCommand, by: int = 1) -> list[Event]:
        """Let time pass, give one command, and have judged what came of it. Returns its own events."""
        self.pass_time(by)
        self.whole = False
        note(f"{self.now}: {told(command)}")
        known = self.folded.get(getattr(command, "allocation", ""))
        ended = known if known is not None and known.ended_at is not None else None
        try:
            taken = self.driver.take(command, self.now, ended)
        except InvalidInput:
            self.whole = True
            return []
        if isinstance(command, AllocateBatch) and command.atomic:
            kinds = {e.type for e in taken.own}
            assert kinds <= {"allocated", "reserved"} or len(kinds) == 1, kinds
            assert kinds == {"refused"} or len(taken.own) == len(command.items)
        self._judge(taken.events)
        if any(event.type in ("released", "expired", "reclaimed") for event in taken.events):
            # Only what just came back must have been grown into.
            for pool in {e.pool for e in taken.events if e.type == "released" and e.pool}:
                left = grows_no_more(self.judge.world, pool)
                assert not left, f"{left} could have grown"
        self._same_book()
        self.whole = True
        return taken.own

    def _judge(self, events: list[Event]) -> None:
        for event in events:
            about = f"{event.position} at {event.at}: {event.tenant} {event.allocation}"
            note(f"    {about} {told(event.body)}")
            if event.allocation is not None:
                state = advance(self.folded.get(event.allocation), event)
                if state is not None:
                    self.folded[event.allocation] = state
        self.judge.step(events, self.now)

    def _same_book(self) -> None:
        """What the ledger believes is what its events say."""
        world, book = self.judge.world, self.driver.book
        states = {e.id: e.state for e in world.entries.values() if e.state != "ended"}
        assert {a.id: a.state for a in book.allocations.values()} == states
        for pool in world.pools.values():
            for node in pool.nodes:
                said = book.pools[pool.name].space.nodes[node].in_use
                for resource, amount in said.items():
                    assert amount == in_use(world, pool.name, node, resource), (node, resource)

    def pick(self, number: int, *states: str) -> Entry | None:
        """One of what is in these states."""
        found = [e for e in self.judge.world.entries.values() if e.state in states]
        return found[number % len(found)] if found else None

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
            self.give(
                Release(
                    command_id=self.id, tenant=entry.tenant, allocation=entry.id, claim=OPERATOR
                )
            )

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

    @precondition(lambda self: bool(self.judge.world.holding()))
    @rule(data=st.data(), verb=st.sampled_from((Renew, Adjust, Adjust, Transfer, Confirm, Reclaim)))
    def use(self, data: st.DataObject, verb: Any) -> None:
        """A holder does something with what it holds."""
        entry = self.pick(data.draw(draw.numbers, label="which"), "active", "reserved", "ending")
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
            details = {"cause": "crashed"}
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
            if not world.holding():
                break
            self.give_back(0)
        assert not world.holding()
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

    def operate(self) -> None:
        """Nothing is changed by an operator here."""

    def _everybody_is_served(self) -> None:
        """Once everything is given back and refills have come, nobody who could fit waits."""
        world = self.judge.world
        for _ in range(200):
            if not world.holding():
                break
            self.give_back(0)
        self.pass_time(3000 * draw.MS)
        assert not world.waiting("box"), "every place has run out"
