"""The line of those who wait, kept so that the next in order is found without sorting it.

Ageing is quantised: a request's rank is the window of ``ageing_ns`` in which it arrived, less its
priority. So waiting through one window more is worth one priority, and a rank never changes while
a request waits. Within a rank, the tenant with the smallest dominant share comes first, then the
holder with the smallest, then arrival (dominant resource fairness, Ghodsi et al., NSDI 2011).
The line is derived from the allocations that wait; it is a cache and no part of the book's record.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator

from ledger.requests import PRIORITIES

Share = Callable[[str, str | None], int]
"""(tenant, holder or None) → dominant share in millionths."""


def rank(requested_at: int, priority: str, ageing_ns: int) -> int:
    """The order in which ranks are served, smallest first."""
    return requested_at // ageing_ns - PRIORITIES.index(priority)


class _Tenant:
    """One tenant's waiting requests of one rank, by arrival and by holder."""

    __slots__ = ("by_holder", "order")

    def __init__(self) -> None:
        self.order: dict[str, str] = {}
        self.by_holder: dict[str, dict[str, None]] = {}

    def candidates(self, tenant: str, share: Share, holding: set[str]) -> Iterator[str]:
        """Ids of holders that hold nothing, by arrival; then the others', by share and arrival."""
        few, many = sorted((holding, self.by_holder.keys()), key=len)
        busy = [holder for holder in few if holder in many]
        idle = len(self.order) - sum(len(self.by_holder[holder]) for holder in busy)
        if idle:
            for waiting_id, holder in self.order.items():
                if holder not in holding:
                    yield waiting_id
                    idle -= 1
                    if not idle:
                        break
        ranked = [
            (share(tenant, holder), int(next(iter(self.by_holder[holder]))[1:]), holder)
            for holder in busy
        ]
        for _, _, holder in sorted(ranked):
            yield from self.by_holder[holder]


class Line:
    """Waiting ids by rank and tenant; arrival order within."""

    __slots__ = ("_places", "_ranks", "_tenants")

    def __init__(self) -> None:
        self._ranks: list[int] = []
        self._tenants: dict[int, dict[str, _Tenant]] = {}
        self._places: dict[str, tuple[int, str, str]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, waiting_id: str, rank_: int, tenant: str, holder: str) -> None:
        """Put a request in line. Ids are added in order of arrival."""
        tenants = self._tenants.get(rank_)
        if tenants is None:
            tenants = self._tenants[rank_] = {}
            insort(self._ranks, rank_)
        line = tenants.get(tenant)
        if line is None:
            line = tenants[tenant] = _Tenant()
        line.order[waiting_id] = holder
        line.by_holder.setdefault(holder, {})[waiting_id] = None
        self._places[waiting_id] = (rank_, tenant, holder)

    def remove(self, waiting_id: str) -> None:
        """Take a request out of line, if it stands in it."""
        place = self._places.pop(waiting_id, None)
        if place is None:
            return
        rank_, tenant, holder = place
        line = self._tenants[rank_][tenant]
        del line.order[waiting_id]
        of_holder = line.by_holder[holder]
        del of_holder[waiting_id]
        if not of_holder:
            del line.by_holder[holder]
        if not line.order:
            del self._tenants[rank_][tenant]
            if not self._tenants[rank_]:
                del self._tenants[rank_]
                del self._ranks[bisect_left(self._ranks, rank_)]

    def ahead(self, waiting_id: str) -> int:
        """How many are served before this one: those of smaller rank, and who came earlier in its own.

        Shares change from grant to grant, so within a rank this goes by arrival.
        """
        place = self._places.get(waiting_id)
        if place is None:
            return 0
        earlier = self._ranks[: bisect_left(self._ranks, place[0])]
        count = sum(len(t.order) for r in earlier for t in self._tenants[r].values())
        position = int(waiting_id[1:])
        for tenant in self._tenants[place[0]].values():
            count += sum(1 for other in tenant.order if int(other[1:]) < position)
        return count

    def place(self, waiting_id: str, share: Share, holding: dict[str, set[str]]) -> tuple[int, ...]:
        """By what :meth:`candidates` puts a waiting id before others, for a few of them."""
        rank_, tenant, holder = self._places[waiting_id]
        line = self._tenants[rank_][tenant]
        of_tenant = (rank_, share(tenant, None), int(next(iter(line.order))[1:]))
        position = int(waiting_id[1:])
        if holder not in holding.get(tenant, ()):
            return *of_tenant, 0, 0, 0, position
        first = int(next(iter(line.by_holder[holder]))[1:])
        return *of_tenant, 1, share(tenant, holder), first, position

    def candidates(self, share: Share, holding: dict[str, set[str]]) -> Iterator[str]:
        """Every waiting id, in order. The line must not change while this goes on.

        ``holding``: tenant → holders that hold something.
        """
        for rank_ in self._ranks:
            tenants = self._tenants[rank_]
            if len(tenants) == 1:
                ordered = list(tenants)
            else:
                ordered = sorted(
                    tenants, key=lambda t: (share(t, None), int(next(iter(tenants[t].order))[1:]))
                )
            for tenant in ordered:
                yield from tenants[tenant].candidates(tenant, share, holding.get(tenant, set()))
