"""``task``: its bounds, and what its allocations came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from leasebook.cli.options import VerbGroup, session_of
from leasebook.cli.session import Room

if TYPE_CHECKING:
    from ledger.events import Event

task_command = VerbGroup("task", help="Tasks: the work that allocations are for.")


@task_command.command("start")
@click.argument("name")
@click.option("--by", metavar="WHO", help="Who says so; else $LEASEBOOK_HOLDER, or user@host.")
@click.option("--tenant", metavar="T", default="default", show_default=True, help="The tenant.")
@click.pass_context
def start(ctx: click.Context, name: str, **options: Any) -> None:
    """Say that a task begins."""
    session = session_of(ctx)
    with session.open() as room:
        receipt = room.carry_out(room.calls.start_task(name, **options))
    document = {"outcome": receipt.outcome, "positions": list(receipt.positions), "task": name}
    session.answer(document, f"started  {name}")


@task_command.command("finish")
@click.argument("name")
@click.option("--outcome", default="", metavar="TEXT", help="Such as succeeded or failed.")
@click.option("--by", metavar="WHO", help="Who says so; else $LEASEBOOK_HOLDER, or user@host.")
@click.option("--tenant", metavar="T", default="default", show_default=True, help="The tenant.")
@click.pass_context
def finish(ctx: click.Context, name: str, tenant: str, **options: Any) -> None:
    """Say that a task is over, and show what it used of what it was granted."""
    session = session_of(ctx)
    with session.open() as room:
        receipt = room.carry_out(room.calls.finish_task(name, tenant=tenant, **options))
        figures = task_figures(room, name, tenant)
    document = {
        "outcome": receipt.outcome,
        "positions": list(receipt.positions),
        "task": name,
        "efficiency": figures,
    }
    if session.json:
        session.answer(document)
        return
    print(f"finished  {name}{_in_words(figures)}")


def task_figures(room: Room, task: str, tenant: str) -> dict[str, Any]:
    """What a task's allocations were granted and used, each over the time that was measured.

    ``efficiency`` is used ÷ granted (base units × seconds) per resource, over the measured time
    alone; None where nothing was measured. ``coverage`` is measured ÷ held time, from 0 to 1; None
    where nothing was held.
    """
    now = room.ledger.writer.read(lambda book, now: now)
    by_allocation: dict[str, list[Event]] = {}
    for event in room.ask.events(task=task, tenant=tenant):
        if event.allocation is not None:
            by_allocation.setdefault(event.allocation, []).append(event)
    granted: dict[str, int] = {}
    used: dict[str, int] = {}
    held_ns = measured_ns = 0
    for events in by_allocation.values():
        stretches = _stretches(events, now)
        held_ns += sum(end - start for start, end, _ in stretches)
        for event in events:
            body: Any = event.body
            if event.type == "usage_recorded":
                measured_ns += body.until - body.since - body.gaps_ns
                for resource, amount in body.used.items():
                    used[resource] = used.get(resource, 0) + amount
                    share = _granted(stretches, body.since, body.until, resource)
                    granted[resource] = granted.get(resource, 0) + share
    return {
        "allocations": len(by_allocation),
        "held_s": held_ns / 1e9,
        "used_seconds": used,
        "efficiency": {
            resource: used[resource] * 10**9 / amount if amount else None
            for resource, amount in granted.items()
        },
        "coverage": min(1.0, measured_ns / held_ns) if held_ns else None,
    }


def _stretches(events: list[Event], now: int) -> list[tuple[int, int, dict[str, int]]]:
    """From when until when (ns) an allocation held which amounts."""
    from ledger.evolve import advance

    stretches = []
    allocation = None
    since = 0
    for event in events:
        before = allocation
        allocation = advance(allocation, event)
        if before is not None and before.granted_at is not None and before.state != "ended":
            stretches.append((since, event.at, before.amounts))
        since = event.at
    if allocation is not None and allocation.granted_at is not None:
        if allocation.state != "ended":
            end = now if allocation.due is None else min(now, allocation.due)
            stretches.append((since, max(since, end), allocation.amounts))
    return stretches


def _granted(
    stretches: list[tuple[int, int, dict[str, int]]], since: int, until: int, resource: str
) -> int:
    """Base units × ns held of a resource between two instants."""
    return sum(
        max(0, min(end, until) - max(start, since)) * amounts.get(resource, 0)
        for start, end, amounts in stretches
    )


def _in_words(figures: dict[str, Any]) -> str:
    from leasebook.cli.text import span_text

    count = figures["allocations"]
    if not count:
        return "; it held nothing"
    plural = "" if count == 1 else "s"
    words = f"; {count} allocation{plural} over {span_text(figures['held_s'])}"
    shares = [
        f"{resource} {share:.0%} used"
        for resource, share in figures["efficiency"].items()
        if share is not None
    ]
    if not shares:
        return words + "; what it used was not measured"
    return words + f"; {', '.join(shares)} ({figures['coverage'] or 0:.0%} of the time measured)"
