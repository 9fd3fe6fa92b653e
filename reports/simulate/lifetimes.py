"""With lifetimes: a trace decided by a whole ledger in memory, queue, waits and endings included.

Each request comes at its time, waits if it may, is held for as long as in the trace counted from its
grant, and is released. The steps are the writer's (:mod:`ledger.step`); only the log is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Any

from ledger.advance import GRANTS
from ledger.book import Book
from ledger.commands import Allocate, AnyCommand, Claim, OpenLedger, OpenPool, Release
from ledger.events import Event, Queued, Refused
from ledger.requests import CARD_RESOURCES, NodeSpec, Request
from ledger.rules.fragmentation import cards_left, fragments, typical_of
from ledger.step import is_due, settle_due, take_step
from reports.simulate.openb import Arrival

POOL = "simulation"
SECOND = 1_000_000_000
BEGIN = 10**18
"""Where a trace's second 0 lies on the ledger's clock (ns)."""
FOREVER_NS = 10 * 365 * 86_400 * SECOND
SERIES_MAX = 200
"""How many moments a result's series has at most."""
(CARDS,) = CARD_RESOURCES


@dataclass(frozen=True, slots=True)
class Job:
    """A request with its life: when it came and how long it holds (s; None: to the end)."""

    name: str
    request: Request
    arrived_s: int
    lasts_s: int | None
    holder: str = "trace"
    task: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """How things stood at a second of the trace: shares of capacity in use, and who waited.

    ``fragmented`` is the share of all cards that is idle and of no use to what is usually asked.
    """

    at_s: int
    used: dict[str, float]
    waiting: int
    fragmented: float | None


@dataclass(slots=True)
class Course:
    """What became of a trace. ``waits_s`` are of all that was granted, 0 for those who did not wait.

    ``used`` is resource → share of the capacity in use, over the time from the first arrival to the
    last one; ``decisions`` counts requests and releases.
    """

    strategy: str
    jobs: int = 0
    granted: int = 0
    waited: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    timed_out: int = 0
    waiting_at_end: int = 0
    waits_s: list[float] = field(default_factory=list)
    used: dict[str, float] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    decisions: int = 0

    def to_json(self) -> dict[str, Any]:
        """The figures and the series, JSON-ready."""
        waits = sorted(self.waits_s)
        return {
            "strategy": self.strategy,
            "requests": self.jobs,
            "granted": self.granted,
            "waited": self.waited,
            "refused": self.refused,
            "timed_out": self.timed_out,
            "waiting_at_end": self.waiting_at_end,
            "wait_s_median": _rank(waits, 50),
            "wait_s_p95": _rank(waits, 95),
            "wait_s_max": waits[-1] if waits else None,
            "wait_s_mean": sum(waits) / len(waits) if waits else None,
            "utilization": self.used,
            "decisions": self.decisions,
            "series": [
                {
                    "at_s": s.at_s,
                    "utilization": s.used,
                    "waiting": s.waiting,
                    "fragmented": s.fragmented,
                }
                for s in self.samples
            ],
        }


def _rank(ordered: Sequence[float], percent: int) -> float | None:
    """The nearest-rank percentile; None of nothing."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None


def jobs_of(trace: Iterable[Arrival]) -> tuple[list[Job], int]:
    """The jobs of a trace, in order of arrival, and how many are left out for want of a time."""
    jobs, timeless = [], 0
    for arrival in trace:
        if arrival.arrived_s is None:
            timeless += 1
            continue
        lasts = None if arrival.left_s is None else max(0, arrival.left_s - arrival.arrived_s)
        jobs.append(Job(arrival.name, arrival.request, arrival.arrived_s, lasts))
    jobs.sort(key=lambda job: (job.arrived_s, job.name))
    return jobs, timeless


def hastened(jobs: Sequence[Job], speedup: float) -> list[Job]:
    """Jobs that come ``speedup`` times as fast one after the other, and last as long as before."""
    if speedup <= 0:
        raise ValueError("a speed-up is a number above 0")
    first = jobs[0].arrived_s if jobs else 0
    return [replace(j, arrived_s=first + int((j.arrived_s - first) / speedup)) for j in jobs]


def cut(nodes: Sequence[NodeSpec], share: float) -> list[NodeSpec]:
    """About this share of the nodes, evenly over the list: so that there is contention.

    Raises ValueError for a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError("a share of the nodes lies between 0 and 1")
    return [n for i, n in enumerate(nodes) if int((i + 1) * share) > int(i * share)]


class Simulation:
    """One course of a trace through a ledger of its own."""

    def __init__(
        self,
        nodes: Sequence[NodeSpec],
        jobs: Sequence[Job],
        strategy: str,
        *,
        wait_s: int | None = None,
        policy: dict[str, Any] | None = None,
    ) -> None:
        """``wait_s`` is how long a request waits at most: None as long as it takes, 0 not at all."""
        self.book = Book()
        self.jobs = jobs
        self.course = Course(strategy, jobs=len(jobs))
        self._wait_ns = FOREVER_NS if wait_s is None else wait_s * SECOND or None
        self._ends: list[tuple[int, int, str]] = []
        self._lasts: dict[str, int | None] = {}
        self._area: dict[str, int] = {}
        first = jobs[0].arrived_s if jobs else 0
        self._until = jobs[-1].arrived_s if jobs else 0
        self._since = first
        self._step_s = max(1, (self._until - first) // SERIES_MAX)
        self._next_sample = first + self._step_s
        self._clock = first
        now = BEGIN + first * SECOND
        self._do(OpenLedger(command_id="open", ledger_id="simulation"), now)
        settings = {**(policy or {}), "strategy": strategy, "queue_limit": 1_000_000}
        opening = OpenPool(command_id="pool", pool=POOL, nodes=tuple(nodes), policy=settings)
        self._do(opening, now)

    def run(self, progress: Callable[[int], None] | None = None) -> Course:
        """Everything, to the last arrival and all releases before it."""
        for number, job in enumerate(self.jobs):
            self._release_until(job.arrived_s)
            self._go_to(job.arrived_s)
            self._arrive(number, job)
            if progress is not None and number % 200 == 0:
                progress(number)
        self._go_to(self._until)
        self._sum_up()
        return self.course

    # --- steps -----------------------------------------------------------------------------------

    def _arrive(self, number: int, job: Job) -> None:
        now = BEGIN + job.arrived_s * SECOND
        self._settle(now)
        request = replace(job.request, ttl_ns=FOREVER_NS, wait_ns=self._wait_ns)
        name = f"{number}-{job.name}"[:200]
        self._lasts[name] = job.lasts_s
        command = Allocate(
            command_id=name, pool=POOL, holder=job.holder, task=job.task, request=request
        )
        self._do(command, now)

    def _release_until(self, second: int) -> None:
        while self._ends and self._ends[0][0] <= second:
            at, _, name = heappop(self._ends)
            held = self.book.allocations.get(name)
            if held is None:
                continue
            self._go_to(at)
            now = BEGIN + at * SECOND
            self._settle(now)
            claim = Claim(held.holder, operator=True)
            self._do(Release(command_id=f"end-{name}", allocation=name, claim=claim), now)

    def _settle(self, now: int) -> None:
        while is_due(self.book, now):
            self._take(settle_due(self.book, now))

    def _do(self, command: AnyCommand, now: int) -> None:
        self.course.decisions += 1
        self._take(take_step(self.book, command, now).events)

    def _take(self, events: list[Event]) -> None:
        course = self.course
        for event in events:
            body, name = event.body, event.allocation
            if isinstance(body, Refused):
                course.refused[body.reason] = course.refused.get(body.reason, 0) + 1
            elif isinstance(body, Queued) and event.cause is not None:
                course.waited += 1
                assert name is not None
                # From here on it goes by its allocation's id: its grant has no cause.
                self._lasts[name] = self._lasts.pop(event.cause.command_id, None)
            elif isinstance(body, GRANTS) and name is not None:
                self._granted(event, name, body.queued_at)
            elif event.type == "withdrawn":
                course.timed_out += 1

    def _granted(self, event: Event, name: str, queued_at: int | None) -> None:
        self.course.granted += 1
        waited = 0 if queued_at is None else event.at - queued_at
        self.course.waits_s.append(waited / SECOND)
        key = name if event.cause is None else event.cause.command_id
        lasts = self._lasts.pop(key, None)
        if lasts is not None:
            at = (event.at - BEGIN) // SECOND + lasts
            heappush(self._ends, (at, int(name[1:]), name))

    # --- what is looked at on the way ------------------------------------------------------------

    def _go_to(self, second: int) -> None:
        """Time passes: what is in use counts until then, and a sample is taken now and then."""
        while self._next_sample <= min(second, self._until):
            self._pass_until(self._next_sample)
            self._sample(self._next_sample)
            self._next_sample += self._step_s
        self._pass_until(second)

    def _pass_until(self, second: int) -> None:
        by = second - self._clock
        if by <= 0:
            return
        for resource, amount in self._in_use().items():
            self._area[resource] = self._area.get(resource, 0) + amount * by
        self._clock = second

    def _in_use(self) -> dict[str, int]:
        pool = self.book.pools[POOL]
        return pool.held.get(("default", None), {})

    def _sample(self, second: int) -> None:
        space = self.book.pools[POOL].space
        used = {
            resource: round(self._in_use().get(resource, 0) / total, 6)
            for resource, total in sorted(space.totals.items())
            if total
        }
        self.course.samples.append(Sample(second, used, len(space.waiting), self._fragmented()))

    def _fragmented(self) -> float | None:
        """The share of all cards that is idle and of no use to what was asked for lately."""
        pool = self.book.pools[POOL]
        total = pool.space.totals.get(CARDS, 0)
        typical = typical_of(pool.mix)
        if not total or typical is None:
            return None
        sum_ = sum(
            fragments(node, cards_left(node).values(), {}, typical)
            for node in pool.space.nodes.values()
        )
        return round(sum_ / typical.total / total, 6)

    def _sum_up(self) -> None:
        lasted = self._until - self._since
        totals = self.book.pools[POOL].space.totals
        self.course.waiting_at_end = len(self.book.pools[POOL].space.waiting)
        self.course.used = {
            resource: round(self._area.get(resource, 0) / (total * lasted), 6)
            for resource, total in sorted(totals.items())
            if total and lasted
        }
