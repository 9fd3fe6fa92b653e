"""Depth and size: allocations drawn on one another, spreads over many nodes, sums beyond 64 bits."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from itertools import permutations
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledger.book import Allocation, Book
from ledger.commands import Allocate, AllocateBatch
from ledger.events import Refused
from ledger.mix import Mix
from ledger.nodes import Node, node_from
from ledger.requests import CARD, Amounts, NodeSpec, Placement, Request
from ledger.rules.capacity import carries, fits_empty, place_on
from ledger.rules.leases import descendants
from ledger.rules.packing import _Search
from ledger.rules.placement import Wish, could_ever_fit, place, runs_of, shares_of
from ledger.spaces import Space
from ledger.sqlite_driver import sqlite3
from projections.engine import views_path
from projections.tables.base import as_json, from_json, sum_sql
from tests.command_line import CommandLine
from tests.scenario import Scenario

DEEP = 1_500
"""Deeper than a function may call itself."""


# --- allocations drawn on one another -------------------------------------------------------------


def chain(scenario: Scenario, lease_s: Iterable[float]) -> list[str]:
    """Allocations that each draw on the one before, with these leases in seconds."""
    ids: list[str] = []
    for seconds in lease_s:
        parent = {"parent": ids[-1]} if ids else {}
        ids.append(scenario.got({"cpu": 1}, ttl=seconds, **parent))
    return ids


def test_deepest_nesting_ends_with_its_outermost_the_innermost_first() -> None:
    scenario = Scenario()
    scenario.pool(n1={"cpu": 4})
    ids = chain(scenario, [90_000] * DEEP)
    events = scenario.release(ids[0])
    assert [event.allocation for event in events] == ids[::-1]
    assert not scenario.book.allocations


@pytest.mark.parametrize("outwards", [True, False])
def test_deepest_nesting_ends_by_time_each_of_it_once(outwards: bool) -> None:
    scenario = Scenario()
    scenario.pool(n1={"cpu": 4})
    leases = [90_000 - 2 * each for each in range(DEEP)]
    ids = chain(scenario, leases if outwards else [50_000, *leases])
    scenario.later(100_000)
    events = scenario.settle()
    assert [event.allocation for event in events] == ids[::-1]
    # Where the inner leases end sooner each ends by its own; else all go with the outermost.
    types = [event.type for event in events]
    assert types == (["expired"] * DEEP if outwards else ["reclaimed"] * DEEP + ["expired"])


def simply(book: Book, allocation_id: str) -> list[Allocation]:
    """What draws on an allocation, by the definition: each child's own first, then the child."""
    children = [a for a in book.allocations.values() if a.request.parent == allocation_id]
    found: list[Allocation] = []
    for child in sorted(children, key=lambda each: each.position):
        found += [*simply(book, child.id), child]
    return found


@given(
    parents=st.lists(st.integers(0, 30), max_size=20),
    waiting=st.sets(st.integers(0, 20)),
    gone=st.sets(st.integers(0, 20)),
)
@settings(deadline=None)
def test_descendants_are_those_of_the_recursive_statement(
    parents: list[int], waiting: set[int], gone: set[int]
) -> None:
    scenario = Scenario()
    scenario.pool(n1={"cpu": 1_000_000})
    ids = [scenario.got({"cpu": 100_000})]
    for number, parent in enumerate(parents):
        # What waits lends nothing; it asks for more than is left of what it draws on.
        lender = ids[parent % len(ids)]
        if number in waiting:
            scenario.got({"cpu": 1}, parent=lender)
            scenario.waits(dict(scenario.book.allocations[lender].amounts), parent=lender)
        else:
            ids.append(scenario.got({"cpu": 100_000 - 4_000 * len(ids)}, parent=ids[-1]))
    book = scenario.book
    ended = {ids[each] for each in gone if each < len(ids)}
    ended |= {child.id for each in set(ended) for child in simply(book, each)}
    for each in ids:
        assert descendants(book, each) == simply(book, each)
        assert descendants(book, each, ended) == [
            a for a in simply(book, each) if a.id not in ended
        ]


# --- spreads --------------------------------------------------------------------------------------

amounts_of = st.fixed_dictionaries(
    {},
    optional={
        "cpu": st.integers(1, 12),
        "memory": st.integers(1, 12),
        "gpu": st.sampled_from([CARD // 2, CARD, 2 * CARD, 3 * CARD, 6 * CARD]),
    },
).filter(bool)
specs = st.tuples(
    st.integers(0, 5), st.integers(0, 5), st.integers(0, 3), st.sampled_from("ab"), st.booleans()
)
wishes = st.builds(
    Request,
    amounts_of,
    spread=st.sampled_from([0, 0, 0, 1, 2, 3, 5]),
    select=st.sampled_from([None, None, {"zone": "a"}]),
)


def nodes_of(given_: list[tuple[int, int, int, str, bool]]) -> dict[str, Node]:
    """Nodes by name, some with something in use on them."""
    nodes = {}
    for number, (cpu, memory, gpu, zone, used) in enumerate(given_):
        capacity = {"cpu": cpu, "memory": memory, "gpu": gpu * CARD}
        node = node_from(NodeSpec(f"n{number}", capacity, {"zone": zone}))
        taken = place_on(node, {"cpu": 1, "gpu": CARD // 2} if number % 2 else {"memory": 1})
        nodes[node.name] = node.plus(taken, 1) if used and taken else node
    return nodes


def evenly(amounts: Amounts, count: int) -> list[Amounts] | None:
    """Amounts in so many parts, unit by unit: each goes to the next part."""
    parts: list[Amounts] = [dict.fromkeys(amounts, 0) for _ in range(count)]
    for resource, amount in amounts.items():
        unit = CARD if resource == "gpu" else 1
        if amount % unit:
            return None
        for number in range(amount // unit):
            parts[number % count][resource] += unit
    return parts if all(all(part.values()) for part in parts) else None


@given(amounts_of, st.integers(1, 13))
def test_shares_are_as_even_as_units_allow_and_runs_are_the_same_counted(
    amounts: Amounts, count: int
) -> None:
    shares, runs = shares_of(amounts, count), runs_of(amounts, count)
    assert shares == evenly(amounts, count)
    assert (runs is None) == (shares is None)
    if runs is not None:
        assert [part for part, times in runs for _ in range(times)] == shares
        assert len({str(part) for part, _ in runs}) == len(runs) <= len(amounts) + 1


def ever_one_by_one(nodes: Iterable[Node], request: Request) -> bool:
    """Whether a spread could fit on empty nodes: each number of parts tried, each node looked at."""
    fitting = [node for node in nodes if carries(node, request.select)]
    for count in [request.spread] if request.spread else range(1, len(fitting) + 1):
        parts = evenly(request.amounts, count)
        if parts is not None:
            smallest = sum(fits_empty(node, parts[-1]) for node in fitting)
            largest = sum(fits_empty(node, parts[0]) for node in fitting)
            if smallest >= count and largest >= parts.count(parts[0]):
                return True
    return False


@given(st.lists(specs, min_size=1, max_size=7), wishes)
@settings(max_examples=300, deadline=None)
def test_whether_a_spread_could_ever_fit_is_what_trying_every_number_finds(
    given_: list[tuple[int, int, int, str, bool]], request: Request
) -> None:
    nodes = nodes_of(given_).values()
    assert could_ever_fit(nodes, request) == ever_one_by_one(nodes, request)


@given(
    st.lists(specs, min_size=1, max_size=7),
    wishes,
    st.sampled_from(["first_fit", "best_fit", "worst_fit", "random"]),
    st.integers(0, 9),
    st.sets(st.sampled_from(["n0", "n1", "n2"]), max_size=2),
)
@settings(max_examples=300, deadline=None)
def test_spread_over_as_few_nodes_as_it_takes_is_the_first_number_that_goes(
    given_: list[tuple[int, int, int, str, bool]],
    request: Request,
    strategy: str,
    seed: int,
    barred: set[str],
) -> None:
    space, mix = Space("box", nodes_of(given_)), Mix()
    if request.spread:
        return
    found = place(space, mix, Wish(request, strategy, seed, barred))
    each = (
        Request(request.amounts, select=request.select, spread=count)
        for count in range(1, len(space.nodes) + 1)
    )
    tried = (place(space, mix, Wish(one, strategy, seed, barred)) for one in each)
    assert found == next((placed for placed in tried if placed is not None), None)
    if found is not None:
        assert len({placement.node for placement in found}) == len(found)
        for resource, amount in request.amounts.items():
            assert sum(placement.amounts[resource] for placement in found) == amount


def test_spread_over_thousands_of_nodes_is_decided_at_once() -> None:
    scenario = Scenario()
    nodes: dict[str, Any] = {f"n{number}": {"cpu": 1_000} for number in range(3_000)}
    scenario.pool(**nodes)
    refused = scenario.refused({"cpu": 3_000_001}, spread=0)
    assert refused.reason == "exceeds_pool"
    granted = scenario.book.allocations[scenario.got({"cpu": 1_200_001}, spread=0)]
    assert len(granted.placements) == 1_201


# --- a search of many parts -----------------------------------------------------------------------


def both_or_none(scenario: Scenario, *items: Allocate) -> Any:
    """The body of what an atomic batch of these comes to first."""
    scenario.when(AllocateBatch(command_id=scenario.next_id(), items=items, atomic=True))
    return scenario.own[0].body


def test_batch_with_a_spread_over_more_nodes_than_calls_nest_is_refused_for_good() -> None:
    scenario = Scenario()
    nodes: dict[str, Any] = {f"n{number}": {"cpu": 2} for number in range(1_100)}
    scenario.pool(big={"cpu": 4}, **nodes)
    whole = scenario.request({"cpu": 4}, wait=100)
    wide = scenario.request({"cpu": 1_101}, spread=1_101, wait=100)
    body = both_or_none(scenario, whole, wide)
    assert isinstance(body, Refused)
    assert body.reason == "exceeds_pool"


def test_search_finds_a_way_for_a_spread_over_more_nodes_than_calls_nest() -> None:
    nodes = {f"n{number}": {"cpu": 2} for number in range(1_100)}
    given_ = {**nodes, "big": {"cpu": 4}}
    space = Space("box", {name: node_from(NodeSpec(name, size)) for name, size in given_.items()})
    wide = Wish(Request({"cpu": 1_100}, spread=1_100), "first_fit")
    whole = Wish(Request({"cpu": 4}), "first_fit")
    search = _Search(space, [wide, whole], 20_000)
    found = search.run()
    assert found is not None and not search.cut
    assert [placement.node for placement in found[1]] == ["big"]
    assert {placement.node for placement in found[0]} == nodes.keys()


def fits_somehow(nodes: dict[str, Node], requests: list[Request]) -> bool:
    """Whether requests fit together, every choice of different nodes for every part tried."""
    if not requests:
        return True
    request, rest = requests[0], requests[1:]
    candidates = [n for n, node in nodes.items() if carries(node, request.select)]
    counts = [1] if request.spread is None else [request.spread]
    for count in counts if counts != [0] else range(1, len(candidates) + 1):
        parts = [request.amounts] if request.spread is None else evenly(request.amounts, count)
        for chosen in permutations(candidates, count) if parts else ():
            placed = [place_on(nodes[n], p) for n, p in zip(chosen, parts or (), strict=True)]
            taken = [each for each in placed if each is not None]
            after = {**nodes, **{each.node: nodes[each.node].plus(each, 1) for each in taken}}
            if len(taken) == count and fits_somehow(after, rest):
                return True
    return False


whole_things = st.builds(
    Request,
    st.fixed_dictionaries({"cpu": st.integers(1, 6)}, optional={"memory": st.integers(1, 5)}),
    spread=st.sampled_from([None, None, 0, 2, 3]),
    select=st.sampled_from([None, None, {"zone": "a"}]),
)


@given(st.lists(specs, min_size=1, max_size=4), st.lists(whole_things, min_size=2, max_size=3))
@settings(max_examples=200, deadline=None)
def test_search_finds_a_way_exactly_where_there_is_one(
    given_: list[tuple[int, int, int, str, bool]], requests: list[Request]
) -> None:
    nodes = nodes_of(given_)
    search = _Search(Space("box", nodes), [Wish(r, "first_fit") for r in requests], 100_000)
    found = search.run()
    assert not search.cut
    assert (found is not None) == fits_somehow(nodes, requests)
    for request, placements in zip(requests, found or (), strict=found is not None):
        nodes = settled(nodes, request, placements)


def settled(
    nodes: dict[str, Node], request: Request, placements: tuple[Placement, ...]
) -> dict[str, Node]:
    """The nodes with a request on them, after making sure that it is all of it and has room."""
    for resource, amount in request.amounts.items():
        assert sum(placement.amounts[resource] for placement in placements) == amount
    assert len({placement.node for placement in placements}) == len(placements)
    for placement in placements:
        assert carries(nodes[placement.node], request.select)
        again = place_on(nodes[placement.node], placement.amounts)
        assert again is not None
        nodes = {**nodes, placement.node: nodes[placement.node].plus(again, 1)}
    return nodes


def test_search_that_runs_out_of_steps_says_that_it_was_cut() -> None:
    space = Space("box", {f"n{n}": node_from(NodeSpec(f"n{n}", {"cpu": 2})) for n in range(50)})
    wide = Wish(Request({"cpu": 50}, spread=50), "first_fit")
    search = _Search(space, [wide, wide], 60)
    assert search.run() is None and search.cut


# --- sums beyond 64 bits --------------------------------------------------------------------------

MOST = 2**63 - 1


def rows(lb: CommandLine, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(views_path(lb.ledger))) as connection:
        return connection.execute(sql).fetchall()


def all_is_well(lb: CommandLine) -> None:
    """No projection has stopped, and each is what the log adds up to."""
    assert lb("report", "utilization").code == 0
    assert lb("projections", "check").code == 0
    assert "failed" not in lb("projections", "status").out


def test_overdrafts_beyond_64_bits_stop_no_projection_and_are_kept_exactly(lb: CommandLine) -> None:
    lb.ok("pool", "open", "api", "tokens=1000", "--consumable", "--every", "1h")
    ids = [lb("allocate", "api", "tokens=1", "--print", "id").out.strip() for _ in range(3)]
    for count, id_ in enumerate(ids, 1):
        assert lb("release", id_, "--consumed", f"tokens={MOST}").code == 0
        # The next comes on top of what was written, which no cell could hold.
        all_is_well(lb)
        spent = count * MOST
        (in_use, stored, beyond), *_ = rows(lb, "SELECT in_use, spent, beyond FROM node_resources")
        still = len(ids) - count
        assert stored == min(spent, MOST) and in_use == min(spent + still, MOST)
        exact = from_json(beyond) or {}
        assert exact.get("spent", stored) == spent
        assert exact.get("in_use", in_use) == spent + still
    assert rows(lb, "SELECT spent, in_use FROM pool_resources") == [(3.0 * MOST, 3.0 * MOST)]
    assert lb.ok("pool", "show", "api")["base_units"]["in_use"] == {"tokens": 3 * MOST}
    assert lb("projections", "rebuild").code == 0
    all_is_well(lb)


def test_what_one_tenant_holds_beyond_64_bits_is_marked_and_comes_back_exactly(
    lb: CommandLine,
) -> None:
    size = 7 * 2**60
    lb.ok("pool", "open", "disks", *(w for n in "abc" for w in ("--node", f"{n}:disk=7EiB")))
    ids = [lb("allocate", "disks", "disk=7EiB", "--print", "id").out.strip() for _ in range(3)]
    all_is_well(lb)
    held = "SELECT held, beyond FROM tenants WHERE pool = 'disks'"
    assert rows(lb, held) == [(MOST, f'{{"held":{3 * size}}}')]
    assert rows(lb, "SELECT capacity, in_use FROM pool_resources") == [(3.0 * size, 3.0 * size)]
    assert lb("release", ids[0]).code == lb("release", ids[1]).code == 0
    all_is_well(lb)
    assert rows(lb, held) == [(size, None)]
    # What was refused adds up beyond them as well.
    assert lb("allocate", "disks", "disk=7EiB", "--spread", "1").code == 0
    assert [lb("allocate", "disks", "disk=20EiB").code for _ in range(2)] == [2, 2]
    assert [lb("allocate", "disks", "disk=7.5EiB").code for _ in range(2)] == [3, 3]
    all_is_well(lb)
    assert rows(lb, "SELECT amount, requests FROM demand") == [(2 * 7.5 * 2**60, 2)]


@given(st.lists(st.integers(-(2**63), MOST), max_size=12))
@example([-(2**63), -1, 2**32 - 1, 1])
@example([MOST, MOST, -MOST, 2**32])
@settings(deadline=None)
def test_sum_in_sql_is_exact_where_a_cell_holds_it_and_never_fails(numbers: list[int]) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE t (x INTEGER)")
        connection.executemany("INSERT INTO t VALUES (?)", [(number,) for number in numbers])
        (found,) = connection.execute(f"SELECT {sum_sql('x')} FROM t").fetchone()
    whole = sum(numbers)
    if not numbers:
        assert found is None
    elif -(2**63) <= whole <= MOST:
        assert found == whole
    else:
        assert found == pytest.approx(whole, rel=1e-15)


@given(st.dictionaries(st.text(max_size=3), st.integers(-(2**90), 2**90), max_size=3))
def test_amounts_of_any_size_come_back_from_json_as_they_were(amounts: dict[str, int]) -> None:
    assert from_json(as_json(amounts)) == amounts
    assert all(type(amount) is int for amount in (from_json(as_json(amounts)) or {}).values())
