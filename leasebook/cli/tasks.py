"""``task``: its bounds, and what its allocations came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from leasebook.cli.options import VerbGroup, session_of
from leasebook.cli.session import Room

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.log import Row
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
        receipt = room.carry_out(room.calls.finish_task(name, tenant=tenant, **options))
        row, before = _looked_back(room, name, tenant, receipt.positions[0])
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


def _looked_back(
    room: Room, task: str, tenant: str, finish: int
) -> tuple[Efficiency | None, int | None]:
    """The task's row of the efficiency report, None where it held nothing; and the event before
    ``finish`` that had finished it already, unless it was started since.

    It may be finished again all the same: a task need not be started, and may go on. Both are read
    from the log in one go.
    """
    from reports.efficiency import efficiency_of_task
    from reports.efficiency_uses import told

    bounds = {"task_started": False, "task_finished": True}
    before: int | None = None

    def rows() -> Iterator[Row]:
        nonlocal before
        for row in writer.log.read():
            about = row.type in bounds and row.task == task and row.tenant == tenant
            if about and row.position < finish:
                before = row.position if bounds[row.type] else None
            # A pool is opened under no tenant.
            if row.tenant in ("", tenant):
                yield row

    writer = room.ledger.writer
    now = writer.read(lambda book, now: now)
    efficiency = efficiency_of_task(told(rows(), task=task), task, now=now)
    return efficiency, before


def _in_words(row: Efficiency | None) -> str:
    from leasebook.cli.text import span_text

    if row is None or not row.allocations:
        return "; it held nothing"
    plural = "" if row.allocations == 1 else "s"
    return f"; {row.allocations} allocation{plural}, held for {span_text(row.held_ns / 1e9)}"
