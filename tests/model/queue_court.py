"""The judge of one queue: a pool's, or that of those who draw on one allocation.

It says who may be granted what, in which order, who may wait, and who is refused in vain. What an event
means for other queues is not its concern: see :mod:`tests.model.queue_judge`.
"""

from __future__ import annotations

from ledger.events import Adjusted, Allocated, Event, Queued, Refused, Reserved
from ledger.requests import PRIORITIES, Amounts, Placement, Request
from tests.model.queue_accounts import figures_agree, grant_is_whole
from tests.model.queue_claims import (
    Passing,
    judge_claim,
    judge_landing,
    judge_waits_after_claims,
)
from tests.model.queue_nesting import Inside, judge_by_hand, judge_refusal, lends
from tests.model.queue_order import at_the_front, comes_before
from tests.model.queue_rollouts import judge_strategy
from tests.model.queue_room import excess, fits_at_all, over_quota, surely_fits
from tests.model.queue_state import Entry, Unit, World, asked_as
from tests.model.queue_stretch import Stretching
from tests.model.queue_victims import Victims
from tests.model.queue_wrong import wrong_unless

GRANTS = (Allocated, Reserved)
SEARCHED = 4


class Court:
    """Follows what draws on a pool itself, or on one allocation: ``world`` says which.

    ``atomic`` are the ids of batches that are granted at once or not at all.
    """

    def __init__(self, world: World, atomic: set[str], now: int) -> None:
        self.world = world
        self.atomic = atomic
        self.stretching = Stretching(world)
        self.victims = Victims(world)
        self.passing = Passing(world)
        self.begin(now)

    def begin(self, now: int) -> None:
        """A step begins."""
        self.now = now
        self.granting: str | None = None
        self.left_behind: list[tuple[str, str, str]] = []
        self.stretching.begin(now)
        self.victims.begin(now)
        self.passing.begin()

    def before(self, event: Event, entry: Entry | None) -> None:
        """Judge an event by what was so before it."""
        body = event.body
        if isinstance(body, GRANTS):
            self._before_grant(event, entry)
        elif isinstance(body, Queued):
            self._queued(event, body, entry)
        elif isinstance(body, Adjusted) and entry is not None:
            self.stretching.adjusted(event, body, entry)
            if isinstance(self.world, Inside):
                judge_by_hand(self.world, event, body, entry)
        elif isinstance(body, Refused):
            self._refused(event, body)

    def after(self, event: Event, stood: dict[str, tuple[Placement, ...]]) -> None:
        """Judge an event by what is so with it; ``stood`` is what held before it, and where."""
        if isinstance(event.body, GRANTS):
            grant_is_whole(self.world, event, stood)
            self.stretching.granted(event, stood)
        figures_agree(self.world, event)

    def all_is_done(self, last: Event | None) -> None:
        """A step is over: nobody went, shrank or was passed over for nothing."""
        self.stretching.finish()
        self.victims.finish()
        self.passing.finish()
        world = self.world
        waiting = {unit.id for pool in world.pools for unit in world.waiting(pool)}
        for other, unit, why in self.left_behind:
            wrong_unless(other not in waiting, last, f"{other} {why}, and {unit} was served")

    def nobody_is_left(self, last: Event | None) -> None:
        """Whoever could be served is, and nobody with a claim waits on for nothing."""
        for pool in self.world.pools:
            self.nobody_is_forgotten(pool, last)
        judge_waits_after_claims(self.world, self.now, last)

    # --- grants ---------------------------------------------------------------------------------

    def _before_grant(self, event: Event, entry: Entry | None) -> None:
        body, world = event.body, self.world
        assert isinstance(body, GRANTS) and event.pool is not None and event.holder is not None
        pool = world.pools[event.pool]
        closed = (
            "a closed pool grants nothing"
            if world.parent is None
            else f"{world.parent} lends it nothing"
        )
        wrong_unless(not pool.closed, event, closed)
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
        judge_strategy(event, body, pool.policy, entry.asked_as)
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
        parent = body.request.parent
        fine = parent is None or lends(self.world, event.tenant, event.pool, body.request)
        wrong_unless(fine, event, f"{parent} lends it nothing")
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
                comes_before(world, other, unit)
                and self._is_looked_at(other)
                and surely_fits(world, other)
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
        if body.request is not None and body.verb == "allocate":
            judge_refusal(self.world, event, body, body.request)
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
        if body.reason == "exceeds_pool" and body.request is not None and alone:
            unit = Unit("newcomer", [_as_entry(event, body.request, "newcomer")])
            fine = not unit.simple or not fits_at_all(self.world, unit)
            wrong_unless(fine, event, "it would fit if nobody else were there")
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


def _need_of(entry: Entry) -> Amounts:
    """What it asks for: of an elastic one whose size was chosen by hand, that size."""
    chosen = entry.by_hand and entry.request.most is not None
    return entry.amounts if chosen else entry.request.amounts


def _as_entry(event: Event, request: Request, id: str, gang: str | None = None) -> Entry:
    assert event.holder and event.pool
    about = (event.tenant, event.holder, event.task, event.pool, request, event.at)
    return Entry(id, event.position, *about, "waiting", gang=gang, asked_as=asked_as(event))
