"""Spaces: somewhere to place, and who waits for it."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable

from ledger.line import Line
from ledger.nodes import Node
from ledger.requests import Amounts

OVERTAKERS_KEPT = 10_000
CHANGES_KEPT = 65_536
"""How many replaced nodes are listed before whoever caches something begins anew."""


class _NoLine(Line):
    """The line of an overlay, which decides but never serves anybody."""

    __slots__ = ()

    def add(self, waiting_id: str, rank_: int, tenant: str, holder: str) -> None:
        """Nobody is served from an overlay."""

    def remove(self, waiting_id: str) -> None:
        """Nobody is served from an overlay."""


_NO_LINE = _NoLine()


class Space:
    """Somewhere to place: a pool's nodes, or what an allocation (``parent``) lends.

    ``waiting`` keeps arrival order, ``line`` the order of service. ``overtakers`` are the positions
    of requests that were granted while an earlier one waited. ``claims`` maps a node to the waiting
    request that it is kept for, ``gangs`` a first member to all that wait with it, ``standing`` a
    node to the allocations on it. ``elastic`` are allocations that may grow and shrink. ``freed``
    says that something may be granted now. ``alike`` counts those who wait by shape, ``kinds`` by
    resources. ``changed`` are nodes that were replaced, for whoever caches something about nodes; it
    starts anew with another ``generation``. An ``overlay`` of a pool shows what stands in the space it
    was made from.

    What is remembered of claims: ``claims_checked``, the generation whose nodes all were compared
    with; ``claims_in_vain``, by who asks and what is taken, under which generation no nodes were found;
    ``awaited``, which nodes somebody needs, so that others must not claim them; ``barred``, by
    resources, which nodes are kept from whoever wants those.
    """

    __slots__ = (
        "alike",
        "awaited",
        "barred",
        "changed",
        "claims",
        "claims_checked",
        "claims_in_vain",
        "elastic",
        "freed",
        "gangs",
        "generation",
        "key",
        "kinds",
        "line",
        "nodes",
        "overlay",
        "overtakers",
        "parent",
        "shapes",
        "standing",
        "totals",
        "waiting",
    )

    def __init__(self, key: str, nodes: dict[str, Node], parent: str | None = None) -> None:
        self.key = key
        self.parent = parent
        self.overlay = False
        self.standing: dict[str, dict[str, None]] = {}
        self.nodes = nodes
        self.waiting: dict[str, None] = {}
        self.line = Line()
        self.overtakers: list[int] = []
        self.claims: dict[str, str] = {}
        self.awaited: dict[str, tuple[int, frozenset[str]]] = {}
        self.barred: dict[frozenset[str], frozenset[str]] = {}
        self.claims_checked = -1
        self.claims_in_vain: dict[tuple[str, frozenset[str]], int] = {}
        self.elastic: dict[str, None] = {}
        self.alike: dict[tuple[object, ...], int] = {}
        self.kinds: dict[frozenset[str], int] = {}
        self.gangs: dict[str, dict[str, None]] = {}
        self.freed = False
        self.totals: Amounts = {}
        self.shapes: dict[str, tuple[object, ...]] = {}
        self.changed: list[str] = []
        self.generation = 0
        self.count_up()

    def count_up(self) -> None:
        """Work out the space's whole capacity anew, after nodes came, went or changed size."""
        totals: Amounts = {}
        for node in self.nodes.values():
            for resource, amount in node.capacity.items():
                totals[resource] = totals.get(resource, 0) + amount
        self.totals = totals
        self.changed = []
        self.generation += 1

    def replace(self, node: Node) -> None:
        """Put a node's new value in the place of its old one."""
        self.nodes[node.name] = node
        self.changed.append(node.name)
        if len(self.changed) >= CHANGES_KEPT:
            self.changed = []
            self.generation += 1

    def stands(self, allocation: str, nodes: Iterable[str]) -> None:
        """An allocation stands on these nodes from here on."""
        if not self.overlay:
            for node in nodes:
                self.standing.setdefault(node, {})[allocation] = None

    def leaves(self, allocation: str, nodes: Iterable[str]) -> None:
        """An allocation stands on these nodes no more."""
        if not self.overlay:
            for node in nodes:
                there = self.standing[node]
                del there[allocation]
                if not there:
                    del self.standing[node]

    def keep(self, claimant: str, nodes: Iterable[str]) -> None:
        """These nodes are kept for one who waits from here on."""
        for node in nodes:
            self.claims[node] = claimant
            there = self.nodes.get(node)
            if there is not None and there.outside:
                # What others use there may leave too little for it: that is compared once more.
                self.claims_checked = -1
        self.barred.clear()

    def keep_no_more(self, nodes: Iterable[str]) -> None:
        """These nodes are kept for nobody from here on."""
        for node in nodes:
            self.claims.pop(node, None)
        self.barred.clear()

    def overtaken(self, position: int) -> int:
        """How many requests that came after the one at ``position`` were granted while it waited."""
        return len(self.overtakers) - bisect_right(self.overtakers, position)

    def note_grant(self, position: int) -> None:
        """Remember a grant that overtook somebody."""
        first = next(iter(self.waiting), None)
        if first is None:
            self.overtakers.clear()
        elif int(first[1:]) < position:
            insort(self.overtakers, position)
            if len(self.overtakers) > OVERTAKERS_KEPT:
                del self.overtakers[0]

    def shadow(self) -> Space:
        """The nodes alone, to try placements on: nobody stands or waits there."""
        copy = Space(self.key, {}, self.parent)
        copy.nodes, copy.totals = self.nodes.copy(), self.totals
        return copy

    def fork(self) -> Space:
        """A copy that can be changed without changing this. It keeps no order of service."""
        copy = Space.__new__(Space)
        copy.key = self.key
        copy.parent = self.parent
        # Whether anything draws on an allocation decides what may become of it, in an overlay as well.
        # A pool's standing is too large to copy, and nothing that is drafted goes by it.
        copy.overlay = self.parent is None
        copy.standing = self.standing
        if self.parent is not None:
            copy.standing = {node: ids.copy() for node, ids in self.standing.items()}
        copy.nodes = self.nodes.copy()
        copy.waiting = self.waiting.copy()
        copy.line = _NO_LINE
        copy.overtakers = self.overtakers.copy()
        copy.claims = self.claims.copy()
        copy.awaited = {}
        copy.barred = {}
        copy.claims_checked = -1
        copy.claims_in_vain = {}
        copy.elastic = self.elastic.copy()
        copy.alike = self.alike.copy()
        copy.kinds = self.kinds.copy()
        copy.gangs = {gang: members.copy() for gang, members in self.gangs.items()}
        copy.freed = self.freed
        copy.totals = self.totals
        copy.shapes = self.shapes.copy()
        copy.changed = []
        copy.generation = self.generation + 1
        return copy
