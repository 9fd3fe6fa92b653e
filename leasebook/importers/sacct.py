"""``sacct``: the accounting of Slurm, as ``sacct -P`` writes it, with or without a header.

A job that ran on no node never held anything. Everything a row says keeps its time; times without a
zone are UTC, or those of ``--tz``. The file is read twice, and a third time where rows stand apart; a
pipe is therefore copied into a temporary file, and its import begins when it ends.

**Which rows are of one allocation.** Slurm begins a new record of a job that it puts back into its
queue, with the same id and a new time of submission (``sacct -D`` prints them all), so the key is
``sacct:CLUSTER:JOBID@SUBMITTED``: the JobID as it is shown, such as ``12_4``, since that is known
before a task of an array begins and its JobIDRaw is not, and the seconds since 1970 of Submit as its
clock shows them. Without the column Submit, or a time in it, the id stands alone; so exports of one
cluster should have the same columns. Rows of the same key whose runs are plainly two, one begun after
the other had ended, are told apart within a file if the state of one says that it was put back
(NODE_FAIL, PREEMPTED, REQUEUED, …): its key ends in ``/START``. A REQUEUED run without Submit is always
known by such a key, since another is sure to come under the plain one. If that run was imported before,
as RUNNING, it stays open under the plain key until the next run takes it over. Runs of the same key
that come in several files correct each other.

**Arrays.** ``12_[4-6%2]`` waits as 12_4, 12_5 and 12_6. A list that is cut short (``12_[1,2,3...]``)
cannot be known and is rejected; ``SLURM_BITSTR_LEN=0`` makes sacct print it whole.

**Steps** tell of the peak of memory, and of processor time only where the row of their job has none,
which holds that of its steps already. They belong to the job of their id, and of several runs to the
last that had begun when they did, wherever they stand in the file, as far as
:data:`leasebook.importers.slurm_apart.KEPT_MAX` goes. A step whose job is not in the file is rejected:
it does not say when its job was submitted. What a job's row says of its use and what its steps say are
two measures of it, so that an export without steps (``sacct -X``) and one with them say nothing twice.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, tzinfo
from functools import lru_cache
from itertools import chain

from leasebook.importers.base import Found, Item, Options, Reject, Source, WrongFormat, fit_name
from leasebook.importers.slurm_apart import KEPT_MAX, Apart, Kin, Step
from leasebook.importers.slurm_ids import parted, stamp, tasks
from leasebook.importers.slurm_layout import Layout, layout_of
from leasebook.importers.slurm_rows import (
    ENDINGS,
    NO_NODES,
    NO_TIME,
    WAITING_STATES,
    exit_code,
    sizes,
    state_of,
    step_memory,
    time_limit,
)
from leasebook.importers.units import SECOND, duration, moment
from ledger.commands import Fact
from ledger.events import UsageRecorded
from ledger.requests import Request
from ledger.rules.history import UNKNOWN

_POOLS_BY = {"cluster": "cluster", "partition": "partition", "account": "account"}
_LOST = "its job is not in this file, or cannot be understood: export both together"
_TOO_MANY = f"more than {KEPT_MAX} rows stand apart from their jobs: sort the file by JobID"


Row = tuple[int, list[str], str]
"""A row: the number of its line, its columns, and how it stood there."""


@dataclass(slots=True)
class _Job:
    """Rows that stand together: a job's, and those of steps beside it."""

    line: int
    text: str
    row: list[str] | None
    base: str
    cluster: str
    steps: list[Row] | None = None


def read(source: Source, options: Options) -> Iterator[Item]:
    """As :class:`leasebook.importers.base.Reader`."""
    if options.pool_by not in _POOLS_BY:
        raise WrongFormat(
            f"there are no pools by {options.pool_by!r}", f"choose one of {', '.join(_POOLS_BY)}"
        )
    source.keep()
    layout, header = layout_of(source, options, source.lines())
    reading = _Reading(layout, source, options)
    reading.apart.look(reading.fact, reading.step)
    source.rewind()
    job: _Job | None = None
    id_at, raw_at, cluster_at = layout.jobid, layout.jobidraw, layout.cluster
    for number, line in source.lines():
        if number <= header or not line or line.startswith("--"):
            continue
        row = layout.split(line)
        if row is None:
            count = len(line.split(layout.delimiter))
            why = f"{count} columns where {layout.width} were expected"
            yield Reject(number, why, line)
            continue
        base, step = row[id_at] or row[raw_at], ""
        if "." in base:
            base, step = parted(base)
        if not base:
            yield Reject(number, "the job has no id", line)
            continue
        if job is None or job.base != base or job.cluster != row[cluster_at]:
            if job is not None:
                yield from reading.tell(job)
            job = _Job(number, line, None if step else row, base, row[cluster_at])
        elif not step and job.row is None:
            job.line, job.text, job.row = number, line, row
        elif not step:
            yield from reading.tell(job)
            job = _Job(number, line, row, base, row[cluster_at])
        if step:
            job.steps = job.steps or []
            job.steps.append((number, row, line))
    if job is not None:
        yield from reading.tell(job)


_name = lru_cache(maxsize=8192)(fit_name)


class _Reading:
    """Turns jobs with their steps into facts."""

    def __init__(self, layout: Layout, source: Source, options: Options) -> None:
        self.layout = layout
        self.source = source
        self.options = options
        self.apart = Apart(layout, source)
        self.zone: tzinfo = options.zone
        self.pool_column = getattr(layout, _POOLS_BY[options.pool_by])

    def tell(self, job: _Job) -> Iterable[Item]:
        """What a job and its steps come to: facts, and what cannot be understood of them."""
        row = job.row
        fact, ids = None, None
        reject: tuple[Reject, ...] = ()
        if row is not None:
            try:
                if "[" in job.base:
                    ids = tasks(job.base)
                fact = self.fact(row, job.base)
            except ValueError as error:
                reject = (Reject(job.line, str(error), job.text),)
        if job.steps is None and fact is not None and row is not None:
            kin = self.apart.of(row, job.base) if self.apart.kin else None
            pool = self.options.pool or _name(row[self.pool_column]) or "slurm"
            if ids is not None:
                return self._tasks(job, pool, fact, row, ids)
            if kin is None:
                # So is nearly every row.
                return (Found(job.line, pool, fact, job.text),)
        return chain(reject, self._with_steps(job, fact))

    def _tasks(
        self, job: _Job, pool: str, fact: Fact, row: list[str], ids: Iterator[str]
    ) -> Iterator[Found]:
        """The tasks of an array."""
        self.source.attached += 1
        for one in ids:
            self.source.attached -= 1
            key = self._key(row, one, fact.requested_at)
            yield Found(job.line, pool, replace(fact, key=key), job.text)

    def _with_steps(self, job: _Job, fact: Fact | None) -> Iterator[Item]:
        """A job and its steps, wherever those stand."""
        row = job.row
        steps = job.steps or []
        kin = self.apart.of(row or steps[0][1], job.base) if row or steps else None
        is_there = fact is not None or (kin is not None and kin.is_there)
        peak, cpu_ns = yield from self._beside(steps, kin, is_there, is_beside=row is not None)
        if row is None or fact is None:
            return
        if kin is not None and fact.began_at is not None:
            far, far_cpu_ns = kin.used_by(fact.began_at)
            peak = max(peak, far)
            cpu_ns = far_cpu_ns or cpu_ns
            if kin.runs_again(fact.key, fact.began_at):
                fact = replace(fact, key=f"{fact.key}/{stamp(row[self.layout.start])}")
        if fact.began_at is None or fact.ended_at is None:
            # It is measured once it is over.
            peak = cpu_ns = 0
        if cpu_ns and fact.usage is None:
            fact = replace(fact, usage=self._usage(fact, row, cpu_ns, 0))
        if peak and fact.usage is None:
            fact, peak = replace(fact, usage=self._usage(fact, row, 0, peak)), 0
        pool = self.options.pool or _name(row[self.pool_column]) or "slurm"
        yield Found(job.line, pool, fact, job.text)
        if peak:
            self.source.attached -= 1
            usage = self._usage(fact, row, 0, peak)
            yield Found(job.line, pool, replace(fact, usage=usage), job.text)

    def step(self, row: list[str]) -> Step:
        """What the row of a step says. Raises ValueError."""
        at = self.layout
        return Step(
            self._time(row[at.start]),
            step_memory(row[at.maxrss], row[at.ntasks]) or 0,
            duration(row[at.totalcpu]) if row[at.totalcpu] else 0,
        )

    def _beside(
        self, steps: list[Row], kin: Kin | None, is_there: bool, *, is_beside: bool
    ) -> Generator[Reject, None, tuple[int, int]]:
        """What steps that stand together come to: their peak, and their processor time; 0 if unknown.

        Those that are kept with their kin tell it there. Those that cannot be understood are yielded,
        and so are those of which there is no job.
        """
        peak = cpu_ns = 0
        for number, row, text in steps:
            try:
                step = self.step(row)
            except ValueError as error:
                yield Reject(number, str(error), text)
                continue
            name = parted(row[self.layout.jobid] or row[self.layout.jobidraw])[1]
            is_kept = kin is not None and (name, step.began) in kin.steps
            if not is_there or not (is_beside or is_kept):
                yield Reject(number, _LOST if self.apart.is_whole else _TOO_MANY, text)
                continue
            self.source.attached += 1
            if not is_kept:
                cpu_ns += step.cpu_ns
                peak = max(peak, step.peak)
        return peak, cpu_ns

    def _time(self, text: str) -> int | None:
        return None if text in NO_TIME else moment(text, self.zone)

    def _end(self, text: str, began: int | None) -> int | None:
        """When a job ended: of an hour that clocks show twice the second, if the first is too early."""
        ended = self._time(text)
        if ended is not None and began is not None and ended < began and self.zone is not UTC:
            ended = moment(text, self.zone, fold=1)
        return ended

    def _key(self, row: list[str], id_: str, asked_at: int | None) -> str:
        key = f"sacct:{row[self.layout.cluster] or 'slurm'}:{id_}"
        if asked_at is None:
            return key
        submitted = asked_at // SECOND if self.zone is UTC else stamp(row[self.layout.submit])
        return f"{key}@{submitted}"

    def fact(self, row: list[str], base: str) -> Fact:
        """What a job's row says. Raises ValueError."""
        at = self.layout
        state = state_of(row[at.state])
        began = self._time(row[at.start])
        ended = self._end(row[at.end], began)
        asked_at = self._time(row[at.submit])
        nodelist = row[at.nodelist]
        asked, _, placements = sizes(
            row[at.ncpus], row[at.reqcpus], row[at.reqmem], row[at.reqtres], row[at.alloctres],
            row[at.nnodes], nodelist,
        )  # fmt: skip
        cause = ENDINGS.get(state, "released")
        waits = state in WAITING_STATES
        if waits and state != "PENDING" and nodelist not in NO_NODES:
            # It waits again; of the run that was put back, if that is what the row is about.
            waits = began is None or ended is None
        if nodelist in NO_NODES or waits or began is None:
            began, cause = None, "withdrawn"
        if waits:
            ended = None
        seen = None
        if began is not None and ended is None:
            seen = began + (duration(row[at.elapsed]) if row[at.elapsed] else 0)
        metadata = {"state": row[at.state], "exit_code": row[at.exitcode]}
        if row[at.partition]:
            metadata["partition"] = row[at.partition]
        if row[at.qos]:
            metadata["qos"] = row[at.qos]
        if row[at.jobidraw] != base:
            metadata["job_id_raw"] = row[at.jobidraw]
        fact = Fact(
            key=self._key(row, base, asked_at),
            holder=_name(row[at.user]) or _name(row[at.uid]) or UNKNOWN,
            tenant=self.options.tenant or _name(row[at.account]) or "default",
            task=_name(row[at.jobname]),
            request=Request(asked, ttl_ns=time_limit(row[at.timelimit])),
            placements=() if began is None else placements,
            requested_at=asked_at,
            began_at=began,
            ended_at=ended,
            ended_by=cause if ended is not None else "released",
            seen_until=seen,
            metadata=metadata,
        )
        total_ns = duration(row[at.totalcpu]) if row[at.totalcpu] else 0
        if total_ns and began is not None and ended is not None:
            fact = replace(fact, usage=self._usage(fact, row, total_ns, 0))
        return fact

    def _usage(self, fact: Fact, row: list[str], cpu_ns: int, peak: int) -> UsageRecorded:
        """One of the two measures of a run that is over. What was not measured is missing, not zero."""
        assert fact.began_at is not None and fact.ended_at is not None
        return UsageRecorded(
            fact.began_at,
            fact.ended_at,
            {"cpu": cpu_ns // 1_000_000} if cpu_ns else {},
            {"memory": peak} if peak else {},
            {"cpu": "sacct TotalCPU"} if cpu_ns else {"memory": "sacct MaxRSS x NTasks"},
            final=True,
            exit_code=exit_code(row[self.layout.exitcode]),
        )
