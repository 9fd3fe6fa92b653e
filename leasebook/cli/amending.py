"""The verbs that speak of earlier events: ``redact`` and ``correct``."""

from __future__ import annotations

import click

from leasebook.cli.failures import MISSING, Failure
from leasebook.cli.options import session_of, verb
from leasebook.cli.record import position_in
from leasebook.cli.session import Room


@verb("redact")
@click.argument("position", metavar="POS")
@click.option("--reason", required=True, metavar="TEXT", help="Why, for the record.")
@click.option("--by", metavar="WHO", help="Who does it; else $LEASEBOOK_HOLDER, or user@host.")
@click.pass_context
def redact_command(ctx: click.Context, position: str, reason: str, by: str | None) -> None:
    """Erase the metadata of one event. Its hash stays, so that the proof still holds."""
    session = session_of(ctx)
    at = position_in(position)
    with session.open() as room:
        log = room.ledger.writer.log
        _check_there(room, at)
        receipt = room.ask.redact(at, reason, by=by)
    # Closing the ledger has tried once more to overwrite what readers kept in use.
    pending = getattr(log, "erasure_pending", False)
    document = {
        "outcome": receipt.outcome,
        "positions": list(receipt.positions),
        "redacted": at,
        "erasure_pending": pending,
        "replayed": receipt.replayed,
    }
    session.answer(document, f"redacted  the metadata of event {at}")
    if pending:
        session.note(
            "a program is reading the ledger: the erased text lies in its file until every program"
            " that has it open has closed it"
        )


@verb("correct")
@click.argument("position", metavar="POS")
@click.option("--reason", required=True, metavar="TEXT", help="What was wrong, for the record.")
@click.option("--ended-at", metavar="WHEN", help="When its allocation really ended, if earlier.")
@click.option("--ended-by", metavar="CAUSE", help="How, such as crashed; with --ended-at.")
@click.option("--by", metavar="WHO", help="Who says so; else $LEASEBOOK_HOLDER, or user@host.")
@click.option("--id", "command_id", metavar="COMMAND_ID", help="One id, one effect.")
@click.pass_context
def correct_command(
    ctx: click.Context,
    position: str,
    reason: str,
    ended_at: str | None,
    ended_by: str | None,
    by: str | None,
    command_id: str | None,
) -> None:
    """Say that an event was wrong. It stays as it is; audit, show and at tell of both.

    With --ended-at, `leasebook at` counts the allocation as ended from then on, and
    `--as-known-at` shows what was believed before this was said.
    """
    session = session_of(ctx)
    at = position_in(position)
    with session.open() as room:
        _check_there(room, at)
        receipt = room.ask.correct(
            at, reason, ended_at=ended_at, ended_by=ended_by, by=by, command_id=command_id
        )
    document = {
        "outcome": receipt.outcome,
        "positions": list(receipt.positions),
        "corrects": at,
        "replayed": receipt.replayed,
    }
    session.answer(document, f"corrected  event {at}, by event {receipt.positions[0]}")


def _check_there(room: Room, position: int) -> None:
    """Raise Failure where there is no event at a position."""
    if not 0 < position <= room.ledger.writer.log.head().position:
        said = f"there is no event {position}"
        raise Failure("no_such_event", said, "see `leasebook events`", MISSING)
