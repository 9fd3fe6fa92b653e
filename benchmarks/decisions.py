"""One decision in a large cluster: 1,213 nodes with 6,212 GPUs, requests as they came in openb.

Needs the openb files, in ``$LEASEBOOK_DATA/openb`` or ``../shared/data/openb``; without them nothing
is measured. The cluster is filled until requests begin to be refused; from then on each request is
decided, and as many of the held ones end as were granted. The mix moves with every request, as in a
living ledger. Measured is the CPU time of :func:`ledger.decide.decide`: the request's checks, the
placement, and the event with its grant or refusal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import fmean, median
from time import thread_time

from benchmarks.bench import Bench, steady
from benchmarks.table import Result
from ledger.book import Book
from ledger.commands import Allocate, AnyCommand, Claim, OpenLedger, OpenPool, Release
from ledger.decide import decide
from ledger.events import Refused
from ledger.evolve import evolve
from ledger.requests import NodeSpec, Request
from reports.simulate.openb import read_nodes, read_pods

POOL = "openb"
TARGETS_MS = {"first_fit": 0.2, "best_fit": 0.2, "fragmentation_aware": 3.0}
REFUSAL_TARGET_MS = 3.0
"""A refusal also says which node is nearest, what is missing there, and who is in the way."""
DECISIONS = 3_000
FILLING = 12_000


def data_folder() -> Path:
    """Where the real inputs lie: ``LEASEBOOK_DATA``, else beside the project."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("LEASEBOOK_DATA") or beside)


class _Ledger:
    """A book without a log, and what it costs to decide for it."""

    def __init__(self, nodes: list[NodeSpec], strategy: str) -> None:
        self.book = Book()
        self.now = 10**18
        self.number = 0
        self.live: list[str] = []
        self.strategy = strategy
        self.do(OpenLedger(command_id="open", ledger_id="benchmark"))
        self.do(OpenPool(command_id="pool", pool=POOL, nodes=tuple(nodes)))

    def do(self, command: AnyCommand) -> float:
        """Carry out a command; the CPU seconds of its decision."""
        self.now += 1_000_000
        begun = thread_time()
        events = decide(self.book, command, self.now)
        took = thread_time() - begun
        for event in events:
            evolve(self.book, event)
        if isinstance(command, Allocate) and not isinstance(events[-1].body, Refused):
            self.live.append(events[-1].allocation or "")
        return took

    def ask(self, request: Request) -> float:
        self.number += 1
        asked = Request(
            request.amounts, select=request.select, strategy=self.strategy, ttl_ns=86_400 * 10**9
        )
        return self.do(
            Allocate(
                command_id=f"c{self.number}",
                pool=POOL,
                holder=f"agent-{self.number % 50}",
                task=f"task-{self.number % 500}",
                request=asked,
            )
        )

    def end_one(self, random: Random) -> None:
        index = random.randrange(len(self.live))
        self.live[index], self.live[-1] = self.live[-1], self.live[index]
        gone = self.live.pop()
        claim = Claim(self.book.allocations[gone].holder)
        self.do(Release(command_id=f"r{gone}", allocation=gone, claim=claim))


def _requests(folder: Path, random: Random) -> Iterator[Request]:
    pods = read_pods(folder / "openb_pod_list_default.csv")
    while True:
        yield random.choice(pods).request


def _measure(folder: Path, strategy: str, decisions: int) -> tuple[list[float], list[float]]:
    """CPU seconds of decisions that granted, and of decisions that refused."""
    random = Random(1)
    requests = _requests(folder, random)
    ledger = _Ledger(read_nodes(folder / "openb_node_list_gpu_node.csv"), strategy)
    for _ in range(FILLING):
        held = len(ledger.live)
        ledger.ask(next(requests))
        if len(ledger.live) == held:
            break
    granted: list[float] = []
    refused: list[float] = []
    with steady():
        for _ in range(decisions):
            held = len(ledger.live)
            took = ledger.ask(next(requests))
            if len(ledger.live) > held:
                granted.append(took)
                ledger.end_one(random)
            else:
                refused.append(took)
    return granted, refused


def _line(name: str, times: list[float], target: float) -> Result:
    ms = sorted(1000 * each for each in times)
    mean, p99 = fmean(ms), ms[len(ms) * 99 // 100]
    shown = f"CPU of {len(ms)}: median {median(ms):.3f} ms, mean {mean:.3f} ms, p99 {p99:.3f} ms"
    return Result(name, shown, mean, target, True, "ms")


def decisions(bench: Bench) -> list[Result]:
    """CPU time of one decision, by strategy: of those that grant, and of those that refuse."""
    folder = data_folder() / "openb"
    found = (folder / "openb_pod_list_default.csv").is_file()
    results = []
    for strategy, target in TARGETS_MS.items():
        name = f"one grant among 1,213 nodes, {strategy}"
        if not found:
            missing = "needs the openb files; set LEASEBOOK_DATA"
            results.append(Result(name, missing, None, target, True, "ms"))
            continue
        granted, refused = _measure(folder, strategy, bench.times(DECISIONS))
        results.append(_line(name, granted, target))
        if refused:
            name = f"one refusal among 1,213 nodes, {strategy}"
            results.append(_line(name, refused, REFUSAL_TARGET_MS))
    return results
