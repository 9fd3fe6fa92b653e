"""The Standard Workload Format: one job on each line, 18 numbers, after header lines with ``;``.

From https://www.cs.huji.ac.il/labs/parallel/workload/swf.html: job, submit, wait, run (seconds),
processors, processor time (average, seconds), memory used (average, KB per processor), processors,
time and memory requested, status, user, group, executable, queue, partition, preceding job, think
time. -1 is unknown. Times count from the header's ``UnixStartTime``, which is UTC. The format names
no nodes: a job stands somewhere in its pool, unless its line goes on in braces, ``{n1,n2} {queue}``
or ``{nodes=n1,n2}``.

What is taken from where it is not plain: a job whose wait is unknown began when it was submitted
(such logs give its start there). A negative run time is none at all. A job without a run time is
open, known to hold for as long as the processor time it used. Lines of status 2, 3 and 4 tell of
parts of a job that has a line of its own, of status 0, 1 or 5; they are counted as skipped and left
out, and a log of nothing else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Final

from leasebook.importers.base import (
    Found,
    Inventory,
    Item,
    Options,
    Reject,
    Source,
    WrongFormat,
)
from leasebook.importers.hostlist import BadHostlist, expand
from ledger.amounts import AMOUNT_MAX
from ledger.commands import Fact
from ledger.events import UsageRecorded
from ledger.requests import Amounts, NodeSpec, Placement, Request
from ledger.rules.history import UNKNOWN as UNKNOWN_HOLDER
from reports.lives import UNPLACED

FIELDS: Final = 18
NS_PER_S: Final = 1_000_000_000
KB: Final = 1024

# The places of the fields that are read, counted from 0.
JOB, SUBMIT, WAIT, RUN, PROCESSORS, CPU_TIME, MEMORY_USED = range(7)
PROCESSORS_ASKED, TIME_ASKED, MEMORY_ASKED, STATUS, USER, GROUP, PROGRAM, QUEUE, PARTITION = range(
    7, 16
)

PARTS: Final = frozenset({2, 3, 4})
CANCELLED: Final = 5
UNKNOWN: Final = -1
NUMBER_MAX: Final = 10**15

_HEADER = re.compile(r";\s*([A-Za-z][A-Za-z ]*?)\s*:\s*(.*)")
_BRACES = re.compile(r"\{([^{}]*)\}")
_NODES: Final = frozenset({"nodes", "node", "nodelist", "node_list", "hosts", "allocated_nodes"})

Number = int | Decimal


class BadLine(Exception):
    """A line that cannot be understood, and why."""


@dataclass(slots=True)
class Header:
    """What the header lines say: name (small letters) → text."""

    said: dict[str, str] = field(default_factory=dict)

    def take(self, line: str) -> None:
        """Take in one header line; free text is left."""
        match = _HEADER.match(line)
        if match and match[1].lower() not in self.said:
            self.said[match[1].lower()] = match[2]

    def whole(self, name: str) -> int | None:
        """A whole number above zero that the header gives, None where it does not."""
        match = re.match(r"\d+", self.said.get(name, ""))
        value = int(match[0]) if match and len(match[0]) <= 15 else 0
        return value or None

    @property
    def known(self) -> bool:
        """Whether this is the header of such a file at all."""
        return not self.said.keys().isdisjoint({"version", "unixstarttime", "maxprocs", "maxnodes"})


def read(source: Source, options: Options) -> Iterator[Item]:
    """The jobs of a log, after the size of its machine where the header gives it."""
    header = Header()
    reader: _Reader | None = None
    begun = False
    for number, line in source.lines():
        if line.startswith(";"):
            header.take(line)
            continue
        if not line.strip():
            continue
        if reader is None:
            _check_first(source, header, number, line)
            reader = _Reader(source, options, header)
        try:
            found = reader.found(number, numbers(line), line)
        except BadLine as error:
            yield Reject(number, str(error), line)
            continue
        if found is None:
            source.skipped += 1
            continue
        if not begun:
            begun = True
            yield from reader.inventory()
        yield found
    if source.skipped and not begun:
        raise WrongFormat(
            f"{source.name} holds only parts of jobs: {source.skipped} lines of status 2, 3 or 4",
            "name a log with the lines of the jobs themselves, of status 0, 1 or 5",
        )
    if reader is None and not header.known:
        hint = "name a file in the Standard Workload Format"
        raise WrongFormat(f"{source.name} holds no jobs", hint)


def _check_first(source: Source, header: Header, number: int, line: str) -> None:
    """Raise WrongFormat where neither the header nor the first line is of this format."""
    if header.known:
        return
    try:
        numbers(line)
    except BadLine as error:
        raise WrongFormat(
            f"{source.name} is not in the Standard Workload Format: line {number} {error}",
            f"each line has {FIELDS} numbers; or choose another --format",
        ) from None


def numbers(line: str) -> list[Number]:
    """The fields of a line. Raises BadLine where they are too few, or no numbers."""
    words = line.partition("{")[0].split()
    if len(words) < FIELDS:
        raise BadLine(f"has {len(words)} fields instead of {FIELDS}")
    try:
        return [int(word) for word in words[:FIELDS]]
    except ValueError:
        return [_number(word) for word in words[:FIELDS]]


def _number(word: str) -> Number:
    try:
        value = Decimal(word)
    except InvalidOperation:
        raise BadLine(f"has {word[:40]!r} where a number belongs") from None
    if not value.is_finite() or abs(value) > NUMBER_MAX:
        raise BadLine(f"has {word[:40]!r}, which is out of range")
    return int(value) if value == int(value) else value


def _ns(seconds: Number) -> int:
    return int(seconds * NS_PER_S)


class _Reader:
    """Makes facts of lines."""

    def __init__(self, source: Source, options: Options, header: Header) -> None:
        self.pool = options.pool or source.stem
        self.header = header
        self._by_partition = options.pool is None and options.pool_by == "partition"
        self._tenant = options.tenant
        self._kb = 1 if options.memory_in_bytes else KB
        self._start_ns = (header.whole("unixstarttime") or 0) * NS_PER_S

    def inventory(self) -> Iterator[Inventory]:
        """The machine as one node, where the header says how many processors it has."""
        processors = self.header.whole("maxprocs")
        if processors is None or self._by_partition:
            return
        nodes = self.header.whole("maxnodes")
        labels = None if nodes is None else {"nodes": str(nodes)}
        spec = NodeSpec(self.pool, {"cpu": processors * 1000}, labels)
        yield Inventory(self.pool, (spec,), self._start_ns)

    def found(self, number: int, job: list[Number], line: str) -> Found | None:
        """What a line says; None for what is told elsewhere. Raises BadLine."""
        if job[STATUS] in PARTS:
            return None
        if job[SUBMIT] < 0:
            if job[SUBMIT] == UNKNOWN:
                raise BadLine("has no time of submission")
            raise BadLine(f"was submitted {-job[SUBMIT]} s before the log begins")
        if not all(-NUMBER_MAX <= value <= NUMBER_MAX for value in job):
            raise BadLine("has a number that is out of range")
        nodes, more = _appended(line)
        submitted = self._start_ns + _ns(job[SUBMIT])
        waited = None if job[WAIT] == UNKNOWN else max(0, _ns(job[WAIT]))
        amounts = self._amounts(job)
        began = submitted + (waited or 0)
        ended, seen, how = _end(job, began)
        held = how != "withdrawn"
        limit = job[TIME_ASKED]
        fact = Fact(
            key=f"swf:{self.pool}:{job[JOB] if job[JOB] >= 0 else f'line {number}'}",
            holder=UNKNOWN_HOLDER if job[USER] < 0 else f"user{job[USER]}",
            request=Request(amounts, max_age_ns=_ns(limit) if limit > 0 else None),
            tenant=self._tenant or "default",
            placements=_placed(amounts, nodes) if held else (),
            requested_at=None if waited is None and held else submitted,
            began_at=began if held else None,
            ended_at=ended,
            ended_by=how,
            seen_until=seen,
            usage=None if ended is None else self._usage(job, began, ended),
            metadata=_metadata(job, more),
        )
        by_partition = self._by_partition and job[PARTITION] >= 0
        return Found(
            number, f"{self.pool}-{job[PARTITION]}" if by_partition else self.pool, fact, line
        )

    def _amounts(self, job: list[Number]) -> Amounts:
        """What it held: the processors it got (else asked for), and the memory it asked for."""
        processors = _processors(job)
        amounts: Amounts = {"cpu": int(processors * 1000)} if processors else {}
        if processors and job[MEMORY_ASKED] > 0:
            amounts["memory"] = int(job[MEMORY_ASKED] * self._kb * processors)
        if any(amount > AMOUNT_MAX for amount in amounts.values()):
            raise BadLine("asks for more than can be counted")
        return amounts

    def _usage(self, job: list[Number], began: int, ended: int) -> UsageRecorded | None:
        """What it used: averages over its processors, so that they count once for each."""
        processors = _processors(job)
        used: Amounts = {}
        if processors and job[CPU_TIME] >= 0:
            used["cpu"] = int(job[CPU_TIME] * 1000 * processors)
        if processors and job[MEMORY_USED] >= 0:
            used["memory"] = (
                int(job[MEMORY_USED] * self._kb * processors * (ended - began)) // NS_PER_S
            )
        if not used or ended <= began or any(amount > AMOUNT_MAX for amount in used.values()):
            return None
        basis = dict.fromkeys(used, "swf")
        return UsageRecorded(began, ended, used, {}, basis, samples=1, final=True)


def _processors(job: list[Number]) -> Number:
    given, asked = job[PROCESSORS], job[PROCESSORS_ASKED]
    return given if given > 0 else max(asked, 0)


def _end(job: list[Number], began: int) -> tuple[int | None, int | None, str]:
    """(ended, seen until, by) of a job that began, or would have begun, at a time."""
    run, cancelled = job[RUN], job[STATUS] == CANCELLED
    if cancelled and run <= 0 and job[PROCESSORS] <= 0:
        return began, None, "withdrawn"
    if run == UNKNOWN:
        return None, began + max(0, _ns(job[CPU_TIME])), "released"
    return began + max(0, _ns(run)), None, "forced" if cancelled else "released"


def _appended(line: str) -> tuple[list[str], list[str]]:
    """What stands in braces behind a job: its nodes, and whatever else, as it is."""
    nodes: list[str] = []
    more: list[str] = []
    for place, text in enumerate(_BRACES.findall(line) if "{" in line else ()):
        name, equals, value = text.partition("=")
        if not equals:
            name, equals, value = text.partition(":")
        if equals and name.strip().lower() in _NODES:
            nodes = _names(value)
        elif not equals and place == 0:
            nodes = _names(text)
        else:
            more.append(text.strip())
    return nodes, more


def _names(text: str) -> list[str]:
    """Nodes between spaces, commas or semicolons; ranges such as ``n[01-03]`` stand for each."""
    try:
        return list(expand(re.sub(r"[\s;]+", ",", text.strip())))
    except BadHostlist as error:
        raise BadLine(str(error)) from None


def _placed(amounts: Amounts, nodes: list[str]) -> tuple[Placement, ...]:
    """The amounts spread over the nodes as evenly as whole base units can be."""
    names = nodes or [UNPLACED]
    parts: list[Placement] = []
    for index, name in enumerate(names):
        share = {}
        for resource, amount in amounts.items():
            each, rest = divmod(amount, len(names))
            share[resource] = each + (index < rest)
        parts.append(Placement(name, share, {}))
    return tuple(parts)


def _metadata(job: list[Number], more: list[str]) -> dict[str, object]:
    """What has no place of its own, where it is known."""
    names = ((STATUS, "status"), (GROUP, "group"), (PROGRAM, "program"), (QUEUE, "queue"))
    kept: dict[str, object] = {
        name: int(job[place])
        for place, name in (*names, (PARTITION, "partition"))
        if job[place] >= 0
    }
    if job[RUN] < UNKNOWN:
        kept["run_time_s"] = str(job[RUN])
    if job[WAIT] < UNKNOWN:
        kept["wait_s"] = str(job[WAIT])
    if more:
        kept["appended"] = more
    return kept
