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
    """Shapes of the last requests, counted. ``version`` changes whenever the counts may have.

    Requests are kept as they came until somebody asks for the counts; from then on these are kept up
    with each request. So a fold pays next to nothing for a mix that nobody uses.
    """

    __slots__ = ("_counts", "_recent", "version")

    def __init__(self) -> None:
        self._recent: deque[Request | Shape] = deque()
        self._counts: dict[Shape, int] | None = None
        self.version = 0

    @property
    def counts(self) -> dict[Shape, int]:
        """Shape → how often it was asked for among the recent requests."""
        if self._counts is None:
            self._counts = {}
            for shape in self.recent:
                self._counts[shape] = self._counts.get(shape, 0) + 1
        return self._counts

    @counts.setter
    def counts(self, counts: dict[Shape, int]) -> None:
        self._counts = counts
        self.version += 1

    @property
    def recent(self) -> list[Shape]:
        """The shapes of the recent requests, the oldest first."""
        return [_shape(each) for each in self._recent]

    def add(self, asked: Request | Shape) -> None:
        """Count one more request, and forget the oldest beyond the limit."""
        recent, counts = self._recent, self._counts
        recent.append(asked)
        self.version += 1
        old = recent.popleft() if len(recent) > REMEMBERED else None
        if counts is None:
            return
        shape = _shape(asked)
        counts[shape] = counts.get(shape, 0) + 1
        if old is not None:
            gone = _shape(old)
            left = counts[gone] - 1
            if left:
                counts[gone] = left
            else:
                del counts[gone]

    def copy(self) -> Mix:
        """A mix of its own."""
        other = Mix()
        other._recent = self._recent.copy()
        other._counts = None if self._counts is None else self._counts.copy()
        other.version = self.version
        return other


def _shape(asked: Request | Shape) -> Shape:
    return shape_of(asked) if isinstance(asked, Request) else asked
