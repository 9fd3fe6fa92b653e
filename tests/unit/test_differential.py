"""What must hold after any commands at all, tried at random: the same book decides the same.

After every step: a book read back from its dump takes the next step to the same events; a book
folded from the stored events is the same; deciding changes nothing; what is in use is what is held,
within capacity wherever nobody resized; and nothing is left over that could be handed on.
"""

from __future__ import annotations

import contextlib
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.book import LIVE, Book
from ledger.codec import from_row, to_row
from ledger.commands import AnyCommand, Targeted
from ledger.decide import decide
from ledger.errors import InvalidInput
from ledger.events import Event
from ledger.evolve import evolve
from ledger.fields import dump, load
from ledger.log import GENESIS, Row
from ledger.rules.waiting import next_move
from ledger.step import is_due, settle_due, take_step
from tests.unit.command_maker import SECOND, CommandMaker

STEPS = 60


def _settle(book: Book, now: int) -> list[Event]:
    events: list[Event] = []
    for _ in range(1000):
        if not is_due(book, now):
            return events
        events += settle_due(book, now, limit=3)
    raise AssertionError("what is due is never done")


def _contents(events: list[Event]) -> list[Row]:
    """What would be stored, byte for byte."""
    return [to_row(event, GENESIS) for event in events]


def _take(book: Book, command: AnyCommand, now: int) -> tuple[list[Event], bool]:
    """One step as the writer takes it, and whether the command was one that can be right."""
    events = _settle(book, now)
    try:
        return events + take_step(book, command, now).events, True
    except InvalidInput:
        return events, False


def _in_use_is_what_is_held(book: Book) -> None:
    for space in book.spaces():
        parent = (
            None if space.key in book.pools and space is book.pools[space.key].space else space.key
        )
        used: Counter[tuple[str, str]] = Counter()
        cards: Counter[tuple[str, str, str]] = Counter()
        for a in book.allocations.values():
            here = a.request.parent == parent and (parent is not None or a.pool == space.key)
            if a.state not in LIVE or not here:
                continue
            for p in a.placements:
                for resource, amount in p.amounts.items():
                    used[p.node, resource] += amount
                for resource, shares in (p.devices or {}).items():
                    for card, amount in shares.items():
                        cards[p.node, resource, card] += amount
        if parent is None:
            for node, spent in book.pools[space.key].spent.items():
                for resource, amount in spent.items():
                    used[node, resource] += amount
        has = {
            (node.name, resource): amount
            for node in space.nodes.values()
            for resource, amount in node.in_use.items()
            if amount
        }
        on_cards = {
            (node.name, resource, card): amount
            for node in space.nodes.values()
            for resource, shares in node.cards_in_use.items()
            for card, amount in shares.items()
        }
        assert has == {key: amount for key, amount in used.items() if amount}, space.key
        assert on_cards == dict(cards), space.key
        if parent is not None:
            for each in space.nodes.values():
                for resource, amount in each.in_use.items():
                    assert 0 <= amount <= each.capacity.get(resource, 0), (space.key, resource)
                for resource, shares in each.cards_in_use.items():
                    for card, amount in shares.items():
                        assert amount <= each.cards[resource].get(card, 0), (space.key, card)


def _indexes_agree(book: Book) -> None:
    again = load(dump(book))
    assert dump(again) == dump(book)
    assert list(again.lent) == list(book.lent)
    for name, pool in book.pools.items():
        assert again.pools[name].held == pool.held
        assert again.pools[name].holding == pool.holding
    for one, other in zip(book.spaces(), again.spaces(), strict=True):
        assert one.claims == other.claims
        assert list(one.waiting) == list(other.waiting)
        assert one.elastic.keys() == other.elastic.keys()
        assert one.gangs == other.gangs
        assert one.shapes == other.shapes
        assert one.kinds == other.kinds
        assert one.alike == other.alike
        for node, claimant in one.claims.items():
            assert node in book.allocations[claimant].claims
    claimed = {a.id for a in book.allocations.values() if a.claim is not None}
    assert claimed == {c for space in book.spaces() for c in space.claims.values()}
    assert {k: set(v) for k, v in again.by_holder.items()} == {
        k: set(v) for k, v in book.by_holder.items()
    }


def _nothing_is_left_over(book: Book, now: int) -> None:
    """Nothing can be handed on at rest, but for claims (and what follows), which time makes due.

    Gangs are left out: they are packed greedily, and a node that fills up can make them fit.
    """
    for space in book.spaces():
        assert not space.freed
        draft = next_move(book, space, now)
        moved = [] if draft is None else [(e.type, e.allocation, e.body) for e in draft.events]
        if any(book.allocations[each].gang for _, each, _ in moved if each is not None):
            continue
        assert {kind for kind, _, _ in moved} <= {"queued"}, f"left over in {space.key}: {moved}"


def run(seed: int, steps: int = STEPS) -> Counter[str]:
    """One random history, checked at every step; returns the types of its events."""
    maker = CommandMaker(seed)
    book, folded = Book(), Book()
    now = 1_000 * SECOND
    kinds: Counter[str] = Counter()
    opening = maker.opening()
    for number in range(steps):
        command = opening[number] if number < len(opening) else maker.next(book)
        now += 1 + maker.wait()
        other = load(dump(book))
        events, valid = _take(book, command, now)
        tried, tried_valid = _take(other, command, now)
        assert valid == tried_valid
        assert _contents(events) == _contents(tried), f"step {number}: {command}"
        for event in events:
            evolve(folded, from_row(to_row(event, GENESIS)))
        assert dump(folded) == dump(book), f"step {number}"
        folded = load(dump(book))
        kinds.update(event.type for event in events)
        _in_use_is_what_is_held(book)
        _indexes_agree(book)
        _nothing_is_left_over(book, now)
        _deciding_changes_nothing(book, maker.next(book), now)
    return kinds


def _deciding_changes_nothing(book: Book, command: AnyCommand, now: int) -> None:
    before = dump(book)
    if isinstance(command, Targeted) and command.allocation not in book.allocations:
        return
    with contextlib.suppress(InvalidInput):
        decide(book, command, now)
    assert dump(book) == before


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_any_history_is_decided_alike_conserved_and_leaves_nothing_over(seed: int) -> None:
    run(seed)
