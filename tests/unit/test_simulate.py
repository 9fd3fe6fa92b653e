"""Simulations: reading the openb format, the order of arrival, and what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.mix import Mix
from ledger.requests import NodeSpec, Request
from ledger.rules.placement import Wish
from reports.simulate import arrivals
from reports.simulate.arrivals import experiment, in_order, mix_of, run
from reports.simulate.lifetimes import Job, Simulation, cut, hastened, jobs_of
from reports.simulate.openb import Arrival, BadTrace, read_nodes, read_pods
from reports.simulate.table_trace import read_table

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
    assert share == Arrival("p-2", Request({"cpu": 1000, "memory": 2**28, "gpu": 500}), 7, 9)
    assert whole.request.amounts == {"cpu": 2000, "memory": 2**28, "gpu": 2000}
    assert whole.request.select == {"model": "A|B"}
    assert (whole.arrived_s, whole.left_s) == (3, None)
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
        ("p-9,0,0,0,0,,,,", "asks for nothing"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(BadTrace, match=says):
        read_pods(file(tmp_path, "pods.csv", PODS + line + "\n"))


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


# --- with lifetimes ------------------------------------------------------------------------------

TWO = [NodeSpec("n1", {"cpu": 2000}), NodeSpec("n2", {"cpu": 2000})]


def job(name: str, arrived: int, lasts: int | None, cpu: int = 2000) -> Job:
    return Job(name, Request({"cpu": cpu}), arrived, lasts)


def test_a_request_waits_for_room_and_lasts_from_its_grant_on() -> None:
    jobs = [job("a", 0, 100), job("b", 0, 50), job("c", 10, 30), job("d", 20, 5), job("e", 200, 1)]
    course = Simulation(TWO, jobs, "first_fit").run()
    # c is granted when b leaves at 50, d when c leaves at 80.
    assert sorted(course.waits_s) == [0, 0, 0, 40, 60]
    assert (course.granted, course.waited, course.waiting_at_end) == (5, 2, 0)
    # 2 cpu × (100 + 50 + 30 + 5) s of 4 cpu × 200 s.
    assert course.used == {"cpu": pytest.approx(2 * 185 / 800, abs=1e-6)}


def test_who_may_not_wait_is_refused_and_who_waits_too_long_leaves() -> None:
    jobs = [job("a", 0, 100), job("b", 0, 100), job("c", 10, 30), job("d", 150, 1)]
    refused = Simulation(TWO, jobs, "first_fit", wait_s=0).run()
    assert sum(refused.refused.values()) == 1
    gone = Simulation(TWO, jobs, "first_fit", wait_s=20).run()
    assert (gone.waited, gone.timed_out, gone.granted) == (1, 1, 3)


def test_what_can_never_fit_is_refused() -> None:
    course = Simulation(TWO, [job("a", 0, 1, cpu=9000), job("b", 1, 1)], "best_fit").run()
    assert sum(course.refused.values()) == 1
    assert course.granted == 1


def test_a_series_tells_what_was_in_use_over_time() -> None:
    nodes = [NodeSpec("n1", {"cpu": 4000, "gpu": 1000})]
    jobs = [
        Job("a", Request({"cpu": 1000, "gpu": 500}), 0, 500),
        Job("b", Request({"cpu": 1000}), 1000, 1),
    ]
    course = Simulation(nodes, jobs, "fragmentation_aware").run()
    by_second = {sample.at_s: sample.used["gpu"] for sample in course.samples}
    assert by_second[495] == 0.5
    assert by_second[505] == 0
    assert all(sample.fragmented is not None for sample in course.samples)
    assert course.to_json()["series"][0]["utilization"] == {"cpu": 0.25, "gpu": 0.5}


def test_a_part_of_the_nodes_is_taken_evenly() -> None:
    nodes = [NodeSpec(f"n{i}", {"cpu": 1}) for i in range(10)]
    assert [spec.name for spec in cut(nodes, 0.3)] == ["n3", "n6", "n9"]
    assert cut(nodes, 1) == nodes
    with pytest.raises(ValueError, match="between 0 and 1"):
        cut(nodes, 0)


def test_hastened_arrivals_last_as_long_as_before() -> None:
    jobs = [job("a", 100, 7), job("b", 200, 8)]
    assert [(j.arrived_s, j.lasts_s) for j in hastened(jobs, 4)] == [(100, 7), (125, 8)]


def test_jobs_without_a_time_of_arrival_are_counted(tmp_path: Path) -> None:
    jobs, timeless = jobs_of(read_pods(file(tmp_path, "pods.csv", PODS)))
    assert timeless == 1
    assert [(j.name, j.arrived_s, j.lasts_s) for j in jobs] == [("p-1", 3, None), ("p-2", 7, 2)]


# --- any table -----------------------------------------------------------------------------------

MAPPING = {"start": "t", "end": "u", "cpu": "c", "memory": "m:MiB", "holder": "who"}


def test_a_table_is_read_by_its_mapping(tmp_path: Path) -> None:
    path = file(tmp_path, "t.csv", "t,u,c,m,who\n5,9,2,512,ann\n1.5,,0.5,,\n")
    second, first = sorted(read_table(path, MAPPING), key=lambda j: -j.arrived_s)
    assert (first.arrived_s, first.lasts_s, first.holder) == (1, None, "trace")
    assert first.request.amounts == {"cpu": 500}
    assert (second.lasts_s, second.request.amounts) == (4, {"cpu": 2000, "memory": 2**29})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("t,u,c,m\n", "has no column who"),
        ("t,u,c,m,who\nnoon,,1,,\n", "line 2: t is 'noon'"),
        ("t,u,c,m,who\n9,5,1,,\n", "line 2 ends before it begins"),
        ("t,u,c,m,who\n1,2,,,\n", "line 2 asks for nothing"),
        ("t,u,c,m,who\n1,2,x,,\n", "line 2"),
        ("t,u,c,m,who\n1,2\n", "another number of fields"),
    ],
)
def test_a_line_of_a_table_that_makes_no_sense_is_named(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(BadTrace, match=says):
        read_table(file(tmp_path, "t.csv", text), MAPPING)


def test_a_mapping_without_a_start_or_a_resource_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="names no start column"):
        read_table(tmp_path / "t.csv", {"start": "t"})


def test_shapes_are_told_apart_by_model_unless_that_is_left_out() -> None:
    trace = [
        Arrival("a", Request({"gpu": 500}, select={"model": "A"})),
        Arrival("b", Request({"gpu": 500, "memory": 5})),
    ]
    assert len(mix_of(trace).counts) == 2
    assert mix_of(trace, models=False).counts == {((("gpu", 500),), ()): 2}
