"""Strategies: each against a plain version of its rule, ties, cards, and tables that change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.events import Allocated
from ledger.mix import Mix, shape_of
from ledger.nodes import Node, node_from
from ledger.policy import STRATEGIES as POLICY_STRATEGIES
from ledger.requests import CARD, Amounts, NodeSpec, Placement, Request
from ledger.rules import explain, tables
from ledger.rules.capacity import place_on
from ledger.rules.placement import STRATEGIES, Wish, could_ever_fit, place
from ledger.rules.strategies import adapted
from ledger.spaces import Space
from tests.scenario import Scenario

NAMES = tuple(STRATEGIES)


@contextmanager
def with_tables() -> Iterator[None]:
    """Every space has a table from its first decision on."""
    with patch.object(tables, "NODES_LEAST", 1), patch.object(tables, "PATIENCE", 0):
        yield


@contextmanager
def without_tables() -> Iterator[None]:
    with patch.object(tables, "NODES_LEAST", 2**60):
        yield


def space_of(*specs: NodeSpec) -> Space:
    return Space("pool", {spec.name: node_from(spec) for spec in specs})


def take(space: Space, node: str, **amounts: int) -> None:
    placement = place_on(space.nodes[node], amounts)
    assert placement is not None
    space.replace(space.nodes[node].plus(placement, 1))


def mix_of(*requests: Amounts) -> Mix:
    mix = Mix()
    for amounts in requests:
        mix.add(shape_of(Request(amounts)))
    return mix


def lands(space: Space, strategy: str, mix: Mix | None = None, **amounts: int) -> str | None:
    """The node that a request lands on, the same with a table and without."""
    found = set()
    for mode in (with_tables, without_tables):
        with mode():
            placed = place(space, mix or Mix(), Wish(Request(amounts), strategy, seed=7))
            found.add(None if placed is None else placed[0].node)
    assert len(found) == 1
    return found.pop()


def test_every_strategy_that_a_policy_may_name_exists() -> None:
    assert set(POLICY_STRATEGIES) <= set(STRATEGIES)


@pytest.mark.parametrize("strategy", NAMES)
def test_nothing_lands_where_nothing_fits(strategy: str) -> None:
    space = space_of(NodeSpec("a", {"cpu": 1000}), NodeSpec("b", {"memory": 10}))
    mix = mix_of({"cpu": 500}, {"memory": 5})
    assert lands(space, strategy, mix, cpu=2000) is None
    assert lands(space, strategy, mix, cpu=1000, memory=1) is None
    assert lands(space, strategy, mix, tokens=1) is None
    assert lands(space, strategy, mix, gpu=500) is None


def test_first_fit_takes_the_first_in_the_pools_order_not_by_name() -> None:
    space = space_of(*(NodeSpec(name, {"cpu": 4000}) for name in "cab"))
    assert lands(space, "first_fit", cpu=1000) == "c"
    take(space, "c", cpu=3500)
    assert lands(space, "first_fit", cpu=1000) == "a"


def test_best_fit_fills_and_worst_fit_spreads() -> None:
    space = space_of(*(NodeSpec(name, {"cpu": 4000, "memory": 100}) for name in "cab"))
    take(space, "c", cpu=1000)
    take(space, "b", cpu=2000)
    assert lands(space, "best_fit", cpu=1000) == "b"
    assert lands(space, "worst_fit", cpu=1000) == "a"


@pytest.mark.parametrize("strategy", ["best_fit", "worst_fit", "fragmentation_aware", "frontier"])
def test_equal_ones_go_to_the_node_whose_name_sorts_first(strategy: str) -> None:
    for capacity in ({"cpu": 4000}, {"cpu": 4000, "gpu": 2000}):
        space = space_of(*(NodeSpec(name, capacity) for name in ("n10", "n9", "n1", "n2")))
        assert lands(space, strategy, mix_of({"cpu": 1000}, {"cpu": 500}), cpu=1000) == "n1"


def test_best_fit_in_a_pool_with_cards_sends_work_without_cards_where_few_cards_are_idle() -> None:
    capacity = {"cpu": 8000, "memory": 100, "gpu": 4000}
    space = space_of(NodeSpec("a", capacity), NodeSpec("b", capacity))
    take(space, "b", gpu=4000)
    assert lands(space, "best_fit", cpu=1000) == "b"
    assert lands(space, "worst_fit", cpu=1000) == "a"


def test_best_fit_counts_by_the_largest_node_so_a_small_node_is_filled_first() -> None:
    space = space_of(NodeSpec("large", {"cpu": 64000}), NodeSpec("small", {"cpu": 8000}))
    assert lands(space, "best_fit", cpu=1000) == "small"
    take(space, "large", cpu=60000)
    assert lands(space, "best_fit", cpu=1000) == "large"


def test_shares_beyond_64_bits_are_told_apart_alike_with_tables_and_without() -> None:
    space = space_of(NodeSpec("a", {"disk": 2**62}), NodeSpec("b", {"disk": 2**62}))
    take(space, "b", disk=2**45)
    assert lands(space, "best_fit", disk=5) == "b"
    assert lands(space, "worst_fit", disk=5) == "a"


def test_random_reaches_every_node_and_the_same_seed_the_same_one() -> None:
    space = space_of(*(NodeSpec(f"n{i}", {"cpu": 1000}) for i in range(7)))
    for mode in (with_tables, without_tables):
        with mode():
            found = [
                place(space, Mix(), Wish(Request({"cpu": 1000}), "random", seed))
                for seed in range(14)
            ]
        assert [each[0].node for each in found if each] == [f"n{i % 7}" for i in range(14)]


def test_fragmentation_aware_is_best_fit_where_nothing_was_asked_yet() -> None:
    space = space_of(NodeSpec("a", {"cpu": 4000}), NodeSpec("b", {"cpu": 4000}))
    take(space, "b", cpu=1000)
    assert lands(space, "fragmentation_aware", cpu=1000) == "b"


def test_adaptive_chooses_by_the_pools_state() -> None:
    plain = space_of(NodeSpec("a", {"cpu": 4000, "memory": 40}))
    cards = space_of(NodeSpec("a", {"cpu": 4000, "gpu": 1000}))
    one, two, many = {"cpu": 1000}, {"cpu": 2000}, {"cpu": 500}
    assert adapted(plain, Mix(), one) == "first_fit"
    assert adapted(plain, mix_of(one, one), one) == "first_fit"
    assert adapted(cards, mix_of(one, two), one) == "fragmentation_aware"
    assert adapted(plain, mix_of(one, two), one) == "worst_fit"
    take(plain, "a", cpu=2000)
    assert adapted(plain, mix_of(one, one, two), one) == "best_fit"
    assert adapted(plain, mix_of(one, two, many), one) == "fragmentation_aware"
    assert adapted(plain, mix_of(one, two, many), {"memory": 1}) == "worst_fit"


def test_what_could_ever_fit_looks_at_labels() -> None:
    nodes = [node_from(NodeSpec("a", {"cpu": 1000}, {"zone": "x"}))]
    assert could_ever_fit(nodes, Request({"cpu": 1000}, select={"zone": "x|y"}))
    assert not could_ever_fit(nodes, Request({"cpu": 1000}, select={"zone": "y"}))
    assert not could_ever_fit(nodes, Request({"cpu": 1001}))


def test_tables_wait_until_a_process_has_looked_at_many_nodes() -> None:
    space = space_of(*(NodeSpec(f"n{i}", {"cpu": 1000}) for i in range(tables.NODES_LEAST)))
    with patch.object(tables, "_looked_at", 0), patch.object(tables, "PATIENCE", 100):
        assert tables.of(space) is None
        assert tables.of(space) is None
        assert tables.of(space) is not None


def test_no_more_tables_are_kept_than_allowed() -> None:
    with with_tables():
        for _ in range(3 * tables.TABLES_MAX):
            assert tables.of(space_of(NodeSpec("a", {"cpu": 1000}))) is not None
        assert len(tables._latest) == tables.TABLES_MAX


# What follows builds spaces with a history and asks both ways at every turn.

_SPECS = st.builds(
    NodeSpec,
    st.just("?"),
    st.fixed_dictionaries(
        {"cpu": st.integers(1, 8).map(lambda n: n * 1000)},
        optional={
            "memory": st.sampled_from([7, 100, 2**45 + 1]),
            "gpu": st.integers(1, 3).map(lambda n: n * CARD),
        },
    ),
    st.sampled_from([None, {"model": "a"}, {"model": "b"}]),
)
_AMOUNTS = st.fixed_dictionaries(
    {},
    optional={
        "cpu": st.sampled_from([500, 1000, 3000]),
        "memory": st.sampled_from([1, 7, 60, 2**44]),
        "gpu": st.sampled_from([100, 250, 600, 1000, 2000]),
    },
).filter(bool)
_REQUESTS = st.builds(
    Request, _AMOUNTS, select=st.sampled_from([None, None, {"model": "a"}, {"model": "a|b"}])
)
_NODE_NAMES = st.permutations(["n1", "n10", "n2", "n3", "n4"])


@dataclass
class History:
    """A space that lives: requests come and go, nodes are cordoned, seen in use, resized."""

    space: Space
    mix: Mix = field(default_factory=Mix)
    live: list[Placement] = field(default_factory=list)

    def happen(self, event: tuple[str, int, Request]) -> None:
        kind, number, request = event
        name = list(self.space.nodes)[number % len(self.space.nodes)]
        node = self.space.nodes[name]
        if kind == "end" and self.live:
            gone = self.live.pop(number % len(self.live))
            self.space.replace(self.space.nodes[gone.node].plus(gone, -1))
        elif kind == "cordon":
            self.space.replace(node.seen(cordoned=not node.cordoned))
        elif kind == "outside":
            self.space.replace(node.seen(outside={} if node.outside else request.amounts))
        elif kind == "label":
            spec = NodeSpec(name, {}, {"model": "b"})
            self.space.replace(node.resized(spec))
        elif kind == "fork":
            self.space = self.space.fork()
        elif kind == "grow":
            self.space.replace(node.resized(NodeSpec(name, {"cpu": 9000})))
            self.space.count_up()


_KINDS = ("ask", "ask", "ask", "ask", "end", "cordon", "outside", "label", "fork", "grow")
_EVENTS = st.lists(
    st.tuples(st.sampled_from(_KINDS), st.integers(0, 99), _REQUESTS), min_size=1, max_size=25
)


@st.composite
def _histories(draw: st.DrawFn) -> History:
    names = draw(_NODE_NAMES)[: draw(st.integers(1, 5))]
    specs = [draw(_SPECS) for _ in names]
    nodes = {n: NodeSpec(n, s.capacity, s.labels) for n, s in zip(names, specs, strict=True)}
    return History(space_of(*nodes.values()))


@settings(max_examples=150, deadline=None)
@given(_histories(), _EVENTS, st.sampled_from(NAMES), st.sets(st.sampled_from(["n1", "n3"])))
def test_a_table_changes_no_decision(
    history: History,
    events: list[tuple[str, int, Request]],
    strategy: str,
    barred: set[str],
) -> None:
    for event in events:
        history.happen(event)
        kind, number, request = event
        wish = Wish(request, strategy, number, barred)
        with without_tables():
            plain = place(history.space, history.mix, wish)
        with with_tables():
            assert place(history.space, history.mix, wish) == plain
        history.mix.add(shape_of(request))
        if kind == "ask" and plain is not None:
            history.space.replace(history.space.nodes[plain[0].node].plus(plain[0], 1))
            history.live.append(plain[0])


@settings(max_examples=80, deadline=None)
@given(_histories(), _EVENTS, st.integers(1, 6))
def test_the_nearest_node_is_the_same_with_a_table(
    history: History, events: list[tuple[str, int, Request]], examined: int
) -> None:
    for event in events:
        history.happen(event)
        kind, _, request = event
        if max(request.amounts.values()) >= 2**43:
            continue
        space = history.space
        with with_tables(), patch.object(explain, "NODES_EXAMINED", examined):
            table = tables.of(space)
            assert table is not None
            found = table.nearest(request.select, request.amounts, examined)
        with without_tables(), patch.object(explain, "NODES_EXAMINED", examined):
            assert found is explain.nearest_node(space, request)
            placed = place(space, Mix(), Wish(request, "first_fit"))
        if kind == "ask" and placed is not None:
            space.replace(space.nodes[placed[0].node].plus(placed[0], 1))
            history.live.append(placed[0])


def _left_over(node: Node, space: Space, amounts: Amounts) -> float:
    """What best fit goes by, from its definition, in fractions of the largest node."""
    names = ("cpu", "gpu") if "gpu" in space.totals else tuple(amounts)
    total = 0.0
    for resource in names:
        largest = max(n.capacity.get(resource, 0) for n in space.nodes.values())
        used = node.in_use.get(resource, 0) + amounts.get(resource, 0)
        if largest:
            total += (node.capacity.get(resource, 0) - used) / largest
    return total


@settings(max_examples=100, deadline=None)
@given(_histories(), st.lists(_REQUESTS, min_size=1, max_size=20))
def test_best_and_worst_fit_agree_with_their_definition(
    history: History, requests: list[Request]
) -> None:
    space = history.space
    for request in requests:
        room = {
            name: _left_over(node, space, request.amounts)
            for name, node in space.nodes.items()
            if place_on(node, request.amounts) is not None
            and (not request.select or node.labels.get("model", "?") in request.select["model"])
        }
        for strategy, extreme in (("best_fit", min), ("worst_fit", max)):
            placed = place(space, Mix(), Wish(request, strategy))
            assert (placed is None) == (not room)
            if placed is not None:
                # Shares are in whole millionths of each resource.
                assert room[placed[0].node] == pytest.approx(extreme(room.values()), abs=4e-6)
        if placed is not None:
            space.replace(space.nodes[placed[0].node].plus(placed[0], 1))


def test_a_resource_of_which_nothing_is_there_does_not_count() -> None:
    scenario = Scenario()
    scenario.pool(n1={"cpu": 4000, "gpu": 0}, n2={"cpu": 2000, "gpu": 0})
    body = scenario.ask({"cpu": 1000}, strategy="best_fit").body
    assert isinstance(body, Allocated)
    assert body.placements[0].node == "n2"
