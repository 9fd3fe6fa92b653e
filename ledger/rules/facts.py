"""Carrying out ``RecordFacts``: what facts may say, and the events of a whole command of them.

What one fact comes to is in :mod:`ledger.rules.history`. Nothing is refused for breaking the rules of
managed pools: only what cannot be understood, or written down, is bad input.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ledger.advance import ENDS
from ledger.amounts import AMOUNT_MAX, RESOURCES_MAX, check_name, check_resource_name
from ledger.book import Book
from ledger.canonical import canonical_json
from ledger.codec import from_row
from ledger.commands import Fact, RecordFacts
from ledger.content import fact_digest
from ledger.errors import InvalidInput, Reason
from ledger.events import Cause, Event, UsageRecorded
from ledger.log import Row
from ledger.requests import Amounts, Placement
from ledger.rules.answers import Draft, No
from ledger.rules.history import (
    TIME_MAX,
    UNKNOWN,
    Life,
    Notice,
    Outcome,
    Said,
    begin,
    merge,
)
from ledger.rules.inventories import inventory_keys, record_nodes
from ledger.rules.notices import merge_notice
from ledger.rules.validity import MAX_NODES, check_nodes

MAX_FACTS = 10_000
METADATA_BYTES_MAX = 16_384


class Past:
    """What is recorded under one key: rows of the log, and the events that will follow them."""

    __slots__ = ("events", "rows")

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.events: list[Event] = []

    @property
    def first(self) -> Row | Event:
        """The first of them."""
        return self.rows[0] if self.rows else self.events[0]

    def life(self) -> Life:
        """All of it, folded."""
        return Life([*map(from_row, self.rows), *self.events])

    def state_if_known(self, digest: str) -> str | None:
        """The allocation's state, if a fact of this digest is among what was recorded; else None.

        Nothing is decoded for it: most of what is imported again is as it was.
        """
        if self.events or not any(digest in row.data for row in self.rows if row.command_id):
            return None
        state = "waiting"
        for row in self.rows:
            if row.type == "allocated":
                state = "open"
            elif row.type in _ENDS:
                state = "ended"
        return state


_ENDS = frozenset(body.TYPE for body in ENDS)
Known = Mapping[tuple[str, str], Past]
"""Tenant and key → what is recorded under it."""

_OUTCOMES: dict[tuple[str, str, bool], Outcome] = {}


# --- what a fact may say -------------------------------------------------------------------------


def check_facts(command: RecordFacts) -> None:
    """Raise InvalidInput for a command that can never be right, naming the first fact at fault."""
    if len(command.facts) > MAX_FACTS:
        raise InvalidInput(
            f"{len(command.facts)} facts at once; it takes at most {MAX_FACTS}", "split them"
        )
    if command.nodes:
        check_nodes(command.nodes)
    _check_time("the nodes", command.nodes_at)
    names: set[str] = set()
    for fact in command.facts:
        check_fact(fact, names)


def check_fact(fact: Fact, names: set[str] | None = None) -> None:
    """Raise InvalidInput for a fact that cannot be recorded.

    ``names`` keeps names that were found to be good, so that each is looked at once.
    """
    good = set() if names is None else names
    check_name("fact's key", fact.key)
    for kind, name in (
        ("tenant", fact.tenant),
        ("holder", fact.holder),
        ("task", fact.task),
        ("ending", fact.ended_by),
    ):
        if name is not None and name not in good:
            good.add(check_name(kind, name))
    request = fact.request
    if request.process is not None or request.parent is not None:
        raise InvalidInput(
            f"fact {fact.key!r} is bound to a process or a parent of this ledger",
            "facts tell of what happened elsewhere: leave both out",
        )
    _check_amounts(fact.key, request.amounts, good)
    placements = fact.placements
    if (
        len(placements) == 1
        and placements[0].amounts is request.amounts
        and (placements[0].devices is None and placements[0].node in good)
    ):
        placements = ()  # The same value: it has just been looked at.
    _check_placements(fact.key, placements, good)
    for at, placed in fact.moves:
        _check_time(fact.key, at)
        _check_placements(fact.key, placed, good)
    _check_times(fact)
    if fact.usage is not None:
        _check_usage(fact.key, fact.usage, good)
    metadata = fact.metadata
    if metadata and not _is_small(metadata) and len(canonical_json(metadata)) > METADATA_BYTES_MAX:
        raise InvalidInput(f"the metadata of {fact.key!r} is above 16 KiB", "leave some out")


def _is_small(metadata: dict[str, Any]) -> bool:
    """Whether metadata is a few short texts, which are written out only once for that."""
    if len(metadata) >= 20:
        return False
    for name, value in metadata.items():
        if type(value) is not str or len(value) >= 200:
            return False
        if not (value.isprintable() and name.isprintable()):
            return False
    return True


def _check_times(fact: Fact) -> None:
    known = False
    for at in fact.times:
        if at is not None:
            known = True
            if type(at) is not int or not -TIME_MAX <= at <= TIME_MAX:
                _check_time(fact.key, at)
    _check_time(fact.key, fact.request.ttl_ns)
    if not known and not fact.moves and fact.usage is None:
        raise InvalidInput(f"{fact.key!r} says of no time", "give a start, an end or a request")
    began, ended = fact.began_at, fact.ended_at
    if began is not None and ended is not None and ended < began:
        raise InvalidInput(
            f"{fact.key!r} ends {(began - ended) / 1e9:g} s before it begins", "mend the record"
        )


def _check_time(what: str, at: object) -> None:
    if at is not None and not (type(at) is int and -TIME_MAX <= at <= TIME_MAX):
        raise InvalidInput(
            f"{what!r} has a time out of range: {at!r} ns", "give years 1824 to 2115"
        )


def _check_amounts(key: str, amounts: Amounts, good: set[str]) -> None:
    if len(amounts) > RESOURCES_MAX:
        raise InvalidInput(f"{key!r} names {len(amounts)} resources", f"at most {RESOURCES_MAX}")
    for resource, amount in amounts.items():
        if resource not in good:
            check_resource_name(resource)
            good.add(resource)
        if type(amount) is not int or not 0 <= amount <= AMOUNT_MAX:
            raise InvalidInput(
                f"{key!r} has {amount!r} base units of {resource}", "give whole numbers from 0"
            )


def _check_placements(key: str, placements: tuple[Placement, ...], good: set[str]) -> None:
    if len(placements) > MAX_NODES:
        raise InvalidInput(f"{key!r} is on {len(placements)} nodes", f"at most {MAX_NODES}")
    for placement in placements:
        if placement.node not in good:
            good.add(check_name("node", placement.node))
        _check_amounts(key, placement.amounts, good)
        for resource, cards in (placement.devices or {}).items():
            if resource not in placement.amounts:
                raise InvalidInput(f"{key!r} has cards of {resource}, but none of it", "")
            _check_amounts(key, dict.fromkeys([resource], max(cards.values(), default=0)), good)


def _check_usage(key: str, usage: UsageRecorded, good: set[str]) -> None:
    _check_time(key, usage.since)
    _check_time(key, usage.until)
    _check_amounts(key, usage.used, good)
    _check_amounts(key, usage.peak, good)


# --- the events of a command ---------------------------------------------------------------------


def keys_of(command: RecordFacts) -> set[tuple[str, str]]:
    """What has to be looked up before a command is decided. Raises InvalidInput for bad names."""
    keys = {(fact.tenant, fact.key) for fact in command.facts}
    for tenant, key in keys:
        if not (tenant.isprintable() and key.isprintable()):
            # No store can look for such text.
            check_name("tenant", tenant)
            check_name("fact's key", key)
    if command.nodes:
        keys.update(inventory_keys(command.pool))
    return keys


def by_key(first: Iterable[Row], rows: Iterable[Row], unwritten: Sequence[Event]) -> Known:
    """What is known, by key: ``first`` are rows that bear keys, ``rows`` all of their allocations,
    ``unwritten`` the events that come after them."""
    key_of: dict[str, tuple[str, str]] = {}
    known: dict[tuple[str, str], Past] = {}
    for row in first:
        assert row.command_id is not None
        key = (row.tenant, row.command_id)
        if row.allocation is None:
            known.setdefault(key, Past()).rows.append(row)
        else:
            key_of.setdefault(row.allocation, key)
    for event in unwritten:
        if event.cause is not None:
            key = (event.tenant, event.cause.command_id)
            if event.allocation is None:
                known.setdefault(key, Past()).events.append(event)
            else:
                key_of.setdefault(event.allocation, key)
    for row in rows:
        known.setdefault(key_of[row.allocation or ""], Past()).rows.append(row)
    for event in unwritten:
        if event.allocation in key_of:
            known.setdefault(key_of[event.allocation], Past()).events.append(event)
    return known


def record(
    book: Book, draft: Draft, command: RecordFacts, known: Known
) -> tuple[Outcome, ...] | No:
    """Draft what a command's facts add to what is ``known``; what became of each, in order."""
    pool = book.pools.get(command.pool)
    if pool is None:
        return No(
            Reason.NO_SUCH_POOL,
            f"there is no pool {command.pool!r}",
            f"open it: `leasebook pool open {command.pool} --observed …`",
        )
    if pool.kind != "observed":
        return No(
            Reason.INVALID,
            f"pool {pool.name!r} is managed: what it hands out is its own record",
            "record what happened elsewhere in an observed pool",
        )
    for (_, used), past in known.items():
        there = book.pools.get(past.first.pool or "")
        if there is None or there.kind != "observed":
            return No(
                Reason.COMMAND_ID_REUSED,
                f"{used!r} is the id of a command that had its effect at position"
                f" {past.first.position}",
                "give the source's records another key",
            )
    if command.nodes:
        record_nodes(draft, pool, command, _inventories(command.pool, known))
    lives: dict[tuple[str, str], Life] = {}
    fresh: dict[tuple[str, str], tuple[int, int]] = {}
    outcomes = []
    for fact in command.facts:
        key = (fact.tenant, fact.key)
        begun = fresh.get(key)
        if begun is None and key not in known and key not in lives:
            outcomes.append(_begin(draft, pool.name, fact, fresh, key))
            continue
        life = lives.get(key)
        if life is None and begun is None:
            past = known[key]
            state = past.state_if_known(fact_digest(fact))
            if state is not None:
                outcomes.append(_outcome("known", state, past.first.pool != pool.name))
                continue
            life = past.life()
        elif life is None and begun is not None:
            life = Life(draft.events[slice(*begun)])
        assert life is not None
        lives[key] = life
        outcomes.append(_add(draft, pool.name, fact, life))
    return tuple(outcomes)


def _inventories(pool: str, known: Known) -> list[Event]:
    """What is known of a pool's nodes from inventories, in the order of positions."""
    pasts = [known[key] for key in inventory_keys(pool) if key in known]
    told = [event for past in pasts for event in [*map(from_row, past.rows), *past.events]]
    return sorted(told, key=_position)


def _position(event: Event) -> int:
    return event.position


def _outcome(what: str, state: str, elsewhere: bool = False) -> Outcome:
    """One of a few values, shared."""
    key = (what, state, elsewhere)
    found = _OUTCOMES.get(key)
    if found is None:
        found = _OUTCOMES[key] = Outcome(what, state, elsewhere)
    return found


def _begin(
    draft: Draft,
    pool: str,
    fact: Fact,
    fresh: dict[tuple[str, str], tuple[int, int]],
    key: tuple[str, str],
) -> Outcome:
    """The events of a key that nothing is recorded under. The short way: most facts are such."""
    position = draft.position + 1
    said = begin(fact, position)
    where = len(draft.events)
    _write(draft, f"A{position}", pool, fact, fact.holder, fact.task, said)
    fresh[key] = (where, len(draft.events))
    if fact.ended_at is not None:
        return _outcome("new", "ended")
    return _outcome("new", "waiting" if said[0][0].TYPE == "queued" else "open")


def _add(draft: Draft, pool: str, fact: Fact, life: Life) -> Outcome:
    """What a fact adds to a life that has begun."""
    position = draft.position + 1
    if isinstance(fact, Notice):
        said = merge_notice(life, fact, position)
    else:
        said = merge(life, fact, position)
    if said:
        holder = life.holder if fact.holder == UNKNOWN else fact.holder
        task = life.task if fact.task is None else fact.task
        for event in _write(draft, life.allocation, life.pool, fact, holder, task, said):
            life.apply(event)
    corrects = bool(said) and said[-1][0].TYPE == "corrected" and life.first != draft.position
    what = "corrected" if corrects and said[0][0].TYPE != "allocated" else "added"
    return _outcome(what if said else "known", life.state, life.pool != pool)


def _write(
    draft: Draft,
    allocation: str,
    pool: str,
    fact: Fact,
    holder: str,
    task: str | None,
    said: Said,
) -> list[Event]:
    """Draft what was said. The first event bears the key; the end, or else the first, the rest."""
    cause: Cause | None = Cause(fact.key, fact_digest(fact))
    tenant, now = fact.tenant, draft.now
    metadata = fact.metadata
    position = draft.position
    bearer = 0
    if metadata and fact.ended_at is not None:
        for index, (_, at) in enumerate(said):
            if at == fact.ended_at:
                bearer = index
    events = []
    for index, (body, at) in enumerate(said):
        position += 1
        events.append(
            Event(
                position,
                now if at is None else at,
                now,
                tenant,
                pool,
                allocation,
                holder,
                task,
                cause,
                body,
                metadata if index == bearer else None,
            )
        )
        cause = None
    draft.position = position
    draft.events += events
    return events
