"""The judge of the queue's rules: it follows events alone and says which of them may not be.

It knows ``docs/queue.md`` and not how the rules are coded. Each step of a ledger (what was due, then
one command, and what followed from it) is judged event by event against the world before it, and
once more when it is over. What may be answered in several ways is left to the ledger: which of the
fitting nodes is taken, which of several equal victims, in which order things are written within one
step as long as nobody with a better place is left behind.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import groupby

from ledger.events import (
    Adjusted,
    Ending,
    Event,
    Expired,
    Reclaimed,
    Released,
    Replenished,
    Withdrawn,
)
from tests.model.queue_accounts import balance, over_places
from tests.model.queue_budgets import judge_refill, judge_refills_are_written
from tests.model.queue_court import GRANTS, Court
from tests.model.queue_nesting import (
    Inside,
    ends_with_its_lender,
    judge_endings_together,
    judge_lending,
)
from tests.model.queue_order import share
from tests.model.queue_state import Entry, World
from tests.model.queue_wrong import wrong_unless

__all__ = ["Judge", "share"]

ENDINGS = (Released, Expired, Reclaimed, Withdrawn)


class Judge:
    """Follows a ledger's events and raises :class:`tests.model.queue_wrong.Wrong`.

    ``atomic`` are the ids of batches that are granted at once or not at all: events do not tell.
    ``inside`` has a court for each allocation that others draw on.
    """

    def __init__(self) -> None:
        self.world = World()
        self.now = 0
        self.position = 0
        self.atomic: set[str] = set()
        self.batch: list[Event] = []
        self.court = Court(self.world, self.atomic, 0)
        self.inside: dict[str, tuple[Inside, Court]] = {}
        self.undrawn: World | None = None

    # --- steps ----------------------------------------------------------------------------------

    def all(self, events: Iterable[Event]) -> None:
        """Judge a whole log: what was recorded at one instant is one step."""
        for _, step in groupby(events, key=lambda event: event.recorded_at):
            self.step(list(step))

    def step(self, events: list[Event], now: int | None = None) -> None:
        """Judge one step of the ledger, at ``now`` where it brought no events about."""
        self.now = events[-1].recorded_at if events else self.now if now is None else now
        self.batch = events
        for court in self.courts:
            court.begin(self.now)
        for event in events:
            self.position += 1
            wrong_unless(event.position == self.position, event, "positions have no gaps")
            wrong_unless(event.at <= event.recorded_at, event, "nothing is written in advance")
            self._one(event)
        self._finish()

    @property
    def courts(self) -> list[Court]:
        """One for what draws on pools, and one for each allocation that is drawn on."""
        return [self.court, *(court for _, court in self.inside.values())]

    def _court_of(self, event: Event, entry: Entry | None) -> Court:
        """Whose queue an event is about."""
        request = getattr(event.body, "request", None) if entry is None else entry.request
        parent = None if request is None else request.parent
        lender = self.world.entries.get(parent or "")
        if lender is None or lender.pool not in self.world.pools:
            return self.court
        if lender.id not in self.inside:
            inside = Inside(self.world, lender.id)
            self.inside[lender.id] = inside, Court(inside, self.atomic, self.now)
        return self.inside[lender.id][1]

    def _one(self, event: Event) -> None:
        body, world = event.body, self.world
        over = over_places(world)
        entry = world.entries.get(event.allocation or "")
        court = self._court_of(event, entry)
        court.before(event, entry)
        if isinstance(body, Replenished):
            judge_refill(world, event, body)
        elif isinstance(body, (Ending, *ENDINGS)) and entry is not None:
            self._ends(event, entry)
        if ends_with_its_lender(event, entry):
            # It is written before the end of what lends to it, for which it is no reason.
            self.undrawn = self.undrawn or copy.deepcopy(world)
        else:
            self.undrawn = None
        # What is granted at once may have others shrunk for it in between.
        if not isinstance(body, (*GRANTS, Adjusted)):
            for each in self.courts:
                each.granting = None
        stands = {each.id: each.placements for each in court.world.holding()}
        world.follow(event)
        for inside, _ in self.inside.values():
            inside.look()
        court.after(event, stands)
        balance(world, event, over)
        for inside, _ in self.inside.values():
            judge_lending(inside, event)

    # --- endings --------------------------------------------------------------------------------

    def _ends(self, event: Event, entry: Entry) -> None:
        """Endings by time come at their time, and who is sent away may be."""
        body = event.body
        pool = self.world.pools[entry.pool]
        late = pool.refill_due is not None and pool.refill_due < event.at
        late = late and any(pool.spent.values()) and entry.parent is None
        fine = not (late and entry.state in ("active", "ending"))
        wrong_unless(fine, event, f"{pool.name} was to be refilled before that")
        wrong_unless(entry.state != "ended", event, "it has ended before")
        match body:
            case Expired(lease_until=until):
                wrong_unless(entry.state == "active" and until == entry.lease, event, "its lease")
                wrong_unless(event.at == until <= self.now, event, "it ends when its lease does")
            case Withdrawn(cause="timed_out"):
                wrong_unless(event.at == entry.until, event, "a place ends at its time")
                wrong_unless(entry.state in ("waiting", "reserved"), event, "it did not wait")
            case Released():
                wrong_unless(entry.state in ("active", "ending"), event, "it held nothing")
            case Ending(cause="preempted") if event.cause is None:
                self.court.victims.sent_away(event, entry)
            case Reclaimed(cause="preempted") if event.cause is None:
                if entry.state == "ending":
                    wrong_unless(not entry.by_process, event, "a process keeps what it has")
                    wrong_unless(event.at == entry.until, event, "it goes when its grace is over")
                else:
                    self.court.victims.sent_away(event, entry, self.undrawn)

    def _finish(self) -> None:
        """What must be so when a step is over."""
        world, last = self.world, self.batch[-1] if self.batch else None
        for court in self.courts:
            court.all_is_done(last)
        for entry in world.entries.values():
            due = entry.lease if entry.state == "active" else entry.until
            if entry.state == "ended" or (entry.state == "ending" and entry.by_process):
                continue
            wrong_unless(due is None or due > self.now, last, f"{entry.id} has outlived its time")
        judge_refills_are_written(world, self.now, last)
        judge_endings_together(world, self.batch, self.now)
        self._gangs_are_whole(last)
        for court in self.courts:
            court.nobody_is_left(last)
        for id in [id for id, (inside, _) in self.inside.items() if inside.lender.state == "ended"]:
            del self.inside[id]

    def _gangs_are_whole(self, last: Event | None) -> None:
        gangs: dict[str, set[bool]] = {}
        for entry in self.world.entries.values():
            if entry.gang is not None:
                gangs.setdefault(entry.gang, set()).add(entry.state == "waiting")
        for gang, waits in gangs.items():
            wrong_unless(len(waits) == 1, last, f"the gang {gang} waits in part")
