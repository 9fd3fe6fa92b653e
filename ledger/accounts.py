"""The accounts of the book: what an allocation's event does to nodes, totals, queue and indexes.

Here in use is kept equal to the sum of what is held, at every position.
"""

from __future__ import annotations

from ledger.advance import ENDS, GRANTS, advance, changed, granted
from ledger.book import LIVE, Allocation, Book, Pool
from ledger.errors import LedgerCorrupt
from ledger.events import (
    Adjusted,
    Allocated,
    Event,
    Queued,
    Reclaimed,
    Refused,
    Released,
    Renewed,
    Reserved,
)
from ledger.line import rank
from ledger.mix import shape_of
from ledger.nodes import lending
from ledger.requests import Amounts, Placement, Request
from ledger.spaces import Space

REMINDERS_SPARE = 1_000
"""How many reminders of ended allocations may lie about before they are cleared away."""
STICKY_REMEMBERED = 10_000
HABITS_REMEMBERED = 1_000


def _count(pool: Pool, allocation: Allocation, amounts: Amounts, sign: int) -> None:
    """Keep the totals per tenant and per holder. What is drawn on a parent counts there already."""
    if allocation.request.parent is not None:
        return
    held = pool.held
    tenant, holder = allocation.tenant, allocation.holder
    for key in ((tenant, None), (tenant, holder)):
        totals = held.get(key)
        if totals is None:
            totals = held[key] = {}
            if key[1] is not None:
                pool.holding.setdefault(tenant, set()).add(holder)
        for resource, amount in amounts.items():
            left = totals.get(resource, 0) + sign * amount
            if left:
                totals[resource] = left
            else:
                totals.pop(resource, None)
        if not totals:
            del held[key]
            if key[1] is not None:
                pool.holding[tenant].discard(holder)
                if not pool.holding[tenant]:
                    del pool.holding[tenant]


def space_for(book: Book, allocation: Allocation) -> Space:
    """Where an allocation stands or waits. Raises LedgerCorrupt where its parent holds nothing."""
    parent = allocation.request.parent
    if parent is None:
        return book.pools[allocation.pool].space
    space = book.space_of(allocation.pool, parent)
    if space is None:
        raise LedgerCorrupt(
            f"{allocation.id} draws on {parent}, which holds nothing", position=book.position
        )
    book.lent[parent] = space
    return space


def _take(space: Space, placements: tuple[Placement, ...], position: int) -> None:
    for placement in placements:
        node = space.nodes[placement.node].plus(placement, 1)
        for resource, in_use in placement.in_use.items():
            if node.in_use[resource] != in_use:
                raise LedgerCorrupt(
                    f"event {position} says that {in_use} of {resource} are in use on"
                    f" {node.name}, its history says {node.in_use[resource]}",
                    "run `leasebook verify`; the record contradicts itself from here on",
                    position=position,
                )
        space.replace(node)


def _give_back(space: Space, placements: tuple[Placement, ...]) -> None:
    for placement in placements:
        space.replace(space.nodes[placement.node].plus(placement, -1))
    space.freed = True


def _spend(pool: Pool, allocation: Allocation, consumed: Amounts | None) -> None:
    """What was really consumed is gone until the next refill; what nobody settled, wholly."""
    for placement in allocation.placements:
        gone = placement.amounts if consumed is None else consumed
        pool.space.replace(pool.space.nodes[placement.node].spending(gone, 1))
        spent = dict(pool.spent.get(placement.node, {}))
        for resource, amount in gone.items():
            spent[resource] = spent.get(resource, 0) + amount
        pool.spent[placement.node] = spent


def _lend_anew(space: Space, placements: tuple[Placement, ...]) -> None:
    """An adjusted allocation lends what it has now; what draws on it keeps what it has."""
    for placement in placements:
        node = lending(placement)
        lent = space.nodes[placement.node]
        node.in_use, node.cards_in_use = lent.in_use, lent.cards_in_use
        space.nodes[placement.node] = node
    space.count_up()
    space.freed = True


def _store(book: Book, before: Allocation | None, after: Allocation) -> None:
    """Put the allocation's new state in."""
    book.allocations[after.id] = after
    if before is None or after.due != before.due or after.state != before.state:
        book.set_due(after)
    if before is None or before.holder != after.holder:
        if before is not None:
            _forget_holder(book, before)
        book.by_holder.setdefault((after.tenant, after.holder), {})[after.id] = None


def _forget_holder(book: Book, before: Allocation) -> None:
    key = (before.tenant, before.holder)
    ids = book.by_holder[key]
    del ids[before.id]
    if not ids:
        del book.by_holder[key]


def join_line(book: Book, space: Space, allocation: Allocation) -> None:
    """A request begins to wait."""
    policy = book.pools[allocation.pool].policy
    request = allocation.request
    space.waiting[allocation.id] = None
    kind = frozenset(request.amounts)
    space.kinds[kind] = space.kinds.get(kind, 0) + 1
    shape = (shape_of(request), request.spread, allocation.gang)
    space.shapes[allocation.id] = shape
    space.alike[shape] = space.alike.get(shape, 0) + 1
    if policy.order == "fifo":
        space.line.add(allocation.id, 0, "", "")
    else:
        place = rank(allocation.requested_at, request.priority, policy.ageing_ns)
        space.line.add(allocation.id, place, allocation.tenant, allocation.holder)
    on_several = request.spread is not None or allocation.gang is not None
    if policy.preemption != "never" or book.cohorts or (on_several and space.elastic):
        # Others may be asked to make room for it.
        space.freed = True
    if allocation.gang is not None:
        space.gangs.setdefault(allocation.gang, {})[allocation.id] = None
    if allocation.claims:
        space.keep(allocation.id, allocation.claims)


def _leave_line(space: Space, allocation: Allocation) -> None:
    space.waiting.pop(allocation.id, None)
    shape = space.shapes.pop(allocation.id)
    space.alike[shape] -= 1
    if not space.alike[shape]:
        del space.alike[shape]
    kind = frozenset(allocation.request.amounts)
    space.kinds[kind] -= 1
    if not space.kinds[kind]:
        del space.kinds[kind]
    space.line.remove(allocation.id)
    if allocation.gang is not None:
        members = space.gangs[allocation.gang]
        del members[allocation.id]
        if not members:
            del space.gangs[allocation.gang]
    if allocation.claims or allocation.gang is not None:
        space.keep_no_more(allocation.claims)
    space.awaited.pop(allocation.id, None)
    space.freed = True


def _touch_quota(book: Book, allocation: Allocation) -> None:
    """A tenant holds less or more than before, and its quotas hold up fewer or others.

    A quota that spans all pools holds up in other pools too; and who is held up blocks nobody.
    """
    tenant, holder, quotas = allocation.tenant, allocation.holder, book.quotas
    if not quotas or allocation.request.parent is not None:
        return
    if (tenant, None, None) in quotas or (tenant, holder, None) in quotas:
        for pool in book.pools.values():
            pool.space.freed = True
    elif (tenant, None, allocation.pool) in quotas or (tenant, holder, allocation.pool) in quotas:
        book.pools[allocation.pool].space.freed = True


def _note_request(pool: Pool, request: Request) -> None:
    """Every request's first outcome counts in the mix that fragmentation is told by."""
    if request.parent is None:
        pool.mix.add(request)


def note_refused(book: Book, event: Event, body: Refused) -> None:
    """A refused request counts in the mix of its pool too: it was asked for."""
    pool = None if event.pool is None else book.pools.get(event.pool)
    if pool is not None and body.request is not None:
        _note_request(pool, body.request)


def _settle_in(book: Book, space: Space, after: Allocation, event: Event) -> None:
    """A grant: the nodes' use, the totals, the queue's counters, what is remembered of it."""
    pool = book.pools[after.pool]
    request = after.request
    _take(space, after.placements, event.position)
    _count(pool, after, after.amounts, 1)
    _touch_quota(book, after)
    if space.waiting:
        space.note_grant(after.position)
        first = int(next(iter(space.waiting))[1:])
        if space.overtaken(first) >= pool.policy.overtakes_max:
            space.freed = True
    elif space.overtakers:
        space.overtakers.clear()
    space.stands(after.id, [p.node for p in after.placements])
    if request.most is not None:
        space.elastic[after.id] = None
        if after.amounts != request.most:
            space.freed = True
    if request.sticky is not None:
        key = (after.tenant, request.sticky)
        pool.sticky.pop(key, None)
        pool.sticky[key] = tuple(p.node for p in after.placements)
        if len(pool.sticky) > STICKY_REMEMBERED:
            del pool.sticky[next(iter(pool.sticky))]


def _begin_allocation(book: Book, event: Event, body: Allocated | Reserved) -> None:
    """Take what was granted at once, without a wait."""
    after = granted(None, event, body)
    _note_request(book.pools[after.pool], after.request)
    _settle_in(book, space_for(book, after), after, event)
    _store(book, None, after)


def _end_allocation(book: Book, before: Allocation, event: Event) -> None:
    """Take an allocation out of the book. Its ended state is not made here: the book keeps none."""
    pool = book.pools[before.pool]
    space = space_for(book, before)
    if before.state in LIVE:
        _give_back(space, before.placements)
        _count(pool, before, before.amounts, -1)
        space.leaves(before.id, [p.node for p in before.placements])
        space.elastic.pop(before.id, None)
        _touch_quota(book, before)
        if before.granted_at is not None:
            _remember_habit(pool, before, event.at)
            # What draws on another is settled where that one is: its amounts are held there.
            if pool.consumable and before.request.parent is None:
                body = event.body
                settled = body.consumed if isinstance(body, Released | Reclaimed) else None
                _spend(pool, before, settled)
    else:
        _leave_line(space, before)
    if space.parent is not None and not space.standing and not space.waiting:
        # What lends nothing any more may be stretched and shrunk again.
        space_for(book, book.allocations[space.parent]).freed = True
    book.lent.pop(before.id, None)
    del book.allocations[before.id]
    _forget_holder(book, before)
    if len(book.due) > 2 * len(book.allocations) + REMINDERS_SPARE:
        book.renew_reminders()


def _remember_habit(pool: Pool, allocation: Allocation, ended_at: int) -> None:
    """How long such tasks hold: a running count and sum, of which estimates are made."""
    assert allocation.granted_at is not None
    task = allocation.task or ""
    count, total = pool.habits.pop(task, (0, 0))
    pool.habits[task] = (count + 1, total + max(0, ended_at - allocation.granted_at))
    if len(pool.habits) > HABITS_REMEMBERED:
        del pool.habits[next(iter(pool.habits))]


def evolve_allocation(book: Book, event: Event) -> None:
    """An event of one allocation: its state, the nodes' use, the totals, the queue."""
    allocation_id = event.allocation
    assert allocation_id is not None
    before = book.allocations.get(allocation_id)
    body = event.body
    if before is None:
        if isinstance(body, GRANTS):
            _begin_allocation(book, event, body)
            return
    elif type(body) is Renewed:
        # Its lease alone changes: nothing of what it holds, where, or in whose name.
        renewed = book.allocations[allocation_id] = changed(before, event)
        if renewed.lease_until != before.lease_until:
            book.set_due(renewed)
        return
    elif isinstance(body, ENDS):
        _end_allocation(book, before, event)
        return
    after = advance(before, event)
    if after is None:
        raise LedgerCorrupt(
            f"event {event.position} ({event.type}) is about {allocation_id}, which holds nothing",
            "run `leasebook verify`",
            position=event.position,
        )
    space = space_for(book, after)
    if before is None:
        _note_request(book.pools[after.pool], after.request)
        join_line(book, space, after)
    elif isinstance(body, Queued):
        _move_claim(space, before, after)
    elif isinstance(body, GRANTS):
        _leave_line(space, before)
        _settle_in(book, space, after, event)
    else:
        _change_tenure(book, space, before, after, event)
    _store(book, before, after)


def _move_claim(space: Space, before: Allocation, after: Allocation) -> None:
    space.keep_no_more(before.claims)
    space.keep(after.id, after.claims)
    # Who has a claim is looked at in any case, and a node that is kept no more is free to others.
    space.freed = True


def _change_tenure(
    book: Book, space: Space, before: Allocation, after: Allocation, event: Event
) -> None:
    """Adjusted, transferred, asked to end, confirmed: what is held, or by whom, may change."""
    pool = book.pools[after.pool]
    if before.placements is not after.placements:
        _give_back(space, before.placements)
        _count(pool, before, before.amounts, -1)
        _take(space, after.placements, event.position)
        _count(pool, after, after.amounts, 1)
        _touch_quota(book, after)
    elif before.holder != after.holder:
        _count(pool, before, before.amounts, -1)
        _count(pool, after, after.amounts, 1)
        space.freed = True
        _touch_quota(book, before)
        _touch_quota(book, after)
    elif before.state == "reserved":
        # From its confirmation on it may be stretched, and sent away.
        space.freed = True
    if type(event.body) is Adjusted:
        if after.request.most is None:
            space.elastic.pop(after.id, None)
        if after.id in book.lent:
            _lend_anew(book.lent[after.id], after.placements)
