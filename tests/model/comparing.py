"""Giving commands to a ledger and to the model at once, and comparing what comes of it."""

from __future__ import annotations

from typing import Any

from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine

from ledger.advance import advance
from ledger.book import Allocation, Book
from ledger.codec import from_row, to_row
from ledger.commands import (
    ResizePool,
)
from ledger.errors import InvalidInput
from ledger.events import Checkpointed, Event, Queued, Refused
from ledger.evolve import evolve
from ledger.fields import book_digest
from ledger.log import GENESIS, Row
from tests.model.apply import apply, expect_grant
from tests.model.checks import over, same_as_model, whole_cards_are_exclusive
from tests.model.driver import Driver, PureDriver, Taken
from tests.model.model import Held, Model
from tests.model.verdicts import (
    ready,
)

BESIDE = ("alert_raised", "alert_cleared")
"""Events that tell people something and change nothing that the model holds."""
ENDINGS = ("released", "expired", "reclaimed", "withdrawn")


class Comparing(RuleBasedStateMachine):
    """Commands against the pure core; a subclass may put another driver underneath."""

    def make_driver(self) -> Driver:
        """The ledger under test."""
        return PureDriver()

    def __init__(self) -> None:
        super().__init__()
        self.driver = self.make_driver()
        self.model = Model()
        self.now = 1000
        self.commands = 0
        self.rows: list[Row] = []
        self.shadow = Book()
        self.folded: dict[str, Allocation] = {}
        self.over: set[tuple[str, ...]] = set()
        self.resized = False
        self.compared = True

    # --- giving commands ------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """A fresh command id."""
        self.commands += 1
        return f"c{self.commands}"

    def pass_time(self, by: int) -> None:
        """Let time pass, and let the ledger write down what it has ended."""
        self.compared = False
        self.now += by
        while True:
            gone = self.model.pass_time(self.now)
            events = self.driver.settle(self.now)
            self.absorb(events)
            kinds = [event.type in ENDINGS for event in events]
            assert kinds == sorted(kinds, reverse=True), "nothing is granted before all has ended"
            self.expect_endings(events, gone)
            self.expect_handed_on(events)
            if not events:
                return
            self.now += 1

    def give(self, command: Any, by: int) -> Taken | None:
        """Let time pass and give one command; None when it can never be right."""
        self.pass_time(by)
        note(f"{self.now}: {command}")
        self.resized = isinstance(command, ResizePool)
        target = self.folded.get(getattr(command, "allocation", ""))
        ended = target if target is not None and target.ended_at is not None else None
        try:
            taken = self.driver.take(command, self.now, ended)
        except InvalidInput:
            assert book_digest(self.driver.book) == book_digest(self.shadow)
            return None
        self.absorb(taken.events)
        return taken

    def settle_command(self, taken: Taken, gone: list[Held]) -> None:
        """Compare what a command brought about beside its own events."""
        self.expect_endings(taken.events, gone)
        positions = {event.position for event in taken.own}
        self.expect_handed_on([e for e in taken.events if e.position not in positions])
        self.compare()

    def one(self, command: Any, allowed: set[str], taken: Taken | None) -> None:
        """A command of one answer: the answer is allowed, and the model follows it."""
        assert taken is not None, f"refused as never right; {allowed} expected"
        assert outcome(taken.own) in allowed, f"{outcome(taken.own)}; {allowed} expected"
        gone: list[Held] = []
        if outcome(taken.own) in ("granted", "waiting"):
            gone = apply(self.model, command, taken.own[0] if taken.own else None, self.now)
        self.settle_command(taken, gone)

    def absorb(self, events: list[Event]) -> None:
        """Store each event and read it back; what is read must lead to the same book."""
        for event in events:
            previous = self.rows[-1].hash if self.rows else GENESIS
            row = to_row(event, previous)
            back = from_row(row)
            assert back == event
            assert event.position == len(self.rows) + 1
            assert event.recorded_at == self.now
            assert event.at <= event.recorded_at
            if isinstance(event.body, Checkpointed):
                assert event.body.book == book_digest(self.shadow)
            self.rows.append(row)
            evolve(self.shadow, back)
            self.fold_allocation(back)

    def fold_allocation(self, event: Event) -> None:
        """Follow one allocation; its fencing token only ever grows."""
        if event.allocation is None:
            return
        before = self.folded.get(event.allocation)
        after = advance(before, event)
        if after is None:
            return
        assert before is None or after.token == before.token or after.token > before.token
        assert after.ended_at is None or after.ended_at >= (after.granted_at or after.requested_at)
        self.folded[event.allocation] = after

    def expect_endings(self, events: list[Event], gone: list[Held]) -> None:
        """Exactly what the model says has ended, then and thus."""
        ended = [e.allocation for e in events if e.type in ENDINGS and e.allocation]
        assert len(ended) == len(set(ended))
        found = {id: (self.folded[id].ended_at, self.folded[id].ended_by) for id in ended}
        modelled = {held.id: (held.ended_at, held.ended_by) for held in gone}
        assert found == modelled, f"{found} ended; the model says {modelled}"

    def expect_handed_on(self, events: list[Event]) -> None:
        """What was granted from the queue was next in it, and nobody whose turn has come waits."""
        for event in events:
            if event.type in ENDINGS + BESIDE:
                continue
            assert event.allocation is not None, event
            held = self.model.get(event.allocation)
            assert held is not None, event
            assert ready(self.model, held), f"it was not the turn of {held.id}"
            expect_grant(self.model, held, event, self.now)
        left = [held.id for held in self.model.all if ready(self.model, held)]
        assert not left, f"the turn of {left} has come"

    def compare(self) -> None:
        """The book is what the model says, and what the events say."""
        same_as_model(self.model, self.driver.book)
        whole_cards_are_exclusive(self.model)
        now_over = over(self.model)
        assert self.resized or now_over <= self.over, "only a resize may leave too little"
        self.over = now_over
        assert book_digest(self.driver.book) == book_digest(self.shadow)
        self.compared = True


def outcome(own: list[Event]) -> str:
    """The answer to a command: ``granted``, ``waiting``, or the reason of the refusal."""
    if not own:
        return "granted"
    body = own[0].body
    if isinstance(body, Refused):
        return str(body.reason)
    return "waiting" if isinstance(body, Queued) else "granted"
