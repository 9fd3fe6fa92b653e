"""The verbs on one allocation: ``withdraw``, ``confirm``, ``adjust``, ``renew``, ``release``,
``transfer`` and ``reclaim``."""

from __future__ import annotations

from typing import Any

import click

from leasebook.cli.options import (
    allocation,
    amounts_in,
    claim,
    command_id,
    session_of,
    verb,
)
from leasebook.cli.session import Room, Session


def _answer(session: Session, room: Room, call: Any, said: str) -> None:
    """Carry a call out and show its result."""
    from leasebook.mapping import result_out

    result = result_out(room.carry_out(call))
    if session.json:
        session.answer(result)
        return
    from leasebook.cli.text import allocation_text

    again = "  (carried out before)" if result["replayed"] else ""
    held = result.get("allocation")
    shown = "nothing changed" if held is None else f"{said}  {allocation_text(held)}"
    print(shown + again)


@verb("withdraw")
@allocation
@claim
@click.option("--reason", default="", metavar="TEXT", help="Why, for the record.")
@click.pass_context
def withdraw_command(ctx: click.Context, /, allocation: str, **options: Any) -> None:
    """Give up a place in the queue, or a reservation."""
    session = session_of(ctx)
    with session.open() as room:
        _answer(session, room, room.calls.withdraw(allocation, **options), "withdrawn")


@verb("confirm")
@allocation
@claim
@click.pass_context
def confirm_command(ctx: click.Context, /, allocation: str, **options: Any) -> None:
    """Turn a reservation into an allocation."""
    session = session_of(ctx)
    with session.open() as room:
        _answer(session, room, room.calls.confirm(allocation, **options), "confirmed")


@verb("adjust")
@allocation
@click.argument("amounts", nargs=-1, required=True, metavar="RESOURCE=AMOUNT…")
@claim
@click.pass_context
def adjust_command(
    ctx: click.Context, /, allocation: str, amounts: tuple[str, ...], **options: Any
) -> None:
    """Hold other amounts on the same node. What is not named stays; 0 gives a resource up."""
    session = session_of(ctx)
    with session.open() as room:
        call = room.calls.adjust(allocation, amounts_in(amounts), **options)
        _answer(session, room, call, "adjusted")


@verb("renew")
@click.argument("allocation", metavar="[ALLOCATION]", required=False)
@click.option("--ttl", metavar="TIME", help="From now on; else the ttl that it was asked with.")
@claim
@click.pass_context
def renew_command(
    ctx: click.Context, /, allocation: str | None, ttl: str | None, **options: Any
) -> None:
    """Extend the lease of ALLOCATION, or with --holder alone all leases of that holder.

    A renewal never shortens a lease.
    """
    session = session_of(ctx)
    with session.open() as room:
        if allocation is not None:
            call = room.calls.renew(allocation, ttl=ttl, **options)
            _answer(session, room, call, "renewed")
            return
        holder, tenant = options["holder"], options["tenant"] or "default"
        if holder is None or options["token"] is not None:
            raise click.UsageError("name an allocation, or give --holder alone for all of it", ctx)
        everything = room.calls.renew_holder(
            holder, ttl=ttl, tenant=tenant, command_id=options["command_id"]
        )
        _answer_holder(session, room, everything)


def _answer_holder(session: Session, room: Room, call: Any) -> None:
    from leasebook.when import rfc3339

    receipt = room.carry_out(call)
    body: Any = None if receipt.event is None else receipt.event.body
    ends = {} if body is None else dict(zip(body.allocations, body.ends, strict=True))
    result: dict[str, Any] = {
        "outcome": receipt.outcome,
        "positions": list(receipt.positions),
        "renewed": [{"id": name, "expires_at": rfc3339(end)} for name, end in ends.items()],
        "replayed": receipt.replayed,
    }
    if session.json:
        session.answer(result)
        return
    from leasebook.cli.text import clock_text

    for one in result["renewed"]:
        print(f"renewed  {one['id']}  until {clock_text(one['expires_at'])}")


@verb("release")
@allocation
@click.option(
    "--consumed", multiple=True, metavar="RESOURCE=AMOUNT", help="What was really spent of it."
)
@claim
@click.pass_context
def release_command(
    ctx: click.Context, /, allocation: str, consumed: tuple[str, ...], **options: Any
) -> None:
    """Give an allocation back."""
    session = session_of(ctx)
    with session.open() as room:
        spent = amounts_in(consumed) if consumed else None
        _answer(
            session, room, room.calls.release(allocation, consumed=spent, **options), "released"
        )


@verb("transfer")
@allocation
@click.option("--to", required=True, metavar="H", help="Who holds it from now on.")
@click.option("--to-task", metavar="TASK", help="The task that it is for from now on.")
@click.option("--pid", type=int, metavar="PID", help="Bind it to this process from now on.")
@click.option("--ttl", metavar="TIME", help="Its lease from now on.")
@claim
@click.pass_context
def transfer_command(ctx: click.Context, /, allocation: str, **options: Any) -> None:
    """Hand an allocation to another holder. Its fencing token changes."""
    session = session_of(ctx)
    with session.open() as room:
        _answer(session, room, room.calls.transfer(allocation, **options), "transferred")


@verb("reclaim")
@allocation
@click.option("--force", is_flag=True, help="Needed: its holder may still be using it.")
@click.option("--reason", required=True, metavar="TEXT", help="Why, for the record.")
@click.option("--by", metavar="WHO", help="Who does it; else $LEASEBOOK_HOLDER, or user@host.")
@click.option(
    "--grace",
    default="10s",
    show_default=True,
    metavar="TIME",
    help="How long a living process has to end by itself.",
)
@click.option("--tenant", metavar="T", help="The tenant; else the allocation's own.")
@command_id
@click.pass_context
def reclaim_command(ctx: click.Context, /, allocation: str, force: bool, **options: Any) -> None:
    """Take an allocation back by force, as the operator.

    Bound to a process that lives it becomes `ending` first, and ends when the process is gone.
    """
    session = session_of(ctx)
    if not force:
        raise click.UsageError("its holder may still use it: reclaim it with --force", ctx)
    with session.open() as room:
        _answer(session, room, room.calls.reclaim(allocation, **options), "reclaimed")
