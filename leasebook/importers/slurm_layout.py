"""How a file of ``sacct`` is laid out: its delimiter, and where each column stands in a row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from leasebook.importers.base import Options, Source, WrongFormat

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


class Layout:
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
        """Raises WrongFormat where a column is missing that nothing can be understood without."""
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


def layout_of(
    source: Source, options: Options, lines: Iterator[tuple[int, str]]
) -> tuple[Layout, int]:
    """The layout, and the number of the line that is the header; 0 without one. Raises WrongFormat."""
    first = next(((n, line) for n, line in lines if line.strip()), None)
    if first is None:
        if options.columns:
            return Layout(options.columns, options.delimiter or "|"), 0
        raise WrongFormat(f"{source.name} is empty", f"the format sacct is {_EXPECTED}")
    number, line = first
    delimiters = (options.delimiter,) if options.delimiter else _DELIMITERS
    for delimiter in delimiters:
        names = {part.strip().lower() for part in line.split(delimiter)}
        if len(names) > 1 and names & {"jobid", "jobidraw"} and names & {*_TIMES, "state"}:
            return Layout(options.columns or line.split(delimiter), delimiter), number
    columns = options.columns or XDMOD
    for delimiter in delimiters:
        layout = Layout(columns, delimiter)
        row = layout.split(line)
        if row is not None and (options.columns or _is_row(layout, row)):
            return layout, 0
    width = len(line.split("|"))
    raise WrongFormat(
        f"{source.name} has no header, and its first line has {width} columns, not the {len(columns)}"
        f" of {'--columns' if options.columns else 'the layout ' + ', '.join(XDMOD[:4]) + ', …'}",
        f"the format sacct is {_EXPECTED}; name its columns with --columns",
    )


def _is_row(layout: Layout, row: list[str]) -> bool:
    """Whether what should be times are."""
    times = (row[layout.submit], row[layout.start], row[layout.end])
    return all(_LOOKS_LIKE_TIME.match(text) for text in times)
