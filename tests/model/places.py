"""Where something may lie: one node's capacity, what lies there, and whether more fits.

A site is made anew from the list of allocations whenever somebody asks; nothing is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from ledger.requests import CARD, Amounts, Devices

IN_CARDS = ("gpu",)


@dataclass(slots=True)
class Site:
    """A node of a pool, or the share of a node that an allocation lends.

    ``cards`` is what each card could hold, ``cards_used`` what lies on it.
    """

    name: str
    capacity: Amounts
    used: Amounts
    cards: Devices
    cards_used: Devices
    labels: dict[str, str]
    cordoned: bool = False

    def on_card(self, resource: str, card: str) -> int:
        """What lies on a card."""
        return self.cards_used.get(resource, {}).get(card, 0)

    def room_on(self, resource: str, card: str) -> int:
        """What a card could still take; a card that is gone takes nothing."""
        return self.cards.get(resource, {}).get(card, 0) - self.on_card(resource, card)

    def free_cards(self, resource: str) -> list[str]:
        """The cards that are whole and unused."""
        return [
            card
            for card in self.cards.get(resource, {})
            if self.room_on(resource, card) >= CARD and self.on_card(resource, card) == 0
        ]


def cards_of(capacity: Amounts) -> Devices:
    """The cards of a node with this capacity."""
    return {
        resource: {str(number): CARD for number in range(amount // CARD)}
        for resource, amount in capacity.items()
        if resource in IN_CARDS
    }


def selected(site: Site, select: dict[str, str] | None) -> bool:
    """Whether the site carries the wanted labels."""
    return all(site.labels.get(label) == value for label, value in (select or {}).items())


def fits(site: Site, amounts: Amounts) -> bool:
    """Whether the amounts fit on the site beside what lies there."""
    for resource, amount in amounts.items():
        if site.used.get(resource, 0) + amount > site.capacity.get(resource, 0):
            return False
        if resource in IN_CARDS and not card_choices(site, resource, amount):
            return False
    return True


def could_fit(site: Site, amounts: Amounts) -> bool:
    """Whether the amounts would fit if nothing lay there."""
    empty = Site(site.name, site.capacity, {}, site.cards, {}, site.labels)
    return fits(empty, amounts)


def card_choices(site: Site, resource: str, amount: int) -> list[dict[str, int]]:
    """Every way to put a share on a card; for whole cards one way stands for all."""
    if amount < CARD:
        cards = site.cards.get(resource, {})
        return [{card: amount} for card in cards if site.room_on(resource, card) >= amount]
    free = site.free_cards(resource)
    count = amount // CARD
    return [dict.fromkeys(free[:count], CARD)] if len(free) >= count else []


def may_land_on(sites: list[Site], amounts: Amounts, strategy: str) -> list[Site]:
    """The sites that a strategy may choose; none where the amounts fit nowhere now.

    First fit has no choice. Best fit may take any of those that differ by less than a millionth of
    their capacity for each resource.
    """
    fitting = [site for site in sites if not site.cordoned and fits(site, amounts)]
    if strategy == "first_fit" or not fitting:
        return fitting[:1]
    left = {site.name: left_over(site, sites, amounts) for site in fitting}
    near = min(left.values()) + Fraction(len(amounts) + 2, 1_000_000)
    return [site for site in fitting if left[site.name] <= near]


def left_over(site: Site, sites: list[Site], amounts: Amounts) -> Fraction:
    """What would stay free, as summed shares of what the largest of the sites has.

    Where there are cards anywhere, processors and cards count, asked for or not; else what is asked
    for counts.
    """
    counted = set(amounts)
    if any(other.capacity.get(resource) for other in sites for resource in IN_CARDS):
        counted = {"cpu", *IN_CARDS}
    total = Fraction(0)
    for resource in counted:
        largest = max(other.capacity.get(resource, 0) for other in sites)
        free = site.capacity.get(resource, 0) - site.used.get(resource, 0)
        if largest:
            total += Fraction(max(0, free - amounts.get(resource, 0)), largest)
    return total


def grows_on(site: Site, held: Amounts, cards: Devices, wanted: Amounts) -> bool:
    """Whether what lies on the site as ``held`` on ``cards`` can become ``wanted``.

    What it gives back is always possible. Cards that it has it keeps.
    """
    for resource, amount in wanted.items():
        more = amount - held.get(resource, 0)
        if more <= 0:
            continue
        if site.used.get(resource, 0) + more > site.capacity.get(resource, 0):
            return False
        if resource in IN_CARDS and not _cards_grow(site, resource, cards, amount):
            return False
    return True


def _cards_grow(site: Site, resource: str, cards: Devices, amount: int) -> bool:
    mine = cards.get(resource, {})
    if not mine:
        return bool(card_choices(site, resource, amount))
    if amount < CARD:
        ((card, share),) = mine.items()
        return site.room_on(resource, card) >= amount - share
    for card, share in mine.items():
        if card not in site.cards.get(resource, {}):
            return False
        if share < CARD and site.room_on(resource, card) < CARD - share:
            return False
    return len(site.free_cards(resource)) >= amount // CARD - len(mine)


def cards_complaint(
    site: Site, resource: str, amount: int, before: dict[str, int], after: dict[str, int]
) -> str | None:
    """What is wrong with the cards that ``amount`` was put on, or None.

    ``before`` are the cards that the same allocation had; the site still counts them as used.
    """
    if sum(after.values()) != amount:
        return f"cards {after} do not add up to {amount}"
    if amount < CARD and len(after) != 1:
        return f"a share lies on one card, not on {after}"
    if amount >= CARD and any(part != CARD for part in after.values()):
        return f"whole cards were asked for, not {after}"
    for card, part in after.items():
        more = part - before.get(card, 0)
        if more > 0 and site.room_on(resource, card) < more:
            return f"card {card} has no room for {more} more"
    smaller, larger = sorted((set(before), set(after)), key=len)
    if before and not smaller <= larger:
        return f"cards {sorted(before)} became {sorted(after)}: a holder keeps its cards"
    return None
