"""The verbs that look: ``list``, ``show``, ``why`` and ``who``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from leasebook.cli.failures import MISSING, Failure, one_line
from leasebook.cli.options import allocation, filters, session_of, verb
from leasebook.cli.session import Room

if TYPE_CHECKING:
    from ledger.book import Book
    from ledger.identity import ProcessIdentity
    from projections.stories import Story

STATES = ("waiting", "reserved", "active", "ending")
BACKWARDS_ROWS = 500
EXPLAINED = frozenset({"refused", "queued", "expired", "reclaimed", "withdrawn", "ending"})
"""Events that somebody may ask about with ``why --last``."""
ANCESTORS_MAX = 64


@verb("list")
@filters
@click.option("--state", type=click.Choice(STATES), help="In this state only.")
@click.pass_context
def list_command(ctx: click.Context, /, **wanted: Any) -> None:
    """What is held and what waits now."""
    session = session_of(ctx)
    with session.open(read_only=True) as room:
        found = [handle.to_json() for handle in room.ask.list(**wanted)]
        if not found and wanted["pool"] is not None:
            # Raises where there is no such pool, which is another thing than an empty one.
            room.ask.pool(wanted["pool"])
        observed = not session.json and room.ledger.writer.read(_has_observed)
    if session.json:
        session.answer({"allocations": found})
        return
    from leasebook.cli.text import amounts_text, bound_text, place_text, table

    head = ("ID", "STATE", "POOL", "AMOUNTS", "WHERE", "HOLDER", "TASK", "BOUND BY")
    rows = [
        (
            a["id"],
            a["state"],
            a["pool"],
            amounts_text(a["amounts"]),
            place_text(a),
            a["holder"],
            a["task"],
            bound_text(a),
        )
        for a in found
    ]
    where = " in managed pools" if observed else ""
    print(table(head, rows) if rows else f"nothing is held, nobody waits{where}")
    if observed:
        print("what observed pools hold: `leasebook at now`")


def _has_observed(book: Book, now: int) -> bool:
    return any(pool.kind == "observed" for pool in book.pools.values())


@verb("show")
@allocation
@click.pass_context
def show_command(ctx: click.Context, allocation: str) -> None:
    """One allocation as it is now, ended ones included."""
    session = session_of(ctx)
    with session.open(read_only=True) as room:
        a = room.ask.get(allocation).to_json()
    if session.json:
        session.answer(a)
        return
    from leasebook.cli.text import amounts_text, bound_text, clock_text, facts_text, place_text

    times = [
        (what.replace("_", " "), clock_text(a[what]) if a[what] else None)
        for what in ("requested_at", "granted_at", "ended_at")
    ]
    facts = [
        ("allocation", a["id"]),
        ("state", a["state"] if a["ended_by"] is None else f"ended ({a['ended_by']})"),
        ("amounts", amounts_text(a["amounts"])),
        ("pool", a["pool"]),
        ("where", place_text(a) or None),
        ("holder", a["holder"]),
        ("task", a["task"]),
        ("tenant", a["tenant"]),
        ("priority", a["priority"]),
        ("fencing token", a["fencing_token"]),
        ("drawn from", a["parent"]),
        *times,
        ("bound by", None if a["state"] == "ended" else bound_text(a)),
        ("metadata", one_line(" ".join(f"{k}={v}" for k, v in a["metadata"].items())) or None),
    ]
    print(facts_text(facts))


@verb("why")
@click.argument("what", metavar="[A17|R19]", required=False)
@click.option("--last", is_flag=True, help="The last request that waited, was refused or was lost.")
@click.option("--holder", metavar="H", help="With --last: of this holder only.")
@click.pass_context
def why_command(ctx: click.Context, what: str | None, last: bool, holder: str | None) -> None:
    """Why an allocation waits or ended, or a request was refused; and how it came to it."""
    session = session_of(ctx)
    if last == (what is not None) or (holder and not last):
        raise click.UsageError("name an allocation or a refusal (A17, R19), or give --last", ctx)
    with session.open(read_only=True) as room:
        document = story_out(room.ask.why(_last(room, holder) if what is None else what))
    if session.json:
        session.answer(document)
        return
    from leasebook.cli.text import steps_text

    print(document["answer"])
    if document["facts"].get("hint"):
        print(f"what to do: {document['facts']['hint']}")
    print(steps_text(document["steps"]))


def story_out(story: Story) -> dict[str, Any]:
    """A story as JSON, its times as the contract writes them."""
    from leasebook.mapping import allocation_out
    from leasebook.when import rfc3339

    facts = dict(story.facts)
    if "eta_at" in facts:
        facts["eta_at"] = rfc3339(facts["eta_at"])
    if "blockers" in facts:
        facts["blockers"] = [
            {k: rfc3339(v) if k in ("since", "expires_at") else v for k, v in blocker.items()}
            for blocker in facts["blockers"]
        ]
    return {
        "subject": story.subject,
        "answer": story.answer,
        "steps": [
            {"at": rfc3339(s.at), "position": s.position, "type": s.type, "text": s.text}
            for s in story.steps
        ],
        "facts": facts,
        "allocation": None if story.allocation is None else allocation_out(story.allocation),
    }


def _last(room: Room, holder: str | None) -> str:
    """What ``--last`` is about. Raises Failure where nothing of the kind has happened."""
    log = room.ledger.writer.log
    upto = log.head().position
    while upto:
        after = max(0, upto - BACKWARDS_ROWS)
        for row in reversed(list(log.read(after, upto))):
            if row.type in EXPLAINED and (holder is None or row.holder == holder):
                # A refusal that only counts repeats explains nothing itself, but it may be all
                # that names the first; its story says so.
                return f"R{row.position}" if row.type == "refused" else str(row.allocation)
        upto = after
    raise Failure(
        "no_such_allocation",
        "nothing has been refused, queued or lost" + (f" for {holder}" if holder else ""),
        "see `leasebook list`",
        MISSING,
    )


@verb("who")
@click.option("--pid", type=click.IntRange(1, 2**31), metavar="N", help="This process.")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="This port.")
@click.option("--gpu", type=click.IntRange(0, 10_000), metavar="N", help="This card.")
@click.option("--pool", metavar="POOL", help="In this pool only.")
@click.pass_context
def who_command(
    ctx: click.Context, pid: int | None, port: int | None, gpu: int | None, pool: str | None
) -> None:
    """Whose is this process (or one of its parents), port or card?"""
    session = session_of(ctx)
    asked = {k: v for k, v in (("pid", pid), ("port", port), ("gpu", gpu)) if v is not None}
    if len(asked) != 1:
        raise click.UsageError("give one of --pid, --port and --gpu", ctx)
    (kind, number), *_ = asked.items()
    with session.open(read_only=True) as room:
        live = [h.to_json() for h in room.ask.list(pool=pool) if h.state != "waiting"]
    process = None
    if kind == "gpu":
        found = [a for a in live if _has_card(a, str(number))]
    else:
        found = [] if kind == "pid" else [a for a in live if _has_port(a, str(number))]
        if not found:
            process = _process_on(kind, number)
            found = [] if process is None else _bound_to(live, process.pid)
    if not found:
        known = f" (process {process.pid})" if process is not None and kind == "port" else ""
        raise Failure(
            "no_such_allocation",
            f"no allocation covers {kind} {number}{known}",
            "see `leasebook list`; what runs outside the ledger is nobody's",
            MISSING,
        )
    if session.json:
        session.answer({"asked": asked, "allocations": found})
        return
    from leasebook.cli.text import allocation_text

    for a in found:
        task = f" for {a['task']}" if a["task"] else ""
        print(f"{a['holder']}{task}: {allocation_text(a)}")


def _has_card(a: dict[str, Any], card: str) -> bool:
    return any(card in (p.get("devices") or {}).get("gpu", {}) for p in a["placements"])


def _has_port(a: dict[str, Any], port: str) -> bool:
    return any(p["node"] == port and "port" in p["amounts"] for p in a["placements"])


def _process_on(kind: str, number: int) -> ProcessIdentity | None:
    """The process asked for, or the one that listens on the port."""
    if kind == "port":
        from scheduler.processes.ports import port_owner

        return port_owner(number)
    from scheduler.processes.identity import identify

    try:
        return identify(number)
    except ProcessLookupError:
        raise Failure(
            "no_such_allocation",
            f"there is no process {number}, or it is hidden",
            "give the pid of a running process",
            MISSING,
        ) from None


def _bound_to(live: list[dict[str, Any]], pid: int) -> list[dict[str, Any]]:
    """What is bound to a process of this machine or to its nearest ancestor that holds anything."""
    from leasebook.mapping import process_out
    from scheduler.processes.identity import of_stat
    from scheduler.processes.procfs import read_stat

    for _ in range(ANCESTORS_MAX):
        stat = read_stat(pid) if pid > 0 else None
        if stat is None:
            return []
        own = process_out(of_stat(stat))
        found = [a for a in live if a["process"] == own]
        if found:
            return found
        pid = stat.ppid
    return []
