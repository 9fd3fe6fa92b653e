"""``report``: what the log says about efficiency, and how strategies compare."""

from __future__ import annotations

from typing import Any

import click

from leasebook.cli.options import Verb, session_of

BY = ("task", "holder", "tenant", "pool", "strategy", "allocation")
REPORTS = ("efficiency", "compare")


@click.command("report", cls=Verb)
@click.argument("name", metavar="REPORT", type=click.Choice(REPORTS))
@click.option("--by", type=click.Choice(BY), help="Group by; else task, or strategy to compare.")
@click.option("--since", metavar="WHEN", help="Events from this time on.")
@click.option("--until", metavar="WHEN", help="Events before this time.")
@click.pass_context
def report_command(
    ctx: click.Context, name: str, by: str | None, since: str | None, until: str | None
) -> None:
    """What allocations used of what they were granted (efficiency), or how groups compare.

    `compare` sets the strategies of a roll-out beside each other: waits, placing, efficiency, endings.
    """
    session = session_of(ctx)
    group = by or ("task" if name == "efficiency" else "strategy")
    if name == "compare" and group == "allocation":
        raise click.UsageError("a comparison does not go by allocation", ctx)
    with session.open(read_only=True) as room:
        document = _document(room, name, group, since, until)
    if session.json:
        session.answer(document)
        return
    print(_table(document, group))


def _document(
    room: Any, name: str, by: str, since: str | None, until: str | None
) -> dict[str, Any]:
    from leasebook.when import parse_when, rfc3339
    from reports.compare import compare
    from reports.efficiency import efficiency_by

    now, position = room.ask.now_and_position()
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
    events = room.ask.events(**bounds)
    if name == "compare":
        rows = compare(events, by, now=now)
    else:
        rows = [row.to_json() for row in efficiency_by(events, by, now=now)]
    return {
        "report": name,
        "position": position,
        "generated_at": rfc3339(now),
        **shown,
        "headline": _headline(name, by, rows),
        "rows": rows,
    }


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


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _efficiency_text(values: dict[str, float | None] | None) -> str:
    return " ".join(f"{r}={_share(v)}" for r, v in (values or {}).items()) or "-"


def _table(document: dict[str, Any], by: str) -> str:
    from leasebook.cli.text import span_text, table

    rows = document["rows"]
    if not rows:
        return str(document["headline"])
    if document["report"] == "compare":
        head: tuple[str, ...]
        head = (by.upper(), "GRANTED", "WAITED", "MEDIAN WAIT", "NODES", "EFFICIENCY", "COVERAGE")
        cells = [_compared(row, by) for row in rows]
    else:
        head = (by.upper(), "ALLOCATIONS", "HELD", "WAITED", "EFFICIENCY", "COVERAGE")
        cells = [
            (
                row[by],
                str(row["allocations"]),
                span_text(row["held_s"]),
                span_text(row["wait_s"]),
                _efficiency_text(row["efficiency"]),
                _share(row["coverage"]),
            )
            for row in rows
        ]
    return f"{table(head, cells)}\n{document['headline']}"


def _compared(row: dict[str, Any], by: str) -> tuple[str | None, ...]:
    from leasebook.cli.text import span_text

    wait = row["wait_s_median"]
    return (
        row[by],
        str(row["granted"]),
        str(row["waited"]),
        None if wait is None else span_text(wait),
        str(row["nodes"]),
        _efficiency_text(row["efficiency"]),
        _share(row["coverage"]),
    )
