"""``import``: what really happened elsewhere, from a file into an observed pool."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leasebook.cli.options import session_of, verb
from ledger.amounts import check_name
from ledger.errors import InvalidInput, LedgerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

    from leasebook.importers.base import Options
    from leasebook.importers.rejects import Rejects
    from leasebook.importers.runner import Reading, Summary
    from ledger.writer import Writer

_FORMATS = ("sacct", "swf", "openb", "openstack", "csv")
_SHOWN = 5


@verb("import")
@click.argument("file", metavar="FILE")
@click.option("--format", "format", type=click.Choice(_FORMATS), required=True, help="Its format.")
@click.option("--pool", metavar="POOL", help="Into this pool; it is opened if it is missing.")
@click.option(
    "--pool-by",
    type=click.Choice(["cluster", "partition", "account"]),
    default="cluster",
    help="sacct: what makes a pool, unless --pool names one (default: cluster).",
)
@click.option(
    "--columns", metavar="A,B,…", help="Names of the columns, for a file without a header."
)
@click.option(
    "--map",
    "maps",
    multiple=True,
    metavar="NAME=COLUMN[:UNIT],…",
    help="csv: start=Begin,end=End:ms,holder=User,cpu=Cores,memory=Mem:GiB,id=Job …",
)
@click.option("--delimiter", metavar="TEXT", help="What stands between columns; else it is found.")
@click.option("--tz", metavar="ZONE", help="Of times without a zone, such as Europe/Berlin (UTC).")
@click.option(
    "--origin",
    metavar="WHEN",
    help="openb: when its time 0 was, such as 2023-01-01T00:00:00Z (1970).",
)
@click.option("--tenant", metavar="T", help="Record all of it as this tenant's.")
@click.option("--memory-in-bytes", is_flag=True, help="swf: memory is in bytes, not kilobytes.")
@click.option("--rejects", metavar="FILE", help="Where rows go that cannot be understood.")
@click.pass_context
def import_command(
    ctx: click.Context, /, file: str, format: str, rejects: str | None, **said: Any
) -> None:
    """Record what happened elsewhere. FILE may be gzip, and - is standard input.

    Facts keep their own times, and each is recorded once: a second import of a file changes nothing,
    and one that was interrupted is simply begun again. Rows that cannot be understood are kept in
    FILE.rejects.csv with the reason. In lines of text, bytes that are not UTF-8 are read as Latin-1.

    sacct: name JobID, Submit and State among the columns, the same ones each time, and keep steps in one
    file with their jobs: a job that is put back keeps its id and gets another time of submission.
    """
    from leasebook.importers.rejects import Rejects, check_place
    from leasebook.importers.runner import Reading

    session = session_of(ctx)
    session.named()
    name = "stdin" if file == "-" else file
    kept_in = Path(rejects or f"{name}.rejects.csv")
    if file != "-" and kept_in.exists() and Path(file).exists() and kept_in.samefile(file):
        raise InvalidInput(f"the rejects would overwrite {file} itself", "name another --rejects")
    check_place(kept_in)
    with (
        Reading(format, file, _options(**said)) as reading,
        session.open(create=True) as room,
        Rejects(kept_in) as kept,
    ):
        try:
            summary = _run(room.ledger.writer, reading, kept)
        except KeyboardInterrupt:
            session.note(f"what was read of {name} so far is recorded: import it again to go on")
            raise
        except LedgerUnavailable as error:
            # What the error says is true of the last transaction; those before it are done.
            error.hint = f"{error.hint}; what was read before is recorded: import it again to go on"
            raise
    if reading.source.recoded:
        session.note(f"{reading.source.recoded:,} lines of {name} are no UTF-8: read as Latin-1")
    session.answer(_document(summary, kept, file, format), _text(summary, kept))


def _options(**said: Any) -> Options:
    from leasebook.importers.base import Options

    for kind in ("pool", "tenant"):
        if said[kind] is not None:
            check_name(kind, said[kind])
    columns = said["columns"]
    delimiter = said["delimiter"]
    return Options(
        pool=said["pool"],
        pool_by=said["pool_by"],
        columns=None if columns is None else tuple(c.strip() for c in columns.split(",")),
        delimiter=None if delimiter is None else delimiter.replace("\\t", "\t"),
        mapping=_mapping(said["maps"]),
        zone=_zone(said["tz"]),
        tenant=said["tenant"],
        memory_in_bytes=said["memory_in_bytes"],
        origin=_origin(said["origin"]),
        now=time.time_ns(),
    )


def _mapping(maps: tuple[str, ...]) -> dict[str, str]:
    mapping = {}
    for pair in (pair for text in maps for pair in text.split(",")):
        name, equals, column = pair.partition("=")
        if not equals or not name.strip() or not column.strip():
            raise InvalidInput(
                f"--map {pair[:40]!r} is not NAME=COLUMN", "write start=Begin,end=End"
            )
        if name.strip() in mapping:
            raise InvalidInput(f"--map says twice what {name.strip()[:40]!r} is", "say it once")
        mapping[name.strip()] = column.strip()
    return mapping


def _origin(text: str | None) -> int:
    """A time in ns UTC, 0 where none is given. Raises InvalidInput."""
    from leasebook.when import parse_when

    if text is None:
        return 0
    kind, when = parse_when(text, time.time_ns())
    if kind == "position":
        raise InvalidInput(
            f"--origin {text[:40]!r} is a position", "give a time such as 2023-01-01T00:00:00Z"
        )
    return when


def _zone(name: str | None) -> tzinfo:
    from datetime import UTC

    if name is None or name.upper() in ("UTC", "Z"):
        return UTC
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        raise InvalidInput(
            f"there is no time zone {name[:40]!r}", "give one such as Europe/Berlin"
        ) from None


def _run(writer: Writer, reading: Reading, kept: Rejects) -> Summary:
    """Import, with a bar on stderr where that is a terminal."""
    from leasebook.importers.runner import Runner

    if sys.stderr is None or not sys.stderr.isatty():
        return Runner(writer, reading, kept).run()
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(reading.source.name, total=reading.source.size, rows=0)

        def show(done: int, rows: int) -> None:
            bar.update(task, completed=done, rows=rows)

        on_progress: Callable[[int, int], None] = show
        return Runner(writer, reading, kept, on_progress).run()


def _document(summary: Summary, kept: Rejects, file: str, format: str) -> dict[str, Any]:
    from leasebook.when import rfc3339

    facts = ("new", "added", "corrected", "known", "elsewhere")
    return {
        "file": file,
        "format": format,
        "rows": summary.rows,
        "nodes": summary.nodes,
        "facts": {name: getattr(summary, name) for name in facts},
        "events": summary.events,
        "skipped": summary.skipped,
        "rejects": {
            "count": kept.count,
            "file": str(kept.path) if kept.count else None,
            "first": [
                {"line": one.line, "reason": one.reason, "text": one.text} for one in kept.first
            ],
        },
        "open": summary.open,
        "waiting": summary.waiting,
        "open_is_least": summary.open_is_least,
        "over_capacity": [
            {
                "pool": one.pool,
                "node": one.node,
                "resource": one.resource,
                "held": one.held,
                "capacity": one.capacity,
                "at": rfc3339(one.at),
            }
            for one in summary.over_capacity
        ],
        "pools": summary.pools,
        "pools_opened": summary.opened,
        "since": rfc3339(summary.since),
        "until": rfc3339(summary.until),
        "seconds": round(summary.seconds, 3),
    }


def _text(summary: Summary, kept: Rejects) -> str:
    from leasebook.when import rfc3339

    rate = summary.rows / summary.seconds if summary.seconds else 0
    lines = [
        f"imported  {summary.rows:,} rows in {summary.seconds:.1f} s ({rate:,.0f} rows/s),"
        f" {summary.events:,} events",
        f"facts     {summary.new:,} new, {summary.added:,} added to, {summary.corrected:,} corrected,"
        f" {summary.known:,} known",
    ]
    if summary.skipped:
        lines.append(f"skipped   {summary.skipped:,} records about something else")
    if summary.nodes:
        lines.append(f"nodes     {summary.nodes:,} announced")
    if summary.elsewhere:
        lines.append(f"          {summary.elsewhere:,} of them stay in the pool they are known in")
    pools = [
        f"{name} ({count:,} facts{', opened' if name in summary.opened else ''})"
        for name, count in sorted(summary.pools.items())[:_SHOWN]
    ]
    more = len(summary.pools) - _SHOWN
    lines.append(f"pools     {', '.join(pools) or 'none'}{f' and {more} more' if more > 0 else ''}")
    if summary.since is not None:
        lines.append(f"times     {rfc3339(summary.since)} to {rfc3339(summary.until)}")
    least = "at least " if summary.open_is_least else ""
    lines.append(f"open      {least}{summary.open:,} never ended, {summary.waiting:,} still wait")
    lines += _overloaded(summary)
    if kept.count:
        lines.append(f"rejects   {kept.count:,} rows, kept in {kept.path}:")
        lines += [f"          line {one.line}: {one.reason}" for one in kept.first]
    return "\n".join(lines)


def _overloaded(summary: Summary) -> list[str]:
    from ledger.amounts import format_amount

    over = summary.over_capacity
    if not over:
        return []
    lines = [f"over      {len(over):,} times a node held more than it has:"]
    for one in over[:_SHOWN]:
        held = format_amount(one.resource, one.held)
        has = format_amount(one.resource, one.capacity)
        lines.append(f"          {one.pool} {one.node}: {held} of {has} {one.resource}")
    return lines
