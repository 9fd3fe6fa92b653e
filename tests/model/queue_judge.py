"""The judge of the queue's rules: it follows events alone and says which of them may not be.

It knows ``docs/queue.md`` and not how the rules are coded. Each step of a ledger (what was due, then
one command, and what followed from it) is judged event by event against the world before it, and
once more when it is over. What may be answered in several ways is left to the ledger: which of the
fitting nodes is taken, which of several equal victims, in which order things are written within one
step as long as nobody with a better place is left behind.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import groupby

from ledger.events import (
    Adjusted,
    Allocated,
    Ending,
    Event,
    Expired,
    Queued,
    Reclaimed,
    Refused,
    Released,
    Replenished,
    Reserved,
    Withdrawn,
)
from ledger.requests import PRIORITIES, Amounts, Request
from tests.model.queue_accounts import balance, grant_is_whole, over_places
from tests.model.queue_budgets import judge_refill, judge_refills_are_written
from tests.model.queue_claims import (
    Passing,
    judge_claim,
    judge_landing,
    judge_waits_after_claims,
)
from tests.model.queue_room import excess, over_quota, surely_fits
from tests.model.queue_state import Entry, Unit, World
from tests.model.queue_stretch import Stretching
from tests.model.queue_victims import Victims
from tests.model.queue_wrong import wrong_unless

GRANTS = (Allocated, Reserved)
ENDINGS = (Released, Expired, Reclaimed, Withdrawn)
SEARCHED = 4


class Judge:
    """Follows a ledger's events and raises :class:`tests.model.queue_wrong.Wrong`.

    ``atomic`` are the ids of batches that are granted at once or not at all: events do not tell.
    """

    def __init__(self) -> None:
        self.world = World()
        self.now = 0
        self.position = 0
        self.atomic: set[str] = set()
        self.batch: list[Event] = []
        self.granting: str | None = None
        self.left_behind: list[tuple[str, str, str]] = []
        self.stretching = Stretching(self.world)
        self.victims = Victims(self.world)
        self.passing = Passing(self.world)

    # --- steps ----------------------------------------------------------------------------------

    def all(self, events: Iterable[Event]) -> None:
        """Judge a whole log: what was recorded at one instant is one step."""
        for _, step in groupby(events, key=lambda event: event.recorded_at):
            self.step(list(step))

    def step(self, events: list[Event], now: int | None = None) -> None:
        """Judge one step of the ledger, at ``now`` where it brought no events about."""
        self.now = events[-1].recorded_at if events else self.now if now is None else now
        self.batch, self.granting, self.left_behind = events, None, []
        self.stretching.begin(self.now)
        self.victims.begin(self.now)
        self.passing.begin()
        for index, event in enumerate(events):
            self.position += 1
            wrong_unless(event.position == self.position, event, "positions have no gaps")
            wrong_unless(event.at <= event.recorded_at, event, "nothing is written in advance")
            self._one(event, index)
        self._finish()

    def _one(self, event: Event, index: int) -> None:
        body, world = event.body, self.world
        over = over_places(world)
        entry = world.entries.get(event.allocation or "")
        if isinstance(body, GRANTS):
            self._before_grant(event, entry)
        elif isinstance(body, Queued):
            self._queued(event, body, entry)
        elif isinstance(body, Adjusted) and entry is not None:
            self.stretching.adjusted(event, body, entry)
        elif isinstance(body, Replenished):
            judge_refill(world, event, body)
        elif isinstance(body, Refused):
            self._refused(event, body)
        elif isinstance(body, (Ending, *ENDINGS)) and entry is not None:
            self._ends(event, entry)
        if not isinstance(body, GRANTS):
            self.granting = None
        stands = {each.id: each.placements for each in world.holding()}
        world.follow(event)
        if isinstance(body, GRANTS):
            grant_is_whole(world, event, stands)
            self.stretching.granted(event, stands)
        balance(world, event, over)

    # --- grants ---------------------------------------------------------------------------------

    def _before_grant(self, event: Event, entry: Entry | None) -> None:
        body, world = event.body, self.world
        assert isinstance(body, GRANTS) and event.pool is not None and event.holder is not None
        pool = world.pools[event.pool]
        wrong_unless(not pool.closed, event, "a closed pool grants nothing")
        wrong_unless(event.at == self.now, event, "a grant is of now")
        if entry is None:
            wrong_unless(body.queued_at is None, event, "it never waited")
            self._newcomer(event, body)
            # A newcomer has no place in the queue yet; for the questions below it is a place itself.
            entry = _as_entry(event, body.request, event.allocation or "", body.gang)
            unit = Unit(entry.unit, [entry])
        else:
            wrong_unless(entry.state == "waiting", event, f"it is {entry.state}")
            wrong_unless(body.queued_at == entry.asked_at, event, "it waited since it asked")
            wrong_unless(body.request == entry.request, event, "the request is what was asked")
            wrong_unless((entry.until or 0) > self.now, event, "its place has run out")
            unit = next(u for u in world.waiting(event.pool) if u.id == entry.unit)
        for holder in (None, event.holder):
            over = excess(world, event.tenant, holder, event.pool, body.request.amounts)
            wrong_unless(over is None, event, over or "")
            over = excess(world, event.tenant, holder, event.pool, body.amounts)
            wrong_unless(over is None, event, f"stretched over its quota: {over}")
        self.victims.granted(unit)
        first = self.granting != self._place(event, unit)
        self.granting = self._place(event, unit)
        self.stretching.served(self.granting)
        with self.stretching.undone():
            if first:
                self._in_order(event, unit)
            self.passing.passes(event, unit, self.now, judged=first)
        judge_landing(world, event, unit, body.placements)

    def _place(self, event: Event, unit: Unit) -> str:
        """What is granted in one go: a place in the queue, or the items of a batch."""
        batch = None if event.cause is None else event.cause.command_id
        return unit.id if batch not in self.atomic else f"batch {batch}"

    def _newcomer(self, event: Event, body: Allocated | Reserved | Queued) -> None:
        assert event.pool is not None
        policy = self.world.pools[event.pool].policy
        order = PRIORITIES.index
        wrong_unless(
            order(body.request.priority) <= order(policy.max_priority),
            event,
            f"priorities above {policy.max_priority} are not allowed",
        )
        alone = event.cause is None or event.cause.items is None
        if policy.duplicates in ("refuse", "answer") and alone and event.task is not None:
            twin = self._twin(event, body)
            wrong_unless(twin is None, event, f"it is a duplicate of {twin}")

    def _twin(self, event: Event, body: Allocated | Reserved | Queued) -> str | None:
        return next(
            (
                each.id
                for each in self.world.entries.values()
                if each.state in ("waiting", "active", "reserved")
                and (each.tenant, each.holder, each.task, each.pool)
                == (event.tenant, event.holder, event.task, event.pool)
                and each.request == body.request
            ),
            None,
        )

    def _in_order(self, event: Event, unit: Unit) -> None:
        """Nobody who comes first and could have been served is passed over."""
        world = self.world
        policy = world.pools[unit.first.pool].policy
        mine = key(world, unit)
        for other in world.waiting(unit.first.pool):
            if other.id == unit.id or over_quota(world, other) or not self._still_waits(other):
                continue
            if policy.order == "fifo":
                earlier = other.position < unit.position
                wrong_unless(
                    not (earlier and other.resources & unit.resources),
                    event,
                    f"{other.id} came before it and wants the same",
                )
            elif (
                key(world, other) < mine and self._is_looked_at(other) and surely_fits(world, other)
            ):
                self.left_behind.append((other.id, unit.id, "has a better place and had room"))

    def _is_looked_at(self, unit: Unit) -> bool:
        """Whether one pass tries it: as deep as it looks, and the first four that need several nodes."""
        waiting = self.world.waiting(unit.first.pool)
        depth = self.world.pools[unit.first.pool].policy.backfill_depth
        if len(waiting) > depth and not unit.claim:
            return False
        return unit.simple or sum(not other.simple for other in waiting) <= SEARCHED

    def _still_waits(self, unit: Unit) -> bool:
        return all((each.until or 0) > self.now for each in unit.members)

    # --- the rest -------------------------------------------------------------------------------

    def _queued(self, event: Event, body: Queued, entry: Entry | None) -> None:
        if entry is not None:
            wrong_unless(entry.state == "waiting", event, f"it is {entry.state}")
            judge_claim(self.world, event, body, entry, self.now, self.victims.heirs)
            return
        self._newcomer(event, body)
        wait = body.request.wait_ns
        wrong_unless(wait is not None, event, "it did not want to wait")
        wrong_unless(body.until == event.at + (wait or 0), event, "its place is kept for `wait`")

    def _refused(self, event: Event, body: Refused) -> None:
        """Nobody is refused for want of what there is."""
        lacking = ("insufficient_capacity", "reserved_for_waiting", "quota_exceeded")
        alone = event.cause is not None and event.cause.items is None
        if (
            body.request is not None
            and body.verb == "allocate"
            and body.reason in lacking
            and alone
        ):
            unit = Unit("newcomer", [_as_entry(event, body.request, "newcomer")])
            strict = self.world.pools[unit.first.pool].policy.order == "fifo"
            held_up = strict and any(
                other.resources & unit.resources for other in self.world.waiting(unit.first.pool)
            )
            fits = unit.simple and surely_fits(self.world, unit) and not held_up
            fine = not fits or over_quota(self.world, unit)
            wrong_unless(fine, event, f"{body.reason}, and there is room for it")
        if body.reason == "duplicate_request" and body.request is not None:
            need = body.request.amounts
            live = [
                each
                for each in self.world.entries.values()
                if each.state != "ended"
                and (each.tenant, each.holder, each.task)
                == (event.tenant, event.holder, event.task)
                and need == _need_of(each)
            ]
            wrong_unless(bool(live), event, "there is no other such request")

    def _ends(self, event: Event, entry: Entry) -> None:
        """Endings by time come at their time, and who is sent away may be."""
        body = event.body
        pool = self.world.pools[entry.pool]
        late = pool.refill_due is not None and pool.refill_due < event.at
        fine = not (late and any(pool.spent.values()) and entry.state in ("active", "ending"))
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
                self.victims.sent_away(event, entry)
            case Reclaimed(cause="preempted") if event.cause is None:
                if entry.state == "ending":
                    wrong_unless(not entry.by_process, event, "a process keeps what it has")
                    wrong_unless(event.at == entry.until, event, "it goes when its grace is over")
                else:
                    self.victims.sent_away(event, entry)

    def _finish(self) -> None:
        """What must be so when a step is over."""
        self.stretching.finish()
        self.victims.finish()
        self.passing.finish()
        world, last = self.world, self.batch[-1] if self.batch else None
        waiting = {unit.id for pool in world.pools for unit in world.waiting(pool)}
        for other, unit, why in self.left_behind:
            wrong_unless(other not in waiting, last, f"{other} {why}, and {unit} was served")
        for entry in world.entries.values():
            due = entry.lease if entry.state == "active" else entry.until
            if entry.state == "ended" or (entry.state == "ending" and entry.by_process):
                continue
            wrong_unless(due is None or due > self.now, last, f"{entry.id} has outlived its time")
        judge_refills_are_written(world, self.now, last)
        self._gangs_are_whole(last)
        for pool in world.pools:
            self.nobody_is_forgotten(pool, last)
        judge_waits_after_claims(world, self.now, last)

    def _gangs_are_whole(self, last: Event | None) -> None:
        gangs: dict[str, set[bool]] = {}
        for entry in self.world.entries.values():
            if entry.gang is not None:
                gangs.setdefault(entry.gang, set()).add(entry.state == "waiting")
        for gang, waits in gangs.items():
            wrong_unless(len(waits) == 1, last, f"the gang {gang} waits in part")

    def nobody_is_forgotten(self, pool: str, last: Event | None) -> None:
        """Whoever could be served is, as far down as one pass looks."""
        world = self.world
        policy = world.pools[pool].policy
        units = [unit for unit in world.waiting(pool) if not over_quota(world, unit)]
        if policy.order == "fifo":
            units = at_the_front(units)
        elif len(units) > policy.backfill_depth:
            units = [unit for unit in units if unit.claim]
        for unit in units:
            forgotten = self._is_looked_at(unit) and surely_fits(world, unit)
            wrong_unless(not forgotten, last, f"{unit.id} waits though there is room for it")


def key(world: World, unit: Unit) -> tuple[int, Fraction, int, Fraction, int, int]:
    """A place in the fair order: the smaller comes first.

    Tenants that hold equally much come in the order of their first requests of a rank; so do a tenant's
    holders, but for those that hold nothing. A gang stands where its first request does.
    """
    first = unit.first
    mine = rank(world, first)
    alike = [
        each
        for each in [first, *world.entries.values()]
        if (each.pool, each.tenant) == (first.pool, first.tenant)
        and (each is first or each.state == "waiting")
        and rank(world, each) == mine
    ]
    of_holder = share(world, first.pool, first.tenant, first.holder)
    return (
        mine,
        share(world, first.pool, first.tenant, None),
        min(each.position for each in alike),
        of_holder,
        min(each.position for each in alike if not of_holder or each.holder == first.holder),
        unit.position,
    )


def rank(world: World, entry: Entry) -> int:
    """The window in which a request arrived, less its priority."""
    window = entry.asked_at // world.pools[entry.pool].policy.ageing_ns
    return window - PRIORITIES.index(entry.request.priority)


def share(world: World, pool: str, tenant: str, holder: str | None) -> Fraction:
    """The largest part of any resource of a pool that is held."""
    capacity: Amounts = {}
    for node in world.pools[pool].nodes.values():
        for resource, amount in node.capacity.items():
            capacity[resource] = capacity.get(resource, 0) + amount
    shares = [
        Fraction(world.held(tenant, holder, pool, resource), amount)
        for resource, amount in capacity.items()
        if amount
    ]
    return max(shares, default=Fraction(0))


def at_the_front(units: list[Unit]) -> list[Unit]:
    """Those behind whom nobody else wants the same."""
    found, wanted = [], set[str]()
    for unit in units:
        if not unit.resources & wanted:
            found.append(unit)
        wanted |= unit.resources
    return found


def _need_of(entry: Entry) -> Amounts:
    """What it asks for: of an elastic one whose size was chosen by hand, that size."""
    chosen = entry.by_hand and entry.request.most is not None
    return entry.amounts if chosen else entry.request.amounts


def _as_entry(event: Event, request: Request, id: str, gang: str | None = None) -> Entry:
    assert event.holder and event.pool
    about = (event.tenant, event.holder, event.task, event.pool, request, event.at)
    return Entry(id, event.position, *about, "waiting", gang=gang)
