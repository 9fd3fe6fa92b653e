"""Fragmentation: the measure, its score, and the gradient, against the paper's formula written anew."""

from __future__ import annotations

from fractions import Fraction
from math import exp, floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.mix import Mix, shape_of
from ledger.nodes import Node, node_from
from ledger.requests import Amounts, NodeSpec, Placement, Request
from ledger.rules.capacity import place_on
from ledger.rules.fragmentation import (
    cards_left,
    fragments,
    score,
    stranded,
    typical_of,
)
from ledger.rules.placement import Wish, place
from ledger.spaces import Space
from tests.unit.test_strategies import with_tables, without_tables

Shape = tuple[Amounts, str | None]


def mix_of(*shapes: Shape) -> Mix:
    mix = Mix()
    for amounts, model in shapes:
        mix.add(shape_of(Request(amounts, select=None if model is None else {"model": model})))
    return mix


def node(name: str, cpu: int, cards: list[int], model: str = "m", memory: int = 100) -> Node:
    """A node with so much cpu, and so much idle on its cards."""
    capacity = {"cpu": cpu, "memory": memory, "gpu": 1000 * len(cards)}
    fresh = node_from(NodeSpec(name, capacity, {"model": model}))
    used = {str(i): 1000 - idle for i, idle in enumerate(cards) if idle < 1000}
    if used:
        fresh = fresh.plus(Placement(name, {"gpu": sum(used.values())}, {}, {"gpu": used}), 1)
    return fresh


def space_of(*nodes: Node) -> Space:
    return Space("pool", {each.name: each for each in nodes})


def lands(
    space: Space, mix: Mix, strategy: str = "fragmentation_aware", **amounts: int
) -> tuple[str, dict[str, int]] | None:
    """Node and cards, the same with a table and without."""
    answers = []
    for mode in (with_tables, without_tables):
        with mode():
            answers.append(place(space, mix, Wish(Request(amounts), strategy)))
    assert answers[0] == answers[1]
    if answers[0] is None:
        return None
    return answers[0][0].node, (answers[0][0].devices or {}).get("gpu", {})


def test_typical_shapes_are_all_of_the_mix_the_most_frequent_first() -> None:
    mix = Mix()
    for cpu, count in ((1, 90), (2, 5), (3, 1), (4, 1), (5, 1), (6, 2)):
        for _ in range(count):
            mix.add(Request({"cpu": cpu}))
    typical = typical_of(mix)
    assert typical is not None
    assert [(s.count, s.amounts["cpu"]) for s in typical.shapes] == [
        (90, 1),
        (5, 2),
        (2, 6),
        (1, 3),
        (1, 4),
        (1, 5),
    ]
    assert typical.total == 100
    assert typical_of(Mix()) is None


def test_typical_shapes_do_not_depend_on_the_order_in_which_they_came() -> None:
    shapes: list[Shape] = [({"cpu": i}, None) for i in range(1, 30)]
    assert typical_of(mix_of(*shapes)) == typical_of(mix_of(*reversed(shapes)))


def test_typical_shapes_follow_the_mix() -> None:
    mix = mix_of(({"cpu": 1}, None))
    before = typical_of(mix)
    mix.add(shape_of(Request({"cpu": 2})))
    after = typical_of(mix)
    assert before is not None
    assert after is not None
    assert (before.total, after.total) == (1, 2)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (({"gpu": 500}, None), 400),  # The card with 400 is too small, the others are not.
        (({"gpu": 400}, None), 0),
        (({"gpu": 1000}, None), 1000),
        (({"gpu": 2000}, None), 2000),  # One whole card only: it cannot run here.
        (({"gpu": 500, "cpu": 9000}, None), 2000),
        (({"gpu": 500}, "other"), 2000),
        (({"cpu": 1000}, None), 2000),  # It needs no card: to it all that is idle is of no use.
    ],
)
def test_fragmentation_is_what_is_idle_and_of_no_use(shape: Shape, expected: int) -> None:
    typical = typical_of(mix_of(shape))
    assert typical is not None
    there = node("a", 8000, [400, 1000, 600])
    assert fragments(there, cards_left(there).values(), {}, typical) == expected


def test_without_cards_fragmentation_is_what_is_left_once_a_node_is_filled() -> None:
    typical = typical_of(mix_of(({"cpu": 3000, "memory": 10}, None)))
    assert typical is not None
    there = node_from(NodeSpec("a", {"cpu": 8000, "memory": 100}))
    # Two fit: 2000 of 8000 and 80 of 100 stay behind.
    largest = {"cpu": 8000, "memory": 100}
    assert stranded(there, {}, typical, largest) == 250_000 + 800_000
    assert stranded(there, {"cpu": 2000}, typical, largest) == 800_000


def test_the_score_is_the_whole_part_of_the_sigmoid() -> None:
    for fall in range(-8000, 8001):
        assert score(fall, 1) == floor(100 / (1 + exp(-fall / 1000)))
        assert score(7 * fall, 7) == score(fall, 1)


def test_a_share_goes_where_it_leaves_the_cards_most_useful() -> None:
    mix = mix_of(({"gpu": 500}, None), ({"gpu": 1000}, None))
    # On the first card it would break a whole one; on the second it leaves nothing behind.
    assert lands(space_of(node("a", 8000, [1000, 500])), mix, gpu=500) == ("a", {"1": 500})


def test_equal_cards_are_taken_by_number() -> None:
    mix = mix_of(({"gpu": 500}, None))
    cards = [0] + [1000] * 11
    assert lands(space_of(node("a", 8000, cards)), mix, gpu=500) == ("a", {"1": 500})


def test_a_node_is_kept_for_what_only_runs_there() -> None:
    mix = mix_of(*[({"gpu": 1000}, "rare")] * 9, ({"gpu": 1000}, None))
    space = space_of(node("a", 8000, [1000], "rare"), node("b", 8000, [1000], "common"))
    assert lands(space, mix, gpu=1000) == ("b", {"0": 1000})


def test_work_without_cards_stays_away_from_cards_that_would_lack_processors() -> None:
    mix = mix_of(({"gpu": 1000, "cpu": 4000}, None), ({"cpu": 4000}, None))
    space = space_of(node("a", 8000, [1000, 1000]), node("b", 8000, [0, 1000]))
    assert lands(space, mix, cpu=5000) == ("b", {})
    # With 4000 left the shape still runs once, and the paper's measure asks no more than that.
    assert lands(space, mix, cpu=4000) == ("a", {})
    assert lands(space, mix, "frontier", cpu=4000) == ("b", {})


def test_frontier_counts_no_more_cards_than_processors_are_left_for() -> None:
    typical = typical_of(mix_of(({"gpu": 1000, "cpu": 3000}, None)))
    assert typical is not None
    there = node("a", 8000, [1000, 1000, 1000, 400])
    cards = list(cards_left(there).values())
    assert fragments(there, cards, {}, typical) == 400
    assert fragments(there, cards, {}, typical, filled=True) == 1400
    assert fragments(there, cards, {"cpu": 3000}, typical, filled=True) == 2400
    assert fragments(there, cards, {"cpu": 6000}, typical, filled=True) == 3400


# The paper's formula, with fractions and a real sigmoid.


def naive_f(
    cards: list[int], cpu: int, memory: int, model: str, mix: Mix, strategy: str
) -> Fraction:
    total = sum(mix.counts.values())
    ranked = sorted(mix.counts.items(), key=lambda item: (-item[1], item[0]))
    typical: list[tuple[dict[str, int], dict[str, str], int]] = []
    for (amounts, select), count in ranked:
        if sum(each[2] for each in typical) * 20 >= total * 19:
            break
        typical.append((dict(amounts), dict(select), count))
    popular = sum(count for _, _, count in typical)
    f = Fraction(0)
    for needs, wants, count in typical:
        want = needs.get("gpu", 0)
        each = min(want, 1000)
        number = want // 1000 if want >= 1000 else 1
        runs = (
            want > 0
            and wants.get("model", model) == model
            and cpu >= needs.get("cpu", 0)
            and memory >= needs.get("memory", 0)
            and sum(idle >= each for idle in cards) >= number
        )
        useful = sum(idle for idle in cards if idle >= each) if runs else 0
        if strategy == "frontier":
            times = 0
            while times * want < useful and (
                cpu >= (times + 1) * needs.get("cpu", 0)
                and memory >= (times + 1) * needs.get("memory", 0)
            ):
                times += 1
            useful = min(useful, times * want)
        useless = sum(cards) - useful
        f += Fraction(count, popular) * useless
    return f


def naive_choice(
    space: Space, mix: Mix, amounts: Amounts, strategy: str
) -> tuple[str, dict[str, int]] | None:
    best: tuple[int, str] | None = None
    chosen = None
    share = amounts.get("gpu", 0)
    for name in sorted(space.nodes):
        there = space.nodes[name]
        if place_on(there, amounts) is None:
            continue
        model = there.labels["model"]
        cpu = there.capacity["cpu"] - there.in_use.get("cpu", 0)
        memory = there.capacity["memory"] - there.in_use.get("memory", 0)
        cards = list(cards_left(there).values())
        before = naive_f(cards, cpu, memory, model, mix, strategy)
        options: list[dict[str, int]] = [{}]
        if 0 < share < 1000:
            options = [{str(i): share} for i, idle in enumerate(cards) if idle >= share]
        elif share:
            whole = [str(i) for i, idle in enumerate(cards) if idle == 1000]
            options = [dict.fromkeys(whole[: share // 1000], 1000)]
        for option in options:
            after = [idle - option.get(str(i), 0) for i, idle in enumerate(cards)]
            left = (cpu - amounts.get("cpu", 0), memory - amounts.get("memory", 0))
            fall = before - naive_f(after, *left, model, mix, strategy)
            points = floor(100 / (1 + exp(-fall / 1000)))
            if best is None or points > best[0]:
                best, chosen = (points, name), (name, option)
    return chosen


_CARDS = st.lists(st.sampled_from([0, 250, 300, 500, 700, 1000, 1000]), max_size=4)
_NODES = st.lists(
    st.tuples(st.integers(0, 8), _CARDS, st.sampled_from("xy")), min_size=1, max_size=5
)
_AMOUNTS = st.fixed_dictionaries(
    {},
    optional={
        "cpu": st.sampled_from([500, 1000, 4000]),
        "memory": st.sampled_from([1, 40, 70]),
        "gpu": st.sampled_from([100, 250, 500, 700, 1000, 2000]),
    },
).filter(bool)
_SHAPES = st.tuples(_AMOUNTS, st.sampled_from([None, None, "x", "y"]))


@settings(max_examples=200, deadline=None)
@given(
    _NODES,
    st.lists(_SHAPES, min_size=1, max_size=30),
    st.lists(_AMOUNTS, max_size=8),
    st.sampled_from(["fragmentation_aware", "frontier"]),
)
def test_the_gradient_agrees_with_the_papers_formula(
    nodes: list[tuple[int, list[int], str]],
    shapes: list[Shape],
    asked: list[Amounts],
    strategy: str,
) -> None:
    mix = mix_of(*shapes)
    # One node has a card in any case: without any the measure is another.
    there = [node("n0", 1000, [1000])]
    there += [
        node(f"n{10 - i}", 1000 * cpu, cards, model) for i, (cpu, cards, model) in enumerate(nodes)
    ]
    space = space_of(*there)
    for amounts in asked:
        found = lands(space, mix, strategy, **amounts)
        assert found == naive_choice(space, mix, amounts, strategy)
        if found is not None:
            keep = {"gpu": found[1]}
            placement = place_on(space.nodes[found[0]], amounts, keep)
            assert placement is not None
            space.replace(space.nodes[found[0]].plus(placement, 1))


def naive_stranded(there: Node, taken: Amounts, mix: Mix, largest: Amounts) -> Fraction:
    """Filled one by one with each shape."""
    f = Fraction(0)
    for (amounts, _), count in mix.counts.items():
        left = {
            r: there.capacity.get(r, 0) - there.in_use.get(r, 0) - taken.get(r, 0)
            for r, _ in amounts
        }
        while all(left[r] >= amount for r, amount in amounts):
            for r, amount in amounts:
                left[r] -= amount
        f += count * sum(Fraction(left[r], largest[r]) for r, _ in amounts if r in largest)
    return f


_PLAIN = st.fixed_dictionaries(
    {}, optional={"cpu": st.sampled_from([500, 1000, 3000]), "memory": st.sampled_from([8, 30])}
).filter(bool)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 100)), min_size=1, max_size=5),
    st.lists(_PLAIN, min_size=1, max_size=15),
    st.lists(_PLAIN, max_size=8),
)
def test_without_cards_a_request_goes_where_least_more_is_stranded(
    nodes: list[tuple[int, int]], shapes: list[Amounts], asked: list[Amounts]
) -> None:
    mix = mix_of(*((shape, None) for shape in shapes))
    space = space_of(
        *(
            node_from(NodeSpec(f"n{i}", {"cpu": 1000 * cpu, "memory": memory}))
            for i, (cpu, memory) in enumerate(nodes)
        )
    )
    largest = {r: max(n.capacity[r] for n in space.nodes.values()) for r in ("cpu", "memory")}
    for amounts in asked:
        growth = {
            name: naive_stranded(there, amounts, mix, largest)
            - naive_stranded(there, {}, mix, largest)
            for name, there in space.nodes.items()
            if place_on(there, amounts) is not None
        }
        found = lands(space, mix, "frontier", **amounts)
        assert (found is None) == (not growth)
        if found is not None:
            # Each share is a whole number of millionths.
            assert growth[found[0]] - min(growth.values()) <= Fraction(8 * len(shapes), 10**6)
            placement = place_on(space.nodes[found[0]], amounts)
            assert placement is not None
            space.replace(space.nodes[found[0]].plus(placement, 1))
