"""``sacct``: the accounting of Slurm, as ``sacct -P`` writes it, with or without a header.

A job's steps follow it and tell what it used; they belong to their job. A job that ran on no node
never held anything. Everything a row says keeps its time; times without a zone are UTC, or those of
``--tz``. The key is ``sacct:CLUSTER:JOBIDRAW``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from functools import lru_cache

from leasebook.importers.base import Found, Item, Options, Reject, Source, WrongFormat
from leasebook.importers.slurm_rows import (
    ENDINGS,
    NO_NODES,
    NO_TIME,
    WAITING_STATES,
    exit_code,
    sizes,
    step_memory,
    time_limit,
)
from leasebook.importers.units import duration, moment
from ledger.amounts import NAME_LENGTH_MAX
from ledger.commands import Fact
from ledger.events import UsageRecorded
from ledger.requests import Request
from ledger.rules.history import UNKNOWN

# fmt: off
XDMOD = (
    "jobid", "jobidraw", "cluster", "partition", "qos", "account", "group",
    "gid", "user", "uid", "submit", "eligible", "start", "end",
    "elapsed", "exitcode", "state", "nnodes", "ncpus", "reqcpus", "reqmem",
    "reqtres", "alloctres", "timelimit", "nodelist", "jobname",
)
# fmt: on
"""The columns that Open XDMoD asks for: what a file without a header is taken for."""

_DELIMITERS = ("^|^", "|", "\t", ";", ",")
_TIMES = ("start", "end", "submit", "eligible")
_EXPECTED = "what `sacct -P` writes: JobID, Start, End, Submit, NodeList, AllocTRES, … between |"
_LOOKS_LIKE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d|Unknown|None|\d{9,11}")
_POOLS_BY = {"cluster": "cluster", "partition": "partition", "account": "account"}


class _Layout:
    """Where each column stands in a row; −1, the empty end, for one that is not there."""

    __slots__ = (
        "account", "alloccpus", "alloctres", "cluster", "delimiter", "elapsed", "eligible", "end",
        "exitcode", "jobid", "jobidraw", "jobname", "last_is_free", "maxrss", "ncpus", "nnodes",
        "nodelist", "ntasks", "partition", "qos", "reqcpus", "reqmem", "reqtres", "start", "state",
        "submit", "timelimit", "totalcpu", "uid", "user", "width",
    )  # fmt: skip
    account: int
    alloccpus: int
    alloctres: int
    cluster: int
    elapsed: int
    eligible: int
    end: int
    exitcode: int
    jobid: int
    jobidraw: int
    jobname: int
    maxrss: int
    ncpus: int
    nnodes: int
    nodelist: int
    ntasks: int
    partition: int
    qos: int
    reqcpus: int
    reqmem: int
    reqtres: int
    start: int
    state: int
    submit: int
    timelimit: int
    totalcpu: int
    uid: int
    user: int

    def __init__(self, columns: Sequence[str], delimiter: str) -> None:
        self.delimiter = delimiter
        names = [name.strip().lower().split("%")[0] for name in columns]
        if names and not names[-1]:
            names.pop()
        self.width = len(names)
        self.last_is_free = bool(names) and names[-1] in ("jobname", "submitline", "comment")
        given = {"width", "delimiter", "last_is_free"}
        for name in self.__slots__:
            if name not in given:
                setattr(self, name, names.index(name) if name in names else -1)
        if self.ncpus < 0:
            self.ncpus = self.alloccpus
        if self.jobidraw < 0:
            self.jobidraw = self.jobid
        if self.jobid < 0:
            self.jobid = self.jobidraw
        missing = [] if self.jobid >= 0 else ["JobID"]
        if not any(name in names for name in _TIMES):
            missing.append("a time (Start, End or Submit)")
        if missing:
            raise WrongFormat(
                f"the columns {', '.join(names)[:120]} lack {' and '.join(missing)}",
                f"the format sacct is {_EXPECTED}",
            )

    def split(self, line: str) -> list[str] | None:
        """A row's columns and an empty one; None where their number is wrong."""
        parts = line.split(self.delimiter)
        extra = len(parts) - self.width
        if extra:
            if extra == 1 and not parts[-1]:
                # `sacct -p` ends each row with the delimiter: the empty one is there.
                return parts
            if extra < 0 or not self.last_is_free:
                return None
            parts[self.width - 1 :] = [self.delimiter.join(parts[self.width - 1 :])]
        parts.append("")
        return parts


@dataclass(slots=True)
class _Job:
    """A job's row, and what its steps have told so far."""

    line: int
    text: str
    row: list[str] | None
    base: str
    cpu_ns: int = 0
    peak: int | None = None
    steps: list[tuple[int, list[str], str]] = field(default_factory=list)


def read(source: Source, options: Options) -> Iterator[Item]:
    """As :class:`leasebook.importers.base.Reader`."""
    if options.pool_by not in _POOLS_BY:
        raise WrongFormat(
            f"there are no pools by {options.pool_by!r}", f"choose one of {', '.join(_POOLS_BY)}"
        )
    lines = source.lines()
    layout, first = _layout_of(source, options, lines)
    reading = _Reading(layout, source, options)
    job: _Job | None = None
    for number, line in _chain(first, lines):
        if not line or line.startswith("--"):
            continue
        row = layout.split(line)
        if row is None:
            count = len(line.split(layout.delimiter))
            why = f"{count} columns where {layout.width} were expected"
            yield Reject(number, why, line)
            continue
        raw = row[layout.jobidraw]
        base, dot, _ = raw.partition(".")
        if not base:
            yield Reject(number, "the job has no id", line)
            continue
        if dot and job is not None and job.base == base:
            job.steps.append((number, row, line))
            continue
        if job is not None:
            yield from reading.tell(job)
        if dot:
            # Its job stands elsewhere: what the step tells is added to it there.
            job = _Job(number, line, None, base, steps=[(number, row, line)])
        else:
            job = _Job(number, line, row, base)
    if job is not None:
        yield from reading.tell(job)


def _chain(
    first: tuple[int, str] | None, lines: Iterator[tuple[int, str]]
) -> Iterator[tuple[int, str]]:
    if first is not None:
        yield first
    yield from lines


def _layout_of(
    source: Source, options: Options, lines: Iterator[tuple[int, str]]
) -> tuple[_Layout, tuple[int, str] | None]:
    """The layout, and the first row where the file has no header. Raises WrongFormat."""
    first = next(((n, line) for n, line in lines if line.strip()), None)
    if first is None:
        if options.columns:
            return _Layout(options.columns, options.delimiter or "|"), None
        raise WrongFormat(f"{source.name} is empty", f"the format sacct is {_EXPECTED}")
    line = first[1]
    delimiters = (options.delimiter,) if options.delimiter else _DELIMITERS
    for delimiter in delimiters:
        names = {part.strip().lower() for part in line.split(delimiter)}
        if len(names) > 1 and names & {"jobid", "jobidraw"} and names & {*_TIMES, "state"}:
            return _Layout(options.columns or line.split(delimiter), delimiter), None
    columns = options.columns or XDMOD
    for delimiter in delimiters:
        layout = _Layout(columns, delimiter)
        row = layout.split(line)
        if row is not None and (options.columns or _is_row(layout, row)):
            return layout, first
    width = len(line.split("|"))
    raise WrongFormat(
        f"{source.name} has no header, and its first line has {width} columns, not the {len(columns)}"
        f" of {'--columns' if options.columns else 'the layout ' + ', '.join(XDMOD[:4]) + ', …'}",
        f"the format sacct is {_EXPECTED}; name its columns with --columns",
    )


def _is_row(layout: _Layout, row: list[str]) -> bool:
    """Whether what should be times are."""
    times = (row[layout.submit], row[layout.start], row[layout.end])
    return all(_LOOKS_LIKE_TIME.match(text) for text in times)


@lru_cache(maxsize=8192)
def _name(text: str) -> str | None:
    """A name made fit to be one: printable, without spaces at its ends, not too long."""
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else "�" for letter in text)
    return text.strip()[:NAME_LENGTH_MAX].strip() or None


class _Reading:
    """Turns jobs with their steps into facts."""

    def __init__(self, layout: _Layout, source: Source, options: Options) -> None:
        self.layout = layout
        self.source = source
        self.options = options
        self.zone: tzinfo = options.zone
        self.pool_column = getattr(layout, _POOLS_BY[options.pool_by])

    def tell(self, job: _Job) -> Iterator[Item]:
        """What a job and its steps come to: a fact, and what cannot be understood of them."""
        good = []
        for number, row, text in job.steps:
            try:
                self._take_step(job, row)
                good.append(row)
            except ValueError as error:
                yield Reject(number, str(error), text)
        if job.row is None and not good:
            return
        # Where the job's own row is missing, its first step stands for it.
        self.source.attached += len(good) - (job.row is None)
        try:
            row = good[0] if job.row is None else job.row
            fact = self._fact_of_steps(job, row) if job.row is None else self._fact(job, row)
            pool = self.options.pool or _name(row[self.pool_column]) or "slurm"
            yield Found(job.line, pool, fact, job.text)
        except ValueError as error:
            yield Reject(job.line, str(error), job.text)

    def _take_step(self, job: _Job, row: list[str]) -> None:
        at = self.layout
        memory = step_memory(row[at.maxrss], row[at.ntasks])
        if memory is not None:
            job.peak = max(memory, job.peak or 0)
        if row[at.totalcpu]:
            job.cpu_ns += duration(row[at.totalcpu])

    def _time(self, text: str) -> int | None:
        return None if text in NO_TIME else moment(text, self.zone)

    def _key(self, job: _Job, row: list[str]) -> str:
        return f"sacct:{row[self.layout.cluster] or 'slurm'}:{job.base}"

    def _fact(self, job: _Job, row: list[str]) -> Fact:
        """A job's fact. Raises ValueError."""
        at = self.layout
        state = row[at.state].partition(" ")[0].rstrip("+").upper()
        began, ended = self._time(row[at.start]), self._time(row[at.end])
        asked_at = self._time(row[at.submit])
        nodelist = row[at.nodelist]
        asked, _, placements = sizes(
            row[at.ncpus], row[at.reqcpus], row[at.reqmem], row[at.reqtres], row[at.alloctres],
            row[at.nnodes], nodelist,
        )  # fmt: skip
        cause = ENDINGS.get(state, "released")
        if nodelist in NO_NODES or state in WAITING_STATES or began is None:
            began, cause = None, "withdrawn"
        if ended is not None and state in WAITING_STATES:
            ended = None
        seen = None
        if began is not None and ended is None:
            seen = began + (duration(row[at.elapsed]) if row[at.elapsed] else 0)
        metadata = {"state": row[at.state], "exit_code": row[at.exitcode]}
        if row[at.partition]:
            metadata["partition"] = row[at.partition]
        if row[at.qos]:
            metadata["qos"] = row[at.qos]
        if row[at.jobid] != job.base:
            metadata["job"] = row[at.jobid]
        return Fact(
            key=self._key(job, row),
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
            usage=self._usage(job, row, began, ended),
            metadata=metadata,
        )

    def _fact_of_steps(self, job: _Job, row: list[str]) -> Fact:
        """What steps say of a job that stands elsewhere. Raises ValueError."""
        at = self.layout
        began, ended = self._time(row[at.start]), self._time(row[at.end])
        usage = self._usage(job, row, began, ended)
        return Fact(
            key=self._key(job, row),
            holder=_name(row[at.user]) or UNKNOWN,
            tenant=self.options.tenant or _name(row[at.account]) or "default",
            request=Request({}),
            seen_from=began,
            seen_until=ended,
            usage=usage,
        )

    def _usage(
        self, job: _Job, row: list[str], began: int | None, ended: int | None
    ) -> UsageRecorded | None:
        """What was measured, once it is over. What was not measured is missing, not zero."""
        if began is None or ended is None:
            return None
        at = self.layout
        total = row[at.totalcpu]
        cpu_ns = duration(total) if total and job.row is not None else job.cpu_ns
        cpu_ns = cpu_ns or job.cpu_ns
        if not cpu_ns and not job.peak:
            return None
        used = {"cpu": cpu_ns // 1_000_000} if cpu_ns else {}
        peak = {"memory": job.peak} if job.peak else {}
        basis = {"cpu": "sacct TotalCPU"} if cpu_ns else {}
        if peak:
            basis["memory"] = "sacct MaxRSS x NTasks"
        return UsageRecorded(
            began, ended, used, peak, basis, final=True, exit_code=exit_code(row[at.exitcode])
        )
