"""Whether a book is what the model says, and whether its accounts balance by themselves."""

from __future__ import annotations

from ledger.book import LIVE, Allocation, Book
from ledger.nodes import Node
from ledger.requests import CARD, Amounts, Devices, Placement
from tests.model.model import Held, Model
from tests.model.places import Site


def same_as_model(model: Model, book: Book) -> None:
    """Assert that the book holds what the model holds, in the model's words."""
    expected = {held.id: held for held in model.all if held.ended_at is None}
    assert set(book.allocations) == set(expected)
    for id, held in expected.items():
        said, modelled = _said(book.allocations[id]), _expected(held)
        assert said == modelled, f"{id} is {said}; the model says {modelled}"
    for name, pool in model.pools.items():
        found_pool = book.pools[name]
        assert found_pool.closed == pool.closed
        assert list(found_pool.space.nodes) == [node.name for node in pool.nodes]
        assert list(found_pool.space.waiting) == [held.id for held in model.waiting(name, None)]
        for site in model.sites(name, None):
            same_site(site, found_pool.space.nodes[site.name])
        same_totals(model, book, name)
    for lender in expected.values():
        space = book.lent.get(lender.id)
        waiting = [held.id for held in model.waiting(lender.pool, lender.id)]
        assert (list(space.waiting) if space else []) == waiting
        if space is None:
            assert not model.children(lender.id)
        else:
            same_site(model.lent(lender), space.nodes[lender.node])
    assert set(book.lent) <= set(expected)


def _said(a: Allocation) -> tuple[object, ...]:
    node = a.placements[0].node if a.placements else ""
    assert len(a.placements) <= 1
    assert not a.placements or a.placements[0].amounts == a.amounts
    return (
        a.state,
        a.tenant,
        a.holder,
        a.pool,
        a.requested_at,
        a.amounts if a.state in LIVE else {},
        node,
        cards_on(a.placements),
        a.token,
        a.granted_at,
        a.lease_until if a.state != "ending" else None,
        a.max_age_until if a.lease_until is not None else None,
        a.deadline,
        a.ending_cause,
    )


def _expected(held: Held) -> tuple[object, ...]:
    return (
        held.state,
        held.tenant,
        held.holder,
        held.pool,
        held.asked_at,
        held.amounts,
        held.node,
        {resource: cards for resource, cards in held.cards.items() if cards},
        held.token,
        held.granted_at,
        held.lease if held.state != "ending" else None,
        held.max_age if held.lease is not None else None,
        held.deadline,
        held.ending_cause,
    )


def cards_on(placements: tuple[Placement, ...]) -> Devices:
    """The cards of a placement."""
    return dict(placements[0].devices or {}) if placements else {}


def same_site(site: Site, node: Node) -> None:
    """Assert that a node has in use exactly what the model's list adds up to."""
    assert _whole(node.capacity) == _whole(site.capacity), site.name
    assert _whole(node.in_use) == _whole(site.used), site.name
    assert _cards(node.cards_in_use) == _cards(site.cards_used), site.name
    assert node.cordoned == site.cordoned


def same_totals(model: Model, book: Book, pool: str) -> None:
    """Assert that what tenants and holders are counted to hold is what they hold."""
    totals: dict[tuple[str, str | None], Amounts] = {}
    for held in model.live():
        if held.pool == pool and held.parent is None:
            for key in ((held.tenant, None), (held.tenant, held.holder)):
                total = totals.setdefault(key, {})
                for resource, amount in held.amounts.items():
                    total[resource] = total.get(resource, 0) + amount
    counted = {key: _whole(held) for key, held in book.pools[pool].held.items()}
    assert {key: held for key, held in counted.items() if held} == totals


def over(model: Model) -> set[tuple[str, ...]]:
    """Every place that holds more than it has. Only a resize may bring such a place about."""
    found: set[tuple[str, ...]] = set()
    for pool in model.pools:
        for site in model.sites(pool, None):
            found |= {(pool, *place) for place in _over(site)}
    for lender in model.live():
        found |= {(lender.id, *place) for place in _over(model.lent(lender))}
    return found


def _over(site: Site) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for resource, used in site.used.items():
        assert used >= 0
        if used > site.capacity.get(resource, 0):
            found.add((site.name, resource))
    for resource, cards in site.cards_used.items():
        for card, used in cards.items():
            assert 0 <= used <= CARD, f"card {card} of {site.name} holds {used}"
            if used > site.cards.get(resource, {}).get(card, 0):
                found.add((site.name, resource, card))
    return found


def whole_cards_are_exclusive(model: Model) -> None:
    """Assert that nobody else lies on a card that was granted whole."""
    for pool in model.pools:
        owners: dict[tuple[str, str], list[int]] = {}
        for held in model.live():
            if held.pool == pool and held.parent is None:
                for card, amount in held.cards.get("gpu", {}).items():
                    owners.setdefault((held.node, card), []).append(amount)
        for shares in owners.values():
            assert len(shares) == 1 or CARD not in shares


def _whole(amounts: Amounts) -> Amounts:
    return {resource: amount for resource, amount in amounts.items() if amount}


def _cards(cards: Devices) -> Devices:
    return {r: _whole(on) for r, on in cards.items() if _whole(on)}
