"""The recent mix of requests: which shapes were asked for, and how often.

Fragmentation can only be told for what is usually asked. A shape is what decides where a request
fits: its amounts and its selector. The last :data:`REMEMBERED` requests of a pool count.
"""

from __future__ import annotations

from collections import deque

from ledger.requests import Request

REMEMBERED = 1_000

Shape = tuple[tuple[tuple[str, int], ...], tuple[tuple[str, str], ...]]


def shape_of(request: Request) -> Shape:
    """Amounts and selector of a request, sorted, so that equal needs are equal shapes."""
    select = tuple(sorted(request.select.items())) if request.select else ()
    return tuple(sorted(request.amounts.items())), select


class Mix:
    """Shapes of the last requests, counted. ``version`` changes whenever the counts do."""

    __slots__ = ("counts", "recent", "version")

    def __init__(self) -> None:
        self.recent: deque[Shape] = deque()
        self.counts: dict[Shape, int] = {}
        self.version = 0

    def add(self, shape: Shape) -> None:
        """Count one more request, and forget the oldest beyond the limit."""
        self.recent.append(shape)
        self.counts[shape] = self.counts.get(shape, 0) + 1
        if len(self.recent) > REMEMBERED:
            old = self.recent.popleft()
            left = self.counts[old] - 1
            if left:
                self.counts[old] = left
            else:
                del self.counts[old]
        self.version += 1

    def copy(self) -> Mix:
        """A mix of its own."""
        other = Mix()
        other.recent = self.recent.copy()
        other.counts = self.counts.copy()
        other.version = self.version
        return other
