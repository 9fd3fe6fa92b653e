"""Inventories of an observed pool, imported in any order: every moment goes by the newest before it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings
from hypothesis import strategies as st

from leasebook.importers.overload import Overload, Overloads
from ledger.commands import Fact, OpenPool, RecordFacts
from ledger.memory_log import MemoryLog
from ledger.requests import NodeSpec, Placement, Request
from ledger.writer import Writer, begin
from projections.engine import Engine
from projections.past import Past
from projections.travel import Travel
from projections.travel_history import History, TabledHistory
from tests.ledgers import Clock, check_whole

Sizes = dict[str, int]
Inventories = dict[int, Sizes]
"""Time → node → cores."""

inventories = st.dictionaries(
    st.integers(1, 6).map(lambda n: n * 10),
    st.dictionaries(st.sampled_from(("h0", "h1", "h2")), st.integers(1, 3), min_size=1),
    min_size=1,
    max_size=5,
)


@st.composite
def imports(draw: st.DrawFn) -> list[tuple[int, Sizes]]:
    """Inventories in the order in which they come, some of them again."""
    told = list(draw(inventories).items())
    again = draw(st.lists(st.sampled_from(told), max_size=2))
    return list(draw(st.permutations([*told, *again])))


NEW, OLD = {"h0": 4}, {"h0": 8, "h1": 4}


@example([(30, NEW), (10, OLD), (30, NEW)])
@example([(30, {"h0": 1, "h1": 1}), (10, {"h0": 1})])
@example([(30, {"h0": 1}), (10, {"h0": 1, "h1": 2}), (20, {"h1": 3})])
@settings(max_examples=150, deadline=None)
@given(imports())
def test_every_moment_has_the_nodes_of_the_newest_inventory_before_it(
    told: list[tuple[int, Sizes]],
) -> None:
    log = MemoryLog()
    writer = Writer(log, clock=Clock())
    begin(log, "test", writer)
    writer.execute(OpenPool(command_id="p", pool="far", nodes=(), kind="observed"))
    first = Fact(key="k", holder="ann", request=Request({"cpu": 1}), began_at=1)
    writer.execute(RecordFacts(command_id="", pool="far", facts=(first,)))

    def take(at: int, sizes: Sizes) -> str:
        nodes = tuple(NodeSpec(name, {"cpu": size}) for name, size in sizes.items())
        command = RecordFacts(
            command_id="", pool="far", nodes=nodes, nodes_at=at, nodes_complete=True
        )
        return writer.execute(command).outcome

    for at, sizes in told:
        take(at, sizes)
    assert {take(at, sizes) for at, sizes in told} == {"unchanged"}
    times = dict(told)
    pools = frozenset({"far"})
    with TemporaryDirectory() as folder, closing(writer):
        views = Path(folder) / "views.db"
        tabled = TabledHistory(log, views)
        for time in range(min(times), 70, 5):
            wanted = times[max(at for at in times if at <= time)]
            for history in (History(log), tabled):
                found = history.sizes(pools, time, log.head().position)["far"]
                assert {n: size["cpu"] for n, size in found.items() if size} == wanted
            state = Travel(Past(log), history=tabled)
            space = state.state(state.moment("time", time)).book.pools["far"].space
            assert {
                name: node.capacity["cpu"]
                for name, node in space.nodes.items()
                if node.capacity.get("cpu")
            } == wanted
        newest = times[max(times)]
        nodes = writer.read(lambda book, now: dict(book.pools["far"].space.nodes))
        assert {name: node.capacity["cpu"] for name, node in nodes.items()} == newest
        with Engine(log, views) as engine, closing(engine.connect()) as connection:
            sql = "SELECT node, capacity FROM node_resources WHERE capacity IS NOT NULL"
            assert dict(connection.execute(sql).fetchall()) == newest
        check_whole(writer)


def test_what_was_held_is_measured_by_what_a_node_had_then() -> None:
    held = Placement("h0", {"cpu": 6}, {})
    request = Request({"cpu": 6})
    with closing(Overloads()) as overloads:
        for key, since, until in (("a", 12, 18), ("b", 25, 40)):
            overloads.add(
                "far",
                Fact(
                    key=key,
                    holder="ann",
                    request=request,
                    placements=(held,),
                    began_at=since,
                    ended_at=until,
                ),
            )
        sizes = {"h0": [(0, {"cpu": 8}), (30, {"cpu": 4})]}
        assert overloads.found("far", sizes) == [Overload("far", "h0", "cpu", 6, 4, 30)]
        assert overloads.found("far", {"h0": [(0, {"cpu": 8})]}) == []
