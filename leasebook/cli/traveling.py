"""The verbs that travel in time: ``at``, ``diff`` and ``replay``.

What they answer with is made here for any past, so that an incident bundle is asked in the same words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from leasebook.cli.options import session_of, verb
from leasebook.cli.session import Session

if TYPE_CHECKING:
    from leasebook.moments import Moments

Json = Mapping[str, Any]

NODES_SHOWN = 12
"""How many nodes of a pool are listed before the rest is counted."""
POOL_OPTION = click.option("--pool", metavar="POOL", help="Of this pool only.")


@verb("at")
@click.argument("when", metavar="WHEN")
@click.option(
    "--as-known-at",
    "as_known_at",
    metavar="WHEN",
    help="Only with what had been recorded by then: what was believed, and what was found since.",
)
@POOL_OPTION
@click.pass_context
def at_command(ctx: click.Context, when: str, as_known_at: str | None, pool: str | None) -> None:
    """The whole fleet at a moment: pools, who held what, who waited.

    WHEN is 06:49, 2026-11-22T06:49:00Z, 30m-ago, now, or a position such as #1234. What was due by
    then counts as ended, and so does what was found later to have ended by then.
    """
    session = session_of(ctx)
    with session.open(read_only=True) as room:
        answer_at(session, room.ask.moments(), when, as_known_at, pool)


@verb("diff")
@click.argument("first", metavar="WHEN")
@click.argument("second", metavar="WHEN")
@POOL_OPTION
@click.pass_context
def diff_command(ctx: click.Context, first: str, second: str, pool: str | None) -> None:
    """What differs between two moments: allocations, pools and nodes, the queue.

    What came and went in between shows in neither; `leasebook events` has it.
    """
    session = session_of(ctx)
    with session.open(read_only=True) as room:
        answer_diff(session, room.ask.moments(), first, second, pool)


@verb("replay")
@click.option("--from", "since", metavar="WHEN", required=True, help="From this moment on.")
@click.option("--until", metavar="WHEN", default="now", help="Up to this moment; else to now.")
@click.option("--step", is_flag=True, help="Go on at a key: Enter or Space on, b back, q quit.")
@click.option(
    "--speed",
    type=click.FloatRange(0.001, 1e9),
    metavar="N",
    help="So many times as fast as it was; else 10. Long gaps are cut.",
)
@POOL_OPTION
@click.pass_context
def replay_command(
    ctx: click.Context,
    since: str,
    until: str,
    step: bool,
    speed: float | None,
    pool: str | None,
) -> None:
    """Play what happened, event by event, with the state beside it.

    While it plays, Space stops and goes on, Enter takes one step, b goes back, q ends it. Without a
    terminal it prints a line for each event, and with --json each of them is JSON (JSON Lines).
    """
    session = session_of(ctx)
    if step and speed is not None:
        raise click.UsageError("--step waits for a key, so it has no --speed", ctx)
    with session.open(read_only=True) as room:
        answer_replay(session, room.ask.moments(), since, until, pool, step=step, speed=speed)


# --- answers -------------------------------------------------------------------------------------


def answer_at(
    session: Session,
    moments: Moments,
    when: str,
    as_known_at: str | None = None,
    pool: str | None = None,
) -> None:
    """Answer ``at`` from any past. Raises InvalidInput, Refused."""
    document = moments.at(when, as_known_at=as_known_at, pool=pool)
    session.answer(document, None if session.json else at_text(document, as_known_at is not None))


def answer_diff(
    session: Session, moments: Moments, first: str, second: str, pool: str | None = None
) -> None:
    """Answer ``diff`` from any past. Raises InvalidInput."""
    document = moments.diff(first, second, pool=pool)
    session.answer(document, None if session.json else diff_text(document))


def answer_replay(
    session: Session,
    moments: Moments,
    since: str,
    until: str,
    pool: str | None = None,
    *,
    step: bool = False,
    speed: float | None = None,
) -> None:
    """Answer ``replay`` from any past: in the terminal, or a line for each event.

    Raises InvalidInput, Refused.
    """
    import sys

    from leasebook.cli.replaying import play, print_frames
    from ledger.errors import InvalidInput

    replay = moments.replay(since, until, pool=pool)
    if session.json or sys.stdout is None or not sys.stdout.isatty():
        if step:
            raise InvalidInput("--step needs a terminal", "leave --step and --json out")
        print_frames(replay.frames(), json=session.json)
    elif step and (sys.stdin is None or not sys.stdin.isatty()):
        raise InvalidInput("--step needs a terminal to read keys from", "leave --step out")
    else:
        play(replay.frames(), step=step, speed=speed)


# --- text ----------------------------------------------------------------------------------------


def at_text(document: Json, bounded: bool = False) -> str:
    """A moment for a reader."""
    known = document["known_at"]
    position = document["position"]
    after = f"after event #{position}" if position else "before the first event was written"
    lines = [f"at {document['time']}, {after}"]
    if bounded:
        lines.append(f"as it was known at {known['time']}, event #{known['position']}")
    lines += ["", *_pools_text(document["pools"]), "", _held_text(document["allocations"])]
    if document["queue"]:
        lines += ["", _queue_text(document["queue"])]
    lines += _corrections_text(document["corrections"])
    return "\n".join(lines)


def _held_text(held: Sequence[Json]) -> str:
    from leasebook.cli.text import amounts_text, place_text, table

    if not held:
        return "nothing was held"
    head = ("ID", "STATE", "POOL", "AMOUNTS", "WHERE", "HOLDER", "TASK", "UNTIL")
    rows = [
        (
            a["id"],
            a["state"],
            a["pool"],
            amounts_text(a["amounts"]),
            place_text(a),
            a["holder"],
            a["task"],
            _until(a),
        )
        for a in held
    ]
    return table(head, rows)


def _queue_text(queue: Sequence[Json]) -> str:
    from leasebook.cli.text import amounts_text, table

    rows = [
        (a["id"], a["pool"], amounts_text(a["amounts"]), a["holder"], a["task"], a["requested_at"])
        for a in queue
    ]
    return table(("WAITING", "POOL", "AMOUNTS", "HOLDER", "TASK", "SINCE"), rows)


def _until(a: Json) -> str:
    if a["expires_at"] is not None:
        return str(a["expires_at"])
    if a.get("seen_until") is not None:
        return f"seen until {a['seen_until']}"
    process = a.get("process")
    return "" if process is None else f"process {process['pid']} ends"


def _pools_text(pools: Sequence[Json]) -> Iterator[str]:
    if not pools:
        yield "there was no pool"
        return
    rows: list[tuple[str, str, str]] = []
    for pool in pools:
        rows.append((pool["name"], _use_text(pool), _pool_notes(pool)))
        nodes = [n for n in pool.get("nodes", ()) if _is_worth_showing(pool, n)]
        rows += [(f"  {n['name']}", _use_text(n), _node_notes(n)) for n in nodes[:NODES_SHOWN]]
        if len(nodes) > NODES_SHOWN:
            rows.append((f"  … {len(nodes) - NODES_SHOWN} more in use", "", ""))
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    for name, use, notes in rows:
        yield f"{name.ljust(first)}  {use.ljust(second)}  {notes}".rstrip()


def _is_worth_showing(pool: Json, node: Json) -> bool:
    alone = pool["nodes_count"] == 1
    busy = any(node["base_units"]["in_use"].values()) and not alone
    return bool(busy or _node_notes(node))


def _use_text(of: Json) -> str:
    """``cpu=3/4``; ``cpu=3`` where nobody said how much there is."""
    capacity = of["capacity"]
    return " ".join(
        f"{r}={used}/{capacity[r]}" if r in capacity else f"{r}={used}"
        for r, used in of["in_use"].items()
    )


def _pool_notes(pool: Json) -> str:
    notes = [pool["kind"]] if pool["kind"] != "managed" else []
    notes += ["capacity not known"] if pool.get("capacity_unknown") else []
    notes += ["closed"] if pool["closed"] else []
    notes += [f"{pool['waiting']} waiting"] if pool["waiting"] else []
    return ", ".join(notes)


def _node_notes(node: Json) -> str:
    from leasebook.cli.text import amounts_text

    notes = ["cordoned"] if node["cordoned"] else []
    if node.get("over_committed"):
        notes.append(f"over capacity by {amounts_text(node['over_committed'])}")
    if node.get("used_outside"):
        notes.append(f"used outside: {amounts_text(node['used_outside'])}")
    return ", ".join(notes)


def _corrections_text(corrections: Sequence[Json]) -> Iterator[str]:
    told = [c for c in corrections if c["believed"] != "unknown"]
    if corrections:
        yield ""
    for c in told:
        task = f" for {c['task']}" if c["task"] else ""
        who = f"{c['allocation']}  {c['holder']}{task} in {c['pool']}"
        if c["found"] == "ended":
            cause = f" ({c['ended_by']})" if c["ended_by"] else ""
            what = f"believed held then, found later to have ended at {c['ended_at']}{cause}"
        else:
            what = "believed ended then, found later to have been held"
        counted = "; counted" if c["counted"] else "; not counted here"
        yield f"{who}: {what}; recorded at {c['found_at']}, #{c['position']}{counted}"
    unknown = len(corrections) - len(told)
    if unknown:
        yield f"{unknown} more were held then, as was recorded only later"


def diff_text(document: Json) -> str:
    """A difference for a reader: + came, - went, ~ changed."""
    from leasebook.cli.text import amounts_text, place_text

    a, b = document["from"], document["until"]
    events = b["position"] - a["position"]
    lines = [f"from {a['time']} (#{a['position']})", f"  to {b['time']} (#{b['position']})"]
    lines.append(f"{events} events were recorded in between")
    changes: list[str] = []
    for pool in document["pools"]:
        changes += _pool_change_text(pool)
    parts = document["allocations"]
    for x in parts["begun"]:
        where = place_text(x) or x["pool"]
        changes.append(f"+ {x['id']}  {_whose(x)} holds {amounts_text(x['amounts'])} on {where}")
    for x in parts["ended"]:
        how = _ending_text(x)
        changes.append(f"- {x['id']}  {_whose(x)} held {amounts_text(x['amounts'])}; {how}")
    for x in parts["changed"]:
        changes.append(f"~ {x['id']}  {x['holder']}: {_changes_text(x['before'], x['after'])}")
    queue = document["queue"]
    for x in queue["joined"]:
        changes.append(f"+ {x['id']}  {_whose(x)} waits for {amounts_text(x['amounts'])}")
    for x in queue["left"]:
        changes.append(f"- {x['id']}  {_whose(x)} waits no more: {_ending_text(x)}")
    return "\n".join([*lines, "", *(changes or ["nothing differs"])])


def _whose(a: Json) -> str:
    return f"{a['holder']}" + (f" for {a['task']}" if a["task"] else "")


def _ending_text(a: Json) -> str:
    if a["became"] != "ended":
        return {"active": "it is held", "waiting": "it waits"}.get(
            a["became"], f"it is {a['became']}"
        )
    return f"ended at {a['ended_at']} ({a['ended_by']})"


def _changes_text(before: Json, after: Json) -> str:
    from leasebook.cli.text import amounts_text

    parts = []
    for name, value in after.items():
        if name == "base_units":
            continue
        then = before[name]
        if name == "amounts":
            then, value = amounts_text(then), amounts_text(value)
        elif name == "placements":
            then, value = (" ".join(p["node"] for p in each) for each in (then, value))
            if then == value:
                continue
        elif name == "process":
            then, value = (each and each["pid"] for each in (then, value))
        parts.append(f"{name.replace('_', ' ')} {_said(then)} → {_said(value)}")
    return ", ".join(parts) or "placed anew"


def _said(value: Any) -> str:
    return "none" if value is None else str(value)


def _pool_change_text(pool: Json) -> list[str]:
    from leasebook.cli.text import amounts_text

    mark = {"opened": "+", "gone": "-", "changed": "~"}[pool["what"]]
    lines = [f"{mark} pool {pool['name']}{_pairs_text(pool)}"]
    for name, (before, after) in pool["settings"].items():
        if name == "closed" and after:
            lines.append("    closed")
        elif name != "closed" and None not in (before, after):
            lines.append(f"    {name} changed")
    nodes = pool["nodes"]
    if len(nodes) == 1 and nodes[0]["what"] == "changed" and not _node_words(nodes[0]):
        return lines
    for node in nodes[:NODES_SHOWN]:
        now = node["after"] or node["before"]
        if node["what"] == "changed":
            said = _node_words(node) + _use_change(node)
        elif now.get("capacity_unknown"):
            change = "in use from here on" if node["before"] is None else "in use no more"
            said = f" {change}: {amounts_text(now['in_use'])}"
        else:
            said = f" {node['what']}: {amounts_text(now['capacity'])}"
        lines.append(f"    {node['name']}{said}")
    if len(nodes) > NODES_SHOWN:
        lines.append(f"    … {len(nodes) - NODES_SHOWN} more nodes")
    return lines


def _pairs_text(of: Json) -> str:
    parts = [
        f"{word} {r} {before} → {after}"
        for word, name in (("capacity", "capacity"), ("in use", "in_use"))
        for r, (before, after) in of[name].items()
    ]
    return "  " + ", ".join(parts) if parts else ""


def _node_words(node: Json) -> str:
    before, after = node["before"], node["after"]
    words = []
    if before["cordoned"] != after["cordoned"]:
        words.append("cordoned" if after["cordoned"] else "uncordoned")
    if before["labels"] != after["labels"]:
        words.append(f"labels {before['labels']} → {after['labels']}")
    return "".join(f" {word}" for word in words)


def _use_change(node: Json) -> str:
    before, after = node["before"], node["after"]
    parts = [
        f"{word} {r} {before[name].get(r, '0')} → {value}"
        for word, name in (("capacity", "capacity"), ("in use", "in_use"))
        for r, value in after[name].items()
        if before[name].get(r, "0") != value
    ]
    return "  " + ", ".join(parts) if parts else ""
