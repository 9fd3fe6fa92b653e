"""``report``: how much was held, what was used of it, and how strategies compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leasebook.cli.options import Verb, session_of

if TYPE_CHECKING:
    from leasebook.cli.session import Room, Session

OF_EVENTS = ("task", "holder", "tenant", "pool", "strategy", "allocation")
BY = ("day", "hour", *OF_EVENTS, "node", "priority")
REPORTS = ("efficiency", "utilization", "compare")
FORMATS = ("table", "json", "csv", "markdown", "html", "parquet")
DEFAULT_BY = {"efficiency": ("task",), "utilization": ("day", "pool"), "compare": ("strategy",)}


@click.command("report", cls=Verb)
@click.argument("name", metavar="REPORT", type=click.Choice(REPORTS))
@click.option(
    "--by",
    type=click.Choice(BY),
    multiple=True,
    help="Group by; repeat it for utilization. Else task, day and pool, or strategy.",
)
@click.option("--since", metavar="WHEN", help="From this time or position on.")
@click.option("--until", metavar="WHEN", help="Before this time or position.")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), help="Else by the name of --out, or a table."
)
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Write it there.")
@click.pass_context
def report_command(
    ctx: click.Context,
    name: str,
    by: tuple[str, ...],
    since: str | None,
    until: str | None,
    form: str | None,
    out: Path | None,
) -> None:
    """What was held of what there was (utilization), or used of what was granted (efficiency).

    `compare` sets the strategies of a roll-out beside each other: waits, placing, efficiency, endings.
    Days and hours are those of UTC. Of observed pools, efficiency and `compare` count what is known by
    now: what began between --since and --until, whole, and what never ended until it was last seen.
    """
    session = session_of(ctx)
    form = _form(ctx, form, out, session.json)
    keys = _keys(ctx, name, by)
    with session.open(read_only=True) as room:
        document = _document(room, name, keys, since, until)
    if out is not None:
        _write(session, document, form, out)
    elif form == "table":
        from leasebook.cli.report_tables import report_table

        print(report_table(document, keys))
    elif session.json:
        session.answer(document)
    else:
        from leasebook.cli.session import print_json_text
        from reports.rendering import render

        written = render(document, form).decode()
        if form == "json":
            print_json_text(written, end="")
        else:
            print(written, end="")


def _form(ctx: click.Context, form: str | None, out: Path | None, as_json: bool) -> str:
    """The format to answer or to write in. Raises UsageError where the options contradict."""
    if out is None:
        if as_json and form not in (None, "json"):
            raise click.UsageError(f"--json and --format {form} contradict: give --out too", ctx)
        if form == "parquet":
            raise click.UsageError("Parquet is not for a terminal: give --out FILE", ctx)
        return form or ("json" if as_json else "table")
    if form is None:
        from reports.rendering import SUFFIXES

        form = SUFFIXES.get(out.suffix.lower())
        if form is None:
            endings = ", ".join(SUFFIXES)
            raise click.UsageError(f"give --format, or a file that ends in {endings}", ctx)
    return form


def _keys(ctx: click.Context, name: str, by: tuple[str, ...]) -> tuple[str, ...]:
    keys = tuple(dict.fromkeys(by)) or DEFAULT_BY[name]
    if name == "utilization":
        return keys
    if len(keys) > 1:
        raise click.UsageError(f"{name} goes by one thing at a time", ctx)
    if keys[0] not in OF_EVENTS:
        raise click.UsageError(f"{name} goes by {', '.join(OF_EVENTS)}, not by {keys[0]}", ctx)
    if name == "compare" and keys[0] == "allocation":
        raise click.UsageError("a comparison does not go by allocation", ctx)
    return keys


def _write(session: Session, document: dict[str, Any], form: str, out: Path) -> None:
    """Put the report into a file; the answer says which, the headline and how much it is."""
    from reports.rendering import render, write

    if form == "table":
        from leasebook.cli.report_tables import report_table

        keys = tuple(document["by"])
        content = (report_table(document, keys) + "\n").encode("utf-8", "replace")
    else:
        content = render(document, form)
    write(out, content)
    rows = len(document["rows"])
    kept = {key: document[key] for key in ("report", "position", "generated_at", "headline")}
    answer = {**kept, "out": str(out), "format": form, "rows": rows, "bytes": len(content)}
    session.answer(answer, f"{out}: {rows} rows ({form}); {document['headline']}")


def _document(
    room: Room, name: str, keys: tuple[str, ...], since: str | None, until: str | None
) -> dict[str, Any]:
    """A report as the contract shows it; ``by`` is what it goes by."""
    from leasebook.when import rfc3339

    now, position = room.ask.now_and_position()
    document = {
        "report": name,
        "position": position,
        "generated_at": rfc3339(now),
        "by": list(keys),
    }
    if name == "utilization":
        return document | _of_tables(room, keys, since, until, now)
    return document | _of_events(room, name, keys, since, until, now)


def _of_events(
    room: Room, name: str, keys: tuple[str, ...], since: str | None, until: str | None, now: int
) -> dict[str, Any]:
    """A report that is made of the events between two times or positions."""
    from leasebook.when import parse_when, rfc3339

    (by,) = keys
    bounds: dict[str, Any] = {}
    shown: dict[str, str | None] = {"since": None, "until": None}
    for word, text in (("since", since), ("until", until)):
        if text is None:
            continue
        kind, when = parse_when(text, now)
        if kind == "position":
            bounds["after" if word == "since" else "upto"] = when - 1
            shown[word] = f"#{when}"
        else:
            bounds[word] = when
            shown[word] = rfc3339(when)
    rows = list(room.ask.report_of_events(name, by, **bounds))
    return {**shown, "headline": _headline(name, by, rows), "rows": rows}


def _of_tables(
    room: Room, keys: tuple[str, ...], since: str | None, until: str | None, now: int
) -> dict[str, Any]:
    """Utilization, from the projections. A position stands for the time at which it was written."""
    from leasebook.when import rfc3339

    low, high = _time(room, since, now), _time(room, until, now)
    position, found = room.ask.utilization(keys, since=low, until=high)
    return {
        "position": position,
        "since": rfc3339(low),
        "until": rfc3339(high),
        "headline": found.headline(),
        "open": found.open,
        "rows": found.rows,
    }


def _time(room: Room, text: str | None, now: int) -> int | None:
    from leasebook.when import parse_when
    from ledger.errors import InvalidInput

    if text is None:
        return None
    kind, when = parse_when(text, now)
    if kind == "time":
        return when
    row = next(iter(room.ledger.writer.log.read(when - 1, when)), None)
    if row is None:
        raise InvalidInput(f"there is no position {when}", "give a time, or a position of the log")
    return row.recorded_at


def _headline(name: str, by: str, rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "nothing was granted in this time"
    if name == "compare":
        return f"{sum(row['granted'] for row in rows)} grants in {len(rows)} groups by {by}"
    known = [row for row in rows if (row["efficiency"].get("cpu") is not None)]
    if not known:
        return f"{len(rows)} groups by {by}; no processor use was measured"
    worst = min(known, key=lambda row: row["efficiency"]["cpu"])
    name_of = worst[by] if worst[by] is not None else f"no {by}"
    return f"{len(rows)} groups by {by}; least of its processors used {name_of}"
