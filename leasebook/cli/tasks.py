"""``task``: its bounds, and what its allocations came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from leasebook.cli.options import VerbGroup, session_of
from leasebook.cli.session import Room

if TYPE_CHECKING:
    from reports.efficiency import Efficiency

task_command = VerbGroup("task", help="Tasks: the work that allocations are for.")


@task_command.command("start")
@click.argument("name")
@click.option("--by", metavar="WHO", help="Who says so; else $LEASEBOOK_HOLDER, or user@host.")
@click.option("--tenant", metavar="T", default="default", show_default=True, help="The tenant.")
@click.pass_context
def start(ctx: click.Context, /, name: str, **options: Any) -> None:
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
def finish(ctx: click.Context, /, name: str, tenant: str, **options: Any) -> None:
    """Say that a task is over, and show its efficiency: what it used of what it was granted."""
    session = session_of(ctx)
    with session.open() as room:
        before = _finished_before(room, name, tenant)
        receipt = room.carry_out(room.calls.finish_task(name, tenant=tenant, **options))
        row = _efficiency(room, name, tenant)
    document = {
        "outcome": receipt.outcome,
        "positions": list(receipt.positions),
        "task": name,
        "finished_before": before,
        "efficiency": None if row is None else row.to_json(),
    }
    if session.json:
        session.answer(document)
        return
    print(f"finished  {name}{_in_words(row)}")
    if row is not None:
        from reports.seff import use_lines

        print("\n".join(use_lines(row)))
    if before is not None:
        session.note(f"event {before} finished it already, and it has not been started since")


def _finished_before(room: Room, task: str, tenant: str) -> int | None:
    """The last event that finished a task which has not been started since.

    It may be finished again all the same: a task need not be started, and may go on.
    """
    if room.ledger.writer.read(lambda book, now: (tenant, task) in book.tasks):
        return None
    found = room.ask.rows(type="task_finished", task=task, tenant=tenant)
    return max((row.position for row in found), default=None)


def _efficiency(room: Room, task: str, tenant: str) -> Efficiency | None:
    """The task's row of the efficiency report; None where it held nothing."""
    from reports.efficiency import efficiency_of_task
    from reports.efficiency_uses import told

    writer = room.ledger.writer
    now = writer.read(lambda book, now: now)
    # A pool is opened under no tenant.
    rows = (row for row in writer.log.read() if row.tenant in ("", tenant))
    return efficiency_of_task(told(rows, task=task), task, now=now)


def _in_words(row: Efficiency | None) -> str:
    from leasebook.cli.text import span_text

    if row is None or not row.allocations:
        return "; it held nothing"
    plural = "" if row.allocations == 1 else "s"
    return f"; {row.allocations} allocation{plural}, held for {span_text(row.held_ns / 1e9)}"
