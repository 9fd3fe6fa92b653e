"""Simulations: reading the openb format, the order of arrival, and what is counted."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ledger.errors import InvalidInput
from ledger.mix import Mix
from ledger.requests import NodeSpec, Request
from ledger.rules.placement import Wish
from reports.simulate import arrivals
from reports.simulate.arrivals import experiment, in_order, mix_of, never_fitting, run
from reports.simulate.openb import read_nodes, read_pods
from reports.simulate.traces import SECOND, Arrival, BadTrace

NODES = """sn,cpu_milli,memory_mib,gpu,model
n-1,8000,1024,2,A
n-0,4000,512,0,
"""
PODS = """name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,creation_time,deletion_time
p-2,1000,256,1,500,,LS,7,9
p-1,2000,256,2,1000,B|A|B,BE,3,
p-3,500,0,0,,,BE,,
"""


def file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_nodes_are_read_with_their_cards_and_model(tmp_path: Path) -> None:
    nodes = read_nodes(file(tmp_path, "nodes.csv", NODES))
    assert nodes == [
        NodeSpec("n-1", {"cpu": 8000, "memory": 2**30, "gpu": 2000}, {"model": "A"}),
        NodeSpec("n-0", {"cpu": 4000, "memory": 2**29}, {}),
    ]


def test_pods_are_read_as_requests(tmp_path: Path) -> None:
    share, whole, without = read_pods(file(tmp_path, "pods.csv", PODS))
    half = Request({"cpu": 1000, "memory": 2**28, "gpu": 500})
    assert share == Arrival("p-2", half, 7 * SECOND, 9 * SECOND)
    assert whole.request.amounts == {"cpu": 2000, "memory": 2**28, "gpu": 2000}
    assert whole.request.select == {"model": "A|B"}
    assert (whole.arrived_ns, whole.left_ns) == (3 * SECOND, None)
    assert without == Arrival("p-3", Request({"cpu": 500}))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("p-9,1000,256,1,500", "line 5 has another number of fields"),
        ("p-9,1000,256,1,500,,,,,,,extra", "line 5 has another number of fields"),
        ("p-9,many,256,1,500,,,,", "cpu_milli is 'many'"),
        ("p-9,-1,256,1,500,,,,", "cpu_milli is '-1'"),
        ("p-9,1000,256,2,500,,,,", "asks for 2 GPUs with 500 thousandths of each"),
        ("p-9,1000,256,1,1001,,,,", "asks for 1 GPUs with 1001 thousandths"),
        ("p-9,1000,256,1,0,,,,", "asks for 1 GPUs with 0 thousandths"),
        ("p-9,0,0,0,0,,,,", "asks for nothing"),
        ("p-9,1000,256,1,500,,,9,5", "line 5 ends before it begins"),
        ("p-9,1,999999999999999999,1,500,,,,", "line 5: .* of memory is not an amount"),
        ('"p-9,1000,256,1,500,,,,\np-10,1,1,0,0,,,,', r"line 5 .* \(it reaches to line 6\)"),
        (f"{'p' * 140_000},1000,256,1,500,,,,", "is not a table of text"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(BadTrace, match=says):
        read_pods(file(tmp_path, "pods.csv", PODS + line + "\n"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("n-1,1,1,0,", "line 4 names node 'n-1' again"),
        ("n-2,0,0,0,A", "line 4 is a node that has nothing"),
        (",1,1,1,A", "line 4: node name '' is empty"),
        ("n-2,1,999999999999999999,1,A", "line 4: .* of memory is not an amount"),
        ("n-2,1,1,1001,A", "line 4 has 1001 GPUs on one node"),
    ],
)
def test_a_broken_node_is_named(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(BadTrace, match=says):
        read_nodes(file(tmp_path, "nodes.csv", NODES + line + "\n"))


def test_a_pod_that_names_no_model_takes_any(tmp_path: Path) -> None:
    (pod,) = read_pods(file(tmp_path, "p.csv", PODS.splitlines()[0] + "\np,1,1,1,500,|,LS,1,2\n"))
    assert pod.request.select is None


@pytest.mark.parametrize("change", ["bom", "crlf", "semicolon", "gzip"])
def test_a_table_is_read_however_it_was_saved(tmp_path: Path, change: str) -> None:
    text = {
        "bom": "\ufeff" + PODS,
        "crlf": PODS.replace("\n", "\r\n"),
        "semicolon": PODS.replace(",", ";"),
        "gzip": PODS,
    }[change]
    path = tmp_path / "pods.csv"
    path.write_bytes(gzip.compress(text.encode()) if change == "gzip" else text.encode())
    assert read_pods(path) == read_pods(file(tmp_path, "plain.csv", PODS))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (PODS.encode() + b"p\xe9,1,1,0,0,,,,\n", "is not UTF-8 text"),
        (PODS.encode("utf-16"), "is not UTF-8 text"),
        (gzip.compress(PODS.encode())[:-9], "is damaged"),
        (b"", "its first line is empty"),
        (b"name," + PODS.encode(), "has two columns name"),
    ],
)
def test_what_is_no_table_is_one_clear_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "pods.csv"
    path.write_bytes(content)
    with pytest.raises(BadTrace, match=says):
        read_pods(path)


def test_a_folder_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="cannot be read: Is a directory"):
        read_pods(tmp_path)


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="has no column name, num_gpu, gpu_milli, gpu_spec"):
        read_pods(file(tmp_path, "nodes.csv", NODES))


def arrival(name: str, **amounts: int) -> Arrival:
    return Arrival(name, Request(amounts))


TRACE = [arrival(f"p{i}", cpu=1000 + i, gpu=500) for i in range(8)]


def test_the_order_holds_everything_once_and_then_draws_until_demand_is_reached() -> None:
    order = in_order(list(reversed(TRACE)), capacity=6000, inflate=1.3, seed=3)
    assert sorted(each.name for each in order[:8]) == [each.name for each in TRACE]
    assert sum(each.request.amounts["gpu"] for each in order) == 8000
    assert all(each in TRACE for each in order)
    # It hangs on the seed, not on the order of the file.
    assert order == in_order(TRACE, capacity=6000, inflate=1.3, seed=3)
    assert order != in_order(TRACE, capacity=6000, inflate=1.3, seed=4)


def test_demand_that_is_high_enough_is_left_as_it_is() -> None:
    assert len(in_order(TRACE, capacity=1000, inflate=1.3, seed=0)) == len(TRACE)


def test_a_trace_that_wants_no_cards_cannot_be_inflated() -> None:
    with pytest.raises(ValueError, match="asks for cards"):
        in_order([arrival("p", cpu=1)], capacity=1000, inflate=1.3, seed=0)


def test_the_mix_of_a_trace_leaves_memory_out_and_counts_shapes() -> None:
    trace = [arrival("a", cpu=1, memory=5), arrival("b", cpu=1, memory=9), arrival("c", memory=1)]
    assert mix_of(trace).counts == {((("cpu", 1),), ()): 2}


def test_demand_that_takes_too_many_requests_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "ARRIVALS_MAX", 10)
    with pytest.raises(ValueError, match=r"after 10 requests their demand is 5 % of the cards"):
        in_order(TRACE, capacity=100_000, inflate=1.3, seed=0)


ONE_NODE = [NodeSpec("n", {"cpu": 100_000, "gpu": 2000}, {})]


def test_what_is_refused_still_counts_as_arrived() -> None:
    order = [arrival(str(i), cpu=1000, gpu=1000) for i in range(3)]
    outcome = run(ONE_NODE, order, "first_fit", mix_of(order), seed=0)
    assert (outcome.arrivals, outcome.granted) == (3, 2)
    assert [(m.arrived, m.allocated) for m in outcome.moments] == [(50, 50), (100, 100), (150, 100)]
    assert outcome.at(75) is None


def test_a_moment_is_the_mean_over_all_arrivals_that_round_to_it() -> None:
    order = [arrival("a", gpu=1000), arrival("b", cpu=1000), arrival("c", gpu=5)]
    outcome = run(ONE_NODE, order, "first_fit", mix_of(order), seed=0)
    assert [m.arrived for m in outcome.moments] == [50]
    assert outcome.moments[0].allocated == pytest.approx((50 + 50 + 50.25) / 3)


def test_where_no_arrival_rounds_to_a_percentage_things_stand_as_the_last_one_left_them() -> None:
    order = [arrival("a", gpu=500), arrival("b", cpu=1000), arrival("c", gpu=1000)]
    outcome = run(ONE_NODE, order, "first_fit", mix_of(order), seed=0)
    assert [m.arrived for m in outcome.moments] == [25, 75]
    assert [outcome.stood(level)[0] for level in (10, 25, 50, 75, 99)] == [0, 25, 25, 75, 75]
    # One of the three usual requests wants no card, so a third of two idle cards is of no use.
    assert outcome.stood(10)[1] == pytest.approx(100 / 3)


def test_what_fits_on_no_empty_node_is_counted() -> None:
    trace = [
        arrival("a", gpu=2000),
        arrival("b", gpu=3000),
        arrival("c", cpu=100_001),
        Arrival("d", Request({"gpu": 1}, select={"model": "A"})),
    ]
    assert never_fitting(ONE_NODE, trace) == 3


def test_two_nodes_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidInput, match="given twice"):
        next(experiment(ONE_NODE * 2, TRACE, ("first_fit",), (0,)))


def test_fragmentation_is_counted_by_the_typical_shapes() -> None:
    order = [arrival("a", gpu=600), arrival("b", gpu=600), arrival("c", gpu=500)]
    outcome = run(ONE_NODE, order, "worst_fit", mix_of(order[:2]), seed=0)
    # After the second, 400 of each card are idle and of no use to another 600; the third is refused.
    assert [m.arrived for m in outcome.moments] == [30, 60, 85]
    assert [m.fragmented for m in outcome.moments] == pytest.approx([20, 40, 40])


def test_a_node_takes_no_more_requests_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "NODE_PODS_MAX", 2)
    order = [arrival(str(i), cpu=1) for i in range(4)]
    assert run(ONE_NODE, order, "first_fit", Mix(), seed=0).granted == 2


def test_nodes_without_cards_are_no_cluster_for_this_experiment() -> None:
    with pytest.raises(ValueError, match="no cards"):
        run([NodeSpec("n", {"cpu": 1}, {})], TRACE, "first_fit", Mix(), seed=0)


def test_the_same_seed_gives_the_same_outcome_and_all_strategies_the_same_order() -> None:
    nodes = [NodeSpec(f"n{i}", {"cpu": 4000, "gpu": 2000}, {}) for i in range(3)]
    both = list(experiment(nodes, TRACE, ("random", "best_fit"), (1, 2)))
    assert both == list(experiment(nodes, TRACE, ("random", "best_fit"), (1, 2)))
    assert [(o.strategy, o.seed) for o in both] == [
        ("random", 1),
        ("best_fit", 1),
        ("random", 2),
        ("best_fit", 2),
    ]
    assert len({o.arrivals for o in both if o.seed == 1}) == 1


def test_another_way_of_deciding_can_be_tried() -> None:
    def never(space: object, mix: object, wish: Wish) -> None:
        return None

    assert run(ONE_NODE, TRACE, "mine", Mix(), seed=0, decide=never).granted == 0


def test_shapes_are_told_apart_by_model_unless_that_is_left_out() -> None:
    trace = [
        Arrival("a", Request({"gpu": 500}, select={"model": "A"})),
        Arrival("b", Request({"gpu": 500, "memory": 5})),
    ]
    assert len(mix_of(trace).counts) == 2
    assert mix_of(trace, models=False).counts == {((("gpu", 500),), ()): 2}
