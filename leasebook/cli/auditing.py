"""The verbs ``audit`` and ``export``: a trail that others can follow, and the log for other tools."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from leasebook.cli.failures import UNPROVEN, Failure, about_file
from leasebook.cli.options import filters, session_of, verb
from leasebook.cli.session import Room, print_json_text, to_json

if TYPE_CHECKING:
    from projections.engine import Engine
    from reports.audit import Asked, Trail
    from reports.exporting.exports import Table

_SUBJECT = re.compile(r"[AR][1-9][0-9]{0,17}\Z", re.ASCII)
FORMATS = ("text", "json", "csv", "cloudevents")
EXPORT_FORMATS = ("jsonl", "parquet", "cloudevents")


# --- audit ---------------------------------------------------------------------------------------


@verb("audit")
@click.argument("subject", metavar="[A17|R19]", required=False)
@filters
@click.option("--type", "type", metavar="TYPE", help="Events of this type only, such as reclaimed.")
@click.option("--since", metavar="WHEN", help="What happened from this time or position on.")
@click.option("--until", metavar="WHEN", help="What happened before this time or position.")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="text (the default), json, csv, cloudevents.",
)
@click.option("--out", metavar="FILE", help="Write it to this file; - is stdout.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.pass_context
def audit_command(
    ctx: click.Context,
    /,
    subject: str | None,
    since: str | None,
    until: str | None,
    form: str | None,
    out: str | None,
    force: bool,
    **wanted: Any,
) -> int:
    """A trail of what happened, in sentences, that a person who was not there can follow.

    Of an allocation or a refusal, a holder, a task, a tenant, a pool, a stretch of time; at its end
    what it rests on. The exit code is 6 where an event shown is not what was recorded.
    """
    session = session_of(ctx)
    to_file = out not in (None, "-")
    if session.json and not to_file and form not in (None, "json"):
        raise click.UsageError(f"--json and --format {form} are two answers; give one", ctx)
    if force and not to_file:
        raise click.UsageError("--force is for --out FILE", ctx)
    form = form or ("json" if session.json else "text")
    asked = asked_in(subject, since, until, wanted)
    from reports.audit import audit

    with session.open(read_only=True) as room:
        trail = audit(room.ledger.writer.log, asked, now=time.time_ns())
    _check_type(asked, trail)
    if to_file and out is not None:
        _write(trail, form, out, force)
        rows = len(trail.entries)
        document = {"report": "audit", "format": form, "path": out, "rows": rows}
        session.answer({**document, "ok": trail.rests.ok}, f"{out}  {rows} events")
    elif form in ("json", "cloudevents"):
        print_json_text(_rendered(trail, form), end="")
    else:
        print(_rendered(trail, form), end="")
    if not trail.rests.ok:
        session.note("an event shown is not what was recorded; see `leasebook verify`")
    return 0 if trail.rests.ok else UNPROVEN


def asked_in(
    subject: str | None, since: str | None, until: str | None, wanted: dict[str, Any]
) -> Asked:
    """What a trail is wanted of, from what was typed. Raises InvalidInput."""
    from ledger.errors import InvalidInput
    from reports.audit import Asked

    if subject is not None and not _SUBJECT.match(subject):
        raise InvalidInput(
            f"{subject[:40]!r} is neither an allocation nor a refusal", "ids look like A17 or R19"
        )
    return Asked(subject=subject, **wanted, **bounds_in(since, until, time.time_ns()))


def bounds_in(since: str | None, until: str | None, now: int) -> dict[str, Any]:
    """``since`` and ``until`` (ns UTC) or ``after`` and ``upto`` (positions). Raises InvalidInput for
    times that are upside down or begin in the future."""
    from leasebook.when import parse_when, rfc3339
    from ledger.errors import InvalidInput

    bounds: dict[str, Any] = {}
    if since is not None:
        kind, value = parse_when(since, now)
        if kind == "position":
            bounds["after"] = max(0, value - 1)
        elif value > now:
            raise InvalidInput(
                f"--since {rfc3339(value)} lies in the future", "give a time that is over"
            )
        else:
            bounds["since"] = value
    if until is not None:
        kind, value = parse_when(until, now)
        bounds["upto" if kind == "position" else "until"] = (
            max(0, value - 1) if kind == "position" else value
        )
    for low, high in (("since", "until"), ("after", "upto")):
        if low in bounds and high in bounds and bounds[low] >= bounds[high]:
            raise InvalidInput(
                f"--until {until} is not after --since {since}", "give the earlier one as --since"
            )
    return bounds


def _check_type(asked: Asked, trail: Trail) -> None:
    """Raise InvalidInput for a type that neither the program nor the log knows."""
    from ledger.codec import EVENT_TYPES
    from ledger.errors import InvalidInput

    if asked.type is not None and asked.type not in EVENT_TYPES and not trail.entries:
        raise InvalidInput(
            f"there is no event type {asked.type[:40]!r}", f"there are {', '.join(EVENT_TYPES)}"
        )


def _rendered(trail: Trail, form: str) -> str:
    """The trail in one of the formats, with a line's end."""
    from reports.audit import trail_csv, trail_document, trail_text

    if form == "text":
        return trail_text(trail) + "\n"
    if form == "json":
        return to_json(trail_document(trail)) + "\n"
    if form == "cloudevents":
        from reports.exporting.cloudevents import trail_cloudevents

        return to_json(trail_cloudevents(trail)) + "\n"
    table = io.StringIO(newline="")
    trail_csv(trail, table)
    return table.getvalue()


def _write(trail: Trail, form: str, out: str, force: bool) -> None:
    from reports.exporting.destination import new_file

    content = _rendered(trail, form).encode("utf-8", "backslashreplace")
    with about_file(out), new_file(Path(out), force=force) as partial:
        partial.write_bytes(content)


# --- export --------------------------------------------------------------------------------------


@verb("export")
@click.option(
    "--out", required=True, metavar="FILE|DIR", help="Where to; - is stdout, FILE.gz is compressed."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(EXPORT_FORMATS),
    help="jsonl (the default), parquet, or cloudevents as JSON Lines.",
)
@click.option("--what", metavar="TABLE", default="events", help="events, or a projection's table.")
@click.option("--since", metavar="WHEN", help="What happened from this time or position on.")
@click.option("--until", metavar="WHEN", help="What happened before this time or position.")
@click.option("--after", metavar="POS", help="After this position: adds to an export in DIR.")
@click.option("--force", is_flag=True, help="Replace what was exported there before.")
@click.pass_context
def export_command(
    ctx: click.Context,
    out: str,
    form: str | None,
    what: str,
    since: str | None,
    until: str | None,
    after: str | None,
    force: bool,
) -> None:
    """The log as JSON Lines or Parquet, for DuckDB, Spark and other tools.

    JSON Lines hold every column: with them alone the chain can be computed again. Parquet goes into a
    folder, one partition for each day of recording, and a manifest says what belongs to it. Events are
    checked as they are read: at the first that is not as it was recorded it ends with exit code 6.
    """
    session = session_of(ctx)
    form = form or ("parquet" if out.endswith(".parquet") else "jsonl")
    if session.json and out == "-":
        raise click.UsageError("--out - takes stdout for the export, so it takes no --json", ctx)
    bounds = bounds_in(since, until, time.time_ns())
    if after is not None:
        from leasebook.cli.record import position_in

        bounds["after"] = max(bounds.get("after", 0), position_in(after))
    with session.open(read_only=True) as room, about_file(out):
        if what != "events":
            if bounds:
                raise click.UsageError(
                    "--since, --until and --after are for events; a table is exported whole", ctx
                )
            done = _export_table(room, what, out, form, force)
        else:
            done = _checked_export(room, out, form, bounds, force)
    if out != "-":
        span = (
            f", {done['first_position']} to {done['last_position']}"
            if done.get("last_position")
            else ""
        )
        session.answer(done, f"{out}  {done['rows']} {what}{span}")


def _checked_export(
    room: Room, out: str, form: str, bounds: dict[str, Any], force: bool
) -> dict[str, Any]:
    """As :func:`_export_events`. Raises Failure, with the exit code of what is not proven."""
    from ledger.errors import LedgerCorrupt

    try:
        return _export_events(room, out, form, bounds, force)
    except LedgerCorrupt as error:
        if out == "-":
            _stdout().flush()
        raise Failure("corrupt", error.message, error.hint, UNPROVEN) from error


def _export_events(
    room: Room, out: str, form: str, bounds: dict[str, Any], force: bool
) -> dict[str, Any]:
    from ledger.errors import InvalidInput
    from reports.exporting.exports import EventExport, Wanted

    export = EventExport(room.ledger.writer.log, Wanted(format=form, **bounds), time.time_ns())
    path = Path(out)
    if form == "parquet":
        if out == "-":
            raise InvalidInput("Parquet needs a folder, not stdout", "give --out DIR")
        return export.to_folder(path, force=force)
    if out == "-":
        stdout = _stdout()
        done = export.to_stream(stdout.write)
        stdout.flush()
        return done
    if path.is_dir() or out.endswith("/"):
        return export.to_folder(path, force=force)
    return export.to_file(path, force=force)


def _stdout() -> BinaryIO:
    """stdout for bytes. Raises InvalidInput where it is closed."""
    from ledger.errors import InvalidInput

    if sys.stdout is None:
        raise InvalidInput("stdout is closed", "give --out FILE")
    return sys.stdout.buffer


def _export_table(room: Room, what: str, out: str, form: str, force: bool) -> dict[str, Any]:
    from contextlib import closing

    from ledger.errors import InvalidInput
    from reports.exporting.exports import export_table, table_lines
    from reports.exporting.jsonl import write_lines

    with _caught_up(room) as engine, closing(engine.connect()) as connection:
        table = _table(connection, what, engine.log.head().position)
        if out == "-":
            if form != "jsonl":
                raise InvalidInput(f"{form} cannot go to stdout here", "give --out FILE")
            stdout = _stdout()
            write_lines(table_lines(table), stdout.write)
            stdout.flush()
            return {}
        path = Path(out)
        if path.is_dir() or out.endswith("/"):
            path = path / f"{what}.{form}"
        return export_table(table, path, form, force=force)


@contextmanager
def _caught_up(room: Room) -> Iterator[Engine]:
    """The projections at the head: the ledger's own, or for who may only read some of his own."""
    from tempfile import TemporaryDirectory

    from ledger.errors import InvalidInput, LedgerReadOnly
    from projections.engine import Engine, views_path

    ledger = room.ledger
    if ledger.path is None:
        raise InvalidInput("a ledger in memory has no tables", "open one in a file")
    with ExitStack() as stack:
        engine = stack.enter_context(Engine(ledger.writer.log, views_path(ledger.path)))
        try:
            engine.catch_up()
        except LedgerReadOnly:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            engine = stack.enter_context(Engine(ledger.writer.log, folder / "views.db"))
            engine.catch_up()
        yield engine


def _table(connection: Any, what: str, position: int) -> Table:
    """A table or view of the projections. Raises InvalidInput where there is none of this name."""
    from ledger.errors import InvalidInput
    from reports.exporting.exports import Table

    listed = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name"
    names = [name for (name,) in connection.execute(listed)]
    shown = [n for n in names if not n.startswith(("_", "sqlite_")) and n not in _BOOKKEEPING]
    if what not in shown:
        raise InvalidInput(
            f"there is no table {what[:40]!r}", f"there are events, {', '.join(shown)}"
        )
    columns = [
        (name, kind or _kind_held(connection, what, name))
        for name, kind in connection.execute("SELECT name, type FROM pragma_table_info(?)", (what,))
    ]
    quoted = ", ".join(f'"{name}"' for name, _ in columns)
    return Table(
        what, columns, iter(connection.execute(f'SELECT {quoted} FROM "{what}"')), position
    )


def _kind_held(connection: Any, what: str, column: str) -> str:
    """What a column of a view holds, for which nothing is declared."""
    query = f'SELECT DISTINCT typeof("{column}") FROM "{what}"'
    found = {kind for (kind,) in connection.execute(query)} - {"null"}
    return next((kind.upper() for kind in ("text", "real", "integer") if kind in found), "TEXT")


_BOOKKEEPING = frozenset({"projections", "snapshots"})
