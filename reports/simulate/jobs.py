"""From a trace to jobs with lifetimes, and what makes room for them scarce.

What a trace leaves open has to be taken somehow; :class:`Assumed` counts it, so that the answer can
say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import median_low

from ledger.requests import NodeSpec, Request
from reports.simulate.traces import Arrival

SPEEDUP_MAX = 1e6


@dataclass(frozen=True, slots=True)
class Job:
    """A request with its life: when it came and how long it holds (ns; None: to the end)."""

    name: str
    request: Request
    arrived_ns: int
    lasts_ns: int | None
    holder: str = "trace"
    task: str | None = None


@dataclass(frozen=True, slots=True)
class Assumed:
    """How many requests of a trace do not say all of their lives.

    ``without_a_time`` have no time of arrival and are left out. ``without_an_end`` hold to the end.
    ``never_ran`` were never served in the trace; here they would hold for ``typical_ns``, the median
    of those that were (None: for as long as they were there, since there is no such median).
    """

    without_a_time: int = 0
    without_an_end: int = 0
    never_ran: int = 0
    typical_ns: int | None = None


def jobs_of(trace: Sequence[Arrival]) -> tuple[list[Job], Assumed]:
    """The jobs of a trace in order of arrival, those of one instant as they stand in the trace.

    A job holds for as long as it was served in the trace, its wait there not counted.
    """
    served = [_served_ns(arrival) for arrival in trace]
    typical_ns = median_low(known) if (known := [ns for ns in served if ns is not None]) else None
    jobs = []
    timeless = endless = unserved = 0
    for arrival, lasts_ns in zip(trace, served, strict=True):
        if arrival.arrived_ns is None:
            timeless += 1
            continue
        if not arrival.ran:
            unserved += 1
            lasts_ns = typical_ns
            if lasts_ns is None and arrival.left_ns is not None:
                lasts_ns = arrival.left_ns - arrival.arrived_ns
        if lasts_ns is None:
            endless += 1
        jobs.append(
            Job(
                arrival.name,
                arrival.request,
                arrival.arrived_ns,
                lasts_ns,
                arrival.holder,
                arrival.task,
            )
        )
    jobs.sort(key=lambda job: job.arrived_ns)
    return jobs, Assumed(timeless, endless, unserved, typical_ns)


def _served_ns(arrival: Arrival) -> int | None:
    """For how long it held what it asked for, or None where the trace does not tell."""
    since = arrival.arrived_ns if arrival.began_ns is None else arrival.began_ns
    if not arrival.ran or since is None or arrival.left_ns is None:
        return None
    return arrival.left_ns - since


def hastened(jobs: Sequence[Job], speedup: float) -> list[Job]:
    """Jobs that come ``speedup`` times as fast one after the other, and last as long as before.

    Raises ValueError for a speed-up that is not above 0 and at most a million, or below a millionth.
    """
    if not 1 / SPEEDUP_MAX <= speedup <= SPEEDUP_MAX:
        raise ValueError("--speedup takes a number above 0, from a millionth to a million")
    first = jobs[0].arrived_ns if jobs else 0
    by = Fraction(str(speedup))
    return [replace(j, arrived_ns=first + int((j.arrived_ns - first) / by)) for j in jobs]


def cut(nodes: Sequence[NodeSpec], share: float) -> list[NodeSpec]:
    """About this share of the nodes, evenly over the list: so that there is contention.

    Raises ValueError for a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError("a share of the nodes lies between 0 and 1")
    exact = Fraction(str(share))
    return [n for i, n in enumerate(nodes) if int((i + 1) * exact) > int(i * exact)]
