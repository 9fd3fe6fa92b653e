"""How fast a trace is simulated and a record decided again.

The simulation needs the openb files (see :mod:`benchmarks.decisions`): arrivals only, on 1,213 nodes,
until demand is 1.3 × the cards; and with lifetimes, through the whole ledger. What-if
decides a record again that is made here. CPU time throughout.
"""

from __future__ import annotations

from random import Random
from time import process_time

from benchmarks.bench import Bench, steady
from benchmarks.decisions import data_folder
from benchmarks.table import Result
from ledger.commands import Allocate, Claim, OpenPool, Release
from ledger.group import Ticket
from ledger.memory_log import MemoryLog
from ledger.requests import NodeSpec, Request
from ledger.writer import Writer, begin
from projections.past import Past
from reports.simulate.arrivals import CARDS, in_order, mix_of, run
from reports.simulate.jobs import jobs_of
from reports.simulate.lifetimes import Simulation
from reports.simulate.openb import read_nodes, read_pods
from reports.whatif import Changes, ask

TARGET = 300.0
"""Decisions a second."""
WHATIF_TARGET = 1_000.0
STRATEGIES = ("fragmentation_aware", "frontier")


def simulating(bench: Bench) -> list[Result]:
    """Decisions a second of CPU time: arrivals only, with lifetimes, and of a record."""
    return [*_arrivals(bench), _lifetimes(bench), _whatif(bench)]


def _missing(name: str) -> Result:
    return Result(name, "needs the openb files; set LEASEBOOK_DATA", None, TARGET, False, "/s")


def _rate(name: str, count: int, took: float, target: float) -> Result:
    return Result(name, f"{count} in {took:.1f} s of CPU", count / took, target, False, "/s")


def _arrivals(bench: Bench) -> list[Result]:
    folder = data_folder() / "openb"
    results = []
    for strategy in STRATEGIES:
        name = f"simulate, arrivals only, 1,213 nodes, {strategy}"
        if not (folder / "openb_pod_list_default.csv").is_file():
            results.append(_missing(name))
            continue
        nodes = read_nodes(folder / "openb_node_list_gpu_node.csv")
        trace = read_pods(folder / "openb_pod_list_default.csv")
        capacity = sum(spec.capacity.get(CARDS, 0) for spec in nodes)
        order = in_order(trace, capacity, 1.3, 1)
        order = order[: bench.times(len(order))]
        mix = mix_of(trace)
        with steady():
            begun = process_time()
            run(nodes, order, strategy, mix, 1)
            took = process_time() - begun
        results.append(_rate(name, len(order), took, TARGET))
    return results


def _lifetimes(bench: Bench) -> Result:
    name = f"simulate with lifetimes, 1,213 nodes, {STRATEGIES[0]}"
    folder = data_folder() / "openb"
    if not (folder / "openb_pod_list_default.csv").is_file():
        return _missing(name)
    nodes = read_nodes(folder / "openb_node_list_gpu_node.csv")
    jobs, _ = jobs_of(read_pods(folder / "openb_pod_list_default.csv"))
    # The first few hundred are looked through by hand, before tables are worth their making.
    jobs = jobs[: max(2_000, bench.times(len(jobs)) // 2)]
    with steady():
        simulation = Simulation(nodes, jobs, STRATEGIES[0])
        begun = process_time()
        course = simulation.run()
        took = process_time() - begun
    return _rate(name, course.decisions, took, TARGET)


def _whatif(bench: Bench) -> Result:
    """A record of a busy pool with a queue, decided again unchanged: it must come out exactly."""
    writer = Writer(MemoryLog())
    begin(writer.log, "benchmark", writer)
    nodes = tuple(NodeSpec(f"n{i}", {"cpu": 8_000}) for i in range(20))
    writer.execute(OpenPool(command_id="pool", pool="pool", nodes=nodes))
    random = Random(1)
    live: list[str] = []
    for number in range(bench.times(5_000)):
        request = Request(
            {"cpu": random.choice((500, 1_000, 3_000))}, ttl_ns=10**13, wait_ns=10**13
        )
        ticket = Ticket(Allocate(command_id=f"a{number}", pool="pool", holder="h", request=request))
        writer._commit([ticket])
        live.append(ticket.result().allocation.id)
        if len(live) > 90:
            gone = live.pop(random.randrange(60))
            claim = Claim("h", operator=True)
            writer.execute(Release(command_id=f"r{number}", allocation=gone, claim=claim))
    with steady():
        begun = process_time()
        answer = ask(Past(writer.log), Changes())
        took = process_time() - begun
    writer.close()
    if not answer.exact:
        raise RuntimeError(f"the record did not come out again from event {answer.parted_at} on")
    return _rate("what-if, unchanged, events decided again", answer.same, took, WHATIF_TARGET)
