"""``alert``: what the ledger has raised for a person to look at, and that it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from leasebook.cli.failures import MISSING, Failure
from leasebook.cli.options import VerbGroup, command_id, session_of

if TYPE_CHECKING:
    from ledger.book import Book

alert_command = VerbGroup("alert", help="Alerts: what a person should look at.")


def _pending(book: Book, now: int) -> list[dict[str, Any]]:
    from leasebook.when import rfc3339

    return [
        {"alert": name, "message": raised["message"], "raised_at": rfc3339(raised["at"])}
        for name, raised in sorted(book.alerts.items(), key=lambda each: (each[1]["at"], each[0]))
    ]


@alert_command.command("list")
@click.pass_context
def list_alerts(ctx: click.Context) -> None:
    """What was raised and is not cleared yet."""
    session = session_of(ctx)
    with session.open(read_only=True) as room:
        found = room.ledger.writer.read(_pending)
    if session.json:
        session.answer({"alerts": found})
        return
    from leasebook.cli.failures import one_line
    from leasebook.cli.text import clock_text

    for each in found:
        said = one_line(f"{each['alert']}: {each['message']}")
        print(f"{clock_text(each['raised_at'])}  {said}")
    if not found:
        print("no alert is pending")


@alert_command.command("clear")
@click.argument("name")
@click.option("--reason", metavar="TEXT", default="", help="Why it is over.")
@command_id
@click.pass_context
def clear_alert(ctx: click.Context, name: str, reason: str, command_id: str | None) -> None:
    """Say that alert NAME is over. The ledger raises it again when it comes to it again."""
    from leasebook.calling import new_command_id
    from leasebook.settings import default_holder
    from leasebook.values import refused
    from ledger.clock import CLOCK_ALERT
    from ledger.commands import ClearAlert
    from ledger.errors import InvalidInput

    if name == CLOCK_ALERT:
        raise InvalidInput(
            f"{name} is over when the wall clock is accepted", "use leasebook doctor --accept-clock"
        )
    session = session_of(ctx)
    clear = ClearAlert(
        command_id=command_id or new_command_id(), alert=name, by=default_holder(), reason=reason
    )
    with session.open() as room:
        receipt = room.ledger.carry_out(clear)
    if receipt.outcome == "refused":
        raise refused(receipt)
    if receipt.outcome == "unchanged":
        said = f"no alert {name[:60]!r} is pending"
        raise Failure("no_such_alert", said, "see `leasebook alert list`", MISSING)
    document = {
        "outcome": receipt.outcome,
        "positions": list(receipt.positions),
        "replayed": receipt.replayed,
    }
    session.answer(document, f"cleared  {name}")
