"""How the queue's state machine gives commands: each event that follows is judged."""

from __future__ import annotations

from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine

from ledger.advance import advance
from ledger.book import Allocation
from ledger.commands import AllocateBatch, AnyCommand
from ledger.errors import InvalidInput
from ledger.events import Event
from ledger.requests import NodeSpec
from tests.model import queue_draw as draw
from tests.model.driver import Driver, PureDriver
from tests.model.queue_accounts import in_use
from tests.model.queue_judge import Judge
from tests.model.queue_state import Entry, World
from tests.model.queue_stretch import grows_no_more
from tests.model.queue_wrong import told


class QueueGiving(RuleBasedStateMachine):
    """Gives commands to a ledger, and every event to the judge."""

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
            for event in taken.events:
                if event.type == "released":
                    self._grown_into(event)
        self._same_book()
        self.whole = True
        return taken.own

    def _grown_into(self, event: Event) -> None:
        """What was given back to a pool, or to the allocation it was drawn on, is used by who may."""
        assert event.pool is not None and event.allocation is not None
        world: World | None = self.judge.world
        if parent := self.judge.world.entries[event.allocation].parent:
            world = self.judge.inside[parent][0] if parent in self.judge.inside else None
        left = [] if world is None else grows_no_more(world, event.pool)
        assert not left, f"{left} could have grown"

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
        for id, space in book.lent.items():
            assert id in self.judge.inside, f"nobody draws on {id}"
            inside = self.judge.inside[id][0]
            for name, lent in space.nodes.items():
                for resource, amount in lent.in_use.items():
                    there = in_use(inside, inside.lender.pool, name, resource)
                    assert amount == there, (id, name, resource)

    def pick(self, number: int, *states: str) -> Entry | None:
        """One of what is in these states."""
        found = [e for e in self.judge.world.entries.values() if e.state in states]
        return found[number % len(found)] if found else None

    def lender(self, number: int) -> Entry | None:
        """Every other time one of those that others draw on."""
        world = self.judge.world
        found = [each for each in world.live() if world.drawing(each.id)]
        return found[number // 2 % len(found)] if found and number % 2 else None
