"""Arrivals only: requests come one after the other, and nothing leaves, waits or is tried again.

The experiment of "Beware of Fragmentation" (USENIX ATC 2023): how much of a cluster's cards a
strategy hands out before what is left is of no use. The order of arrival is a shuffle of the trace,
followed by requests drawn from it until the demand for cards is a given multiple of the capacity.
Decisions are the ledger's own: a space, a mix, and :func:`ledger.rules.placement.place`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random

from ledger.mix import Mix, Shape, shape_of
from ledger.nodes import Node, node_from
from ledger.requests import CARD_RESOURCES, NodeSpec, Placement, Request
from ledger.rules.fragmentation import Typical, cards_left, fragments, typical_of
from ledger.rules.placement import Wish, place
from ledger.rules.validity import check_nodes
from ledger.spaces import Space
from reports.simulate.traces import Arrival

NODE_PODS_MAX = 1_001
"""The most requests that one node takes, as in the experiment."""
ARRIVALS_MAX = 1_000_000
"""The most requests that one order may hold."""
(CARDS,) = CARD_RESOURCES

Decide = Callable[[Space, Mix, Wish], tuple[Placement, ...] | None]


def in_order(trace: Sequence[Arrival], capacity: int, inflate: float, seed: int) -> list[Arrival]:
    """The order of arrival: by name, shuffled by the seed, then drawn with replacement.

    Draws until the demand for cards reaches ``inflate`` × ``capacity`` (thousandths of a card).
    Raises ValueError where nothing in the trace asks for cards and more is to be drawn, and where
    that takes more than :data:`ARRIVALS_MAX` requests.
    """
    by_name = sorted(trace, key=lambda arrival: arrival.name)
    random = Random(seed)
    order = by_name.copy()
    random.shuffle(order)
    demand = sum(cards_of(arrival.request) for arrival in order)
    if demand < inflate * capacity and not demand:
        raise ValueError("nothing in the trace asks for cards, so its demand cannot be inflated")
    while demand < inflate * capacity:
        if len(order) >= ARRIVALS_MAX:
            raise ValueError(
                f"after {ARRIVALS_MAX} requests their demand is {100 * demand / capacity:.2g} % of the"
                " cards: take fewer nodes, or a smaller --inflate"
            )
        drawn = random.choice(by_name)
        order.append(drawn)
        demand += cards_of(drawn.request)
    return order


def cards_of(request: Request) -> int:
    """How much of cards a request asks for, in thousandths."""
    return request.amounts.get(CARDS, 0)


def mix_of(trace: Iterable[Arrival], *, models: bool = True) -> Mix:
    """The mix of a whole trace, as the paper takes it: shapes without memory, each counted.

    Without ``models`` shapes are told from each other by their amounts alone, whatever they select.
    """
    counts: dict[Shape, int] = {}
    for arrival in trace:
        amounts, select = shape_of(arrival.request)
        kept = select if models else ()
        shape = (tuple(pair for pair in amounts if pair[0] != "memory"), kept)
        if shape[0]:
            counts[shape] = counts.get(shape, 0) + 1
    mix = Mix()
    mix.counts = counts
    return mix


@dataclass(frozen=True, slots=True)
class Moment:
    """How things stood when demand had reached a whole percentage of the cards.

    ``allocated`` and ``fragmented`` are percent of the cluster's cards, means over all arrivals
    that round to ``arrived``; ``last`` are the same two after the last of these arrivals.
    """

    arrived: int
    allocated: float
    fragmented: float
    last: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a strategy made of one order of arrivals."""

    strategy: str
    seed: int
    arrivals: int
    granted: int
    fragmented_first: float
    moments: tuple[Moment, ...]

    def at(self, arrived: int) -> Moment | None:
        """The moment at a percentage of demand, or None where no arrival rounds to it."""
        return next((m for m in self.moments if m.arrived == arrived), None)

    def stood(self, arrived: int) -> tuple[float, float]:
        """What was allocated and fragmented when demand stood at or passed a percentage.

        Where no arrival rounds to it, things stood as the last arrival before it had left them.
        """
        moment = next((m for m in reversed(self.moments) if m.arrived <= arrived), None)
        if moment is None:
            return 0.0, self.fragmented_first
        return (moment.allocated, moment.fragmented) if moment.arrived == arrived else moment.last


class _Cluster:
    """The space of a simulation, with running sums over its nodes."""

    def __init__(self, nodes: Sequence[NodeSpec], typical: Typical | None) -> None:
        self.space = Space("simulation", {spec.name: node_from(spec) for spec in nodes})
        self.capacity = self.space.totals.get(CARDS, 0)
        self.typical = typical
        self.allocated = 0
        self.pods: dict[str, int] = {}
        self.full: set[str] = set()
        self.fragments = sum(self._fragments(node) for node in self.space.nodes.values())

    def _fragments(self, node: Node) -> int:
        if self.typical is None:
            return 0
        return fragments(node, cards_left(node).values(), {}, self.typical)

    def take(self, placement: Placement) -> None:
        node = self.space.nodes[placement.node]
        after = node.plus(placement, 1)
        self.fragments += self._fragments(after) - self._fragments(node)
        self.space.replace(after)
        self.allocated += placement.amounts.get(CARDS, 0)
        self.pods[node.name] = self.pods.get(node.name, 0) + 1
        if self.pods[node.name] >= NODE_PODS_MAX:
            self.full.add(node.name)

    def percent(self, amount: float) -> float:
        return 100 * amount / self.capacity

    def fragmented(self) -> float:
        return 0.0 if self.typical is None else self.percent(self.fragments / self.typical.total)


class _Sum:
    """What stood after each of the arrivals that round to one percentage."""

    __slots__ = ("allocated", "count", "fragmented", "last")

    def __init__(self) -> None:
        self.count = 0
        self.allocated = self.fragmented = 0.0
        self.last = (0.0, 0.0)

    def add(self, cluster: _Cluster) -> None:
        self.last = (cluster.percent(cluster.allocated), cluster.fragmented())
        self.count += 1
        self.allocated += self.last[0]
        self.fragmented += self.last[1]

    def moment(self, arrived: int) -> Moment:
        count = self.count
        return Moment(arrived, self.allocated / count, self.fragmented / count, self.last)


def run(
    nodes: Sequence[NodeSpec],
    order: Sequence[Arrival],
    strategy: str,
    mix: Mix,
    seed: int,
    decide: Decide = place,
) -> Outcome:
    """Decide all arrivals in order. ``mix`` says what is usually asked and stays as it is."""
    cluster = _Cluster(nodes, typical_of(mix))
    if not cluster.capacity:
        raise ValueError("the nodes have no cards, and this experiment counts cards")
    sums: dict[int, _Sum] = {}
    demand = granted = 0
    fragmented_first = cluster.fragmented()
    for number, arrival in enumerate(order):
        draw = int.from_bytes(sha256(f"{seed}#{number}".encode()).digest()[:8], "big")
        wish = Wish(arrival.request, strategy, draw, cluster.full)
        for placement in decide(cluster.space, mix, wish) or ():
            cluster.take(placement)
            granted += 1
        demand += cards_of(arrival.request)
        arrived = round(cluster.percent(demand))
        sums.setdefault(arrived, _Sum()).add(cluster)
    moments = tuple(sums[arrived].moment(arrived) for arrived in sorted(sums))
    return Outcome(strategy, seed, len(order), granted, fragmented_first, moments)


def never_fitting(nodes: Sequence[NodeSpec], trace: Iterable[Arrival]) -> int:
    """How many requests of a trace fit on none of the nodes, even when all are empty."""
    space = Space("empty", {spec.name: node_from(spec) for spec in nodes})
    fits: dict[Shape, bool] = {}
    count = 0
    for arrival in trace:
        shape = shape_of(arrival.request)
        if shape not in fits:
            fits[shape] = place(space, Mix(), Wish(arrival.request, "first_fit")) is not None
        count += not fits[shape]
    return count


def experiment(
    nodes: Sequence[NodeSpec],
    trace: Sequence[Arrival],
    strategies: Iterable[str],
    seeds: Iterable[int],
    inflate: float = 1.3,
    *,
    models: bool = True,
) -> Iterator[Outcome]:
    """Each strategy over the same orders, one for each seed; ``models`` as in :func:`mix_of`.

    Raises InvalidInput for nodes that no ledger would take, such as two of one name.
    """
    check_nodes(tuple(nodes))
    capacity = sum(spec.capacity.get(CARDS, 0) for spec in nodes)
    mix = mix_of(trace, models=models)
    names = tuple(strategies)
    for seed in seeds:
        order = in_order(trace, capacity, inflate, seed)
        for strategy in names:
            yield run(nodes, order, strategy, mix, seed)
