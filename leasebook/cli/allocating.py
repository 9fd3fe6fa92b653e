"""``allocate`` and ``wait``."""

from __future__ import annotations

import contextlib
import shlex
import signal
from collections.abc import Iterator
from typing import Any

import click

from leasebook.cli.failures import CONFLICT, DONE, WAITING, Failure, code_of
from leasebook.cli.options import (
    allocation,
    amounts_in,
    command_id,
    pairs_in,
    session_of,
    verb,
    wait_in,
)
from leasebook.cli.session import Room, Session, print_json

ENQUEUED_FOR = "24h"
RESERVED_FOR = "60s"


@verb("allocate")
@click.argument("pool")
@click.argument("amounts", nargs=-1, required=True, metavar="RESOURCE=AMOUNT…")
@click.option("--holder", metavar="H", help="Who asks; else $LEASEBOOK_HOLDER, or user@host.")
@click.option("--task", metavar="TASK", help="What it is for.")
@click.option("--tenant", metavar="T", default="default", show_default=True, help="The tenant.")
@click.option("--ttl", metavar="TIME", help="The lease, such as 60s or 2h.  [default: 15m]")
@click.option("--pid", type=int, metavar="PID", help="Bind it to this process instead of a ttl.")
@click.option("--wait", metavar="TIME", help="Keep a place in the queue and block for so long.")
@click.option(
    "--enqueue",
    is_flag=True,
    help=f"Keep a place (for --wait, else {ENQUEUED_FOR}) and return at once; exit code 7.",
)
@click.option("--priority", metavar="P", default="normal", help="low, normal, high or critical.")
@click.option("--strategy", metavar="S", help="Such as first_fit or best_fit; else the pool's.")
@click.option("--select", multiple=True, metavar="LABEL=VALUE", help="Only on nodes so labelled.")
@click.option("--spread", type=int, metavar="N", help="Spread over so many nodes.")
@click.option("--sticky", metavar="KEY", help="Prefer the node that this key was on before.")
@click.option("--max-age", metavar="TIME", help="However often it is renewed, never longer.")
@click.option("--parent", metavar="ALLOCATION", help="Draw on what this allocation holds.")
@click.option("--reserve", is_flag=True, help="Only reserve it; `leasebook confirm` takes it.")
@click.option(
    "--reserve-for",
    metavar="TIME",
    help=f"How long a reservation stands.  [default: {RESERVED_FOR}]",
)
@click.option("--meta", multiple=True, metavar="KEY=VALUE", help="Free-form, redactable metadata.")
@command_id
@click.option(
    "--print",
    "printed",
    type=click.Choice(["id", "node", "env"]),
    help="Print only this: the id, the node, or lines for a shell's eval.",
)
@click.pass_context
def allocate_command(
    ctx: click.Context,
    /,
    pool: str,
    amounts: tuple[str, ...],
    wait: str | None,
    enqueue: bool,
    select: tuple[str, ...],
    reserve: bool,
    reserve_for: str | None,
    meta: tuple[str, ...],
    printed: str | None,
    **options: Any,
) -> int:
    """Ask POOL for capacity: granted, waiting or refused.

    Amounts such as cpu=2 memory=4GiB gpu=500m. Exit code 0 when granted, 3 when refused, 7 when it
    waits.
    """
    session = session_of(ctx)
    if printed and session.json:
        raise click.UsageError("--print and --json exclude each other", ctx)
    kept = wait_in(wait) or (ENQUEUED_FOR if enqueue else None)
    with session.open() as room:
        call = room.calls.try_allocate(
            amounts_in(amounts),
            pool=pool,
            wait=kept,
            select=pairs_in("--select", select),
            metadata=pairs_in("--meta", meta),
            reserve=(reserve_for or RESERVED_FOR) if reserve or reserve_for else None,
            # Under an id of its caller's choosing somebody may come back for it.
            blocks=not enqueue and options["command_id"] is None,
            **options,
        )
        receipt = room.receipt(call)
        result = call.convert(receipt).to_json()
        if result["outcome"] == "waiting" and not enqueue:
            if not session.json:
                from leasebook.cli.text import waiting_text

                session.note(waiting_text(result))
            result = _wait(room, result)
        return _answer(session, result, printed)


def _wait(room: Room, result: dict[str, Any]) -> dict[str, Any]:
    """Block until a place in the queue is granted or lost; give it up when interrupted."""
    waiting = result["allocation"]
    try:
        with _stopped_by_signals():
            return _result_of_wait(room, waiting["id"], None, result["positions"])
    except BaseException:
        from ledger.errors import LeasebookError

        with contextlib.suppress(LeasebookError):
            _give_up(room, waiting)
        raise


def _give_up(room: Room, waiting: dict[str, Any]) -> None:
    """Leave the queue; what was granted at this very moment goes back."""
    mine = {"holder": waiting["holder"], "tenant": waiting["tenant"]}
    left = room.receipt(room.calls.withdraw(waiting["id"], reason="interrupted", **mine))
    if left.outcome == "refused":
        room.receipt(room.calls.release(waiting["id"], **mine))


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """TERM and HUP end the wait in an orderly way, as Ctrl-C does."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    try:
        before = [(n, signal.signal(n, stop)) for n in (signal.SIGTERM, signal.SIGHUP)]
    except ValueError:
        # Only the main thread may set them; elsewhere there is nobody to stop us so.
        before = []
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _result_of_wait(
    room: Room, name: str, timeout: str | None, positions: list[int]
) -> dict[str, Any]:
    """Block, then the result as it is by then: granted, waiting still, or refused."""
    from leasebook.waiting import no_longer_waiting
    from ledger.amounts import parse_duration_ns

    limit_s = None if timeout is None else parse_duration_ns(timeout, allow_zero=True) / 1e9
    room.ask.get(name)
    room.ledger.waiter.until(name, no_longer_waiting, limit_s)
    handle = room.ask.get(name)
    shown = handle.to_json()
    out: dict[str, Any] = {"outcome": "granted", "positions": positions, "allocation": shown}
    if handle.state == "waiting":
        out |= {"outcome": "waiting", **_prospect(room, name)}
    elif handle.state == "ended" and not handle.fencing_token:
        reason = "wait_timed_out" if handle.ended_by == "timed_out" else "already_ended"
        out |= {
            "outcome": "refused",
            "id": name,
            "reason": reason,
            "message": f"{name} left the queue without a grant: {handle.ended_by}",
            "hint": f"see `leasebook why {name}`, and ask again",
            "shortfall": {},
            "fits_now": {},
            "blockers": [],
        }
    return out | {"replayed": False}


def _prospect(room: Room, waiting: str) -> dict[str, Any]:
    """What can be told of a request that still waits."""
    from leasebook.mapping import prospect_out
    from ledger.rules.prospects import prospect

    def look(book: Any, now: int) -> Any:
        present = book.allocations.get(waiting)
        return None if present is None else prospect(book, present, now)

    return prospect_out(room.ledger.writer.read(look))


def _answer(session: Session, result: dict[str, Any], printed: str | None) -> int:
    """Say what a request came to, and the exit code for it."""
    code = _code_for(result)
    if session.json:
        print_json(result)
        return code
    from leasebook.cli import text

    if result["outcome"] == "refused":
        line = text.refusal_text(result, hint=False)
        raise Failure(result["reason"], line, result["hint"], code)
    held = result["allocation"]
    if code == CONFLICT:
        raise Failure(
            "already_ended",
            f"this command was carried out before, and {held['id']} has ended since:"
            f" {held['ended_by']}",
            "use a new --id for a new request",
            CONFLICT,
        )
    waits = result["outcome"] == "waiting"
    if printed is not None:
        print(_printed(held, printed))
    else:
        again = "  (carried out before)" if result["replayed"] else ""
        print((text.waiting_text(result) if waits else text.allocation_text(held)) + again)
    return code


def _code_for(result: dict[str, Any]) -> int:
    if result["outcome"] == "refused":
        return code_of(result["reason"])
    if result["outcome"] == "waiting":
        return WAITING
    return CONFLICT if result["allocation"]["state"] == "ended" else DONE


def _printed(a: dict[str, Any], what: str) -> str:
    """One fact for a shell: the id, the nodes, or assignments for its ``eval``."""
    nodes = " ".join(placed["node"] for placed in a["placements"])
    if what == "id":
        return str(a["id"])
    if what == "node":
        return nodes
    lines = {
        "LEASEBOOK_ALLOCATION": a["id"],
        "LEASEBOOK_HOLDER": a["holder"],
        "LEASEBOOK_POOL": a["pool"],
    }
    if nodes:
        lines["LEASEBOOK_NODE"] = nodes
    cards = [
        card for placed in a["placements"] for card in (placed.get("devices") or {}).get("gpu", {})
    ]
    if len(a["placements"]) == 1 and cards:
        lines["CUDA_VISIBLE_DEVICES"] = ",".join(cards)
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in lines.items())


@verb("wait")
@allocation
@click.option("--timeout", metavar="TIME", help="Return after so long, still waiting: exit code 7.")
@click.pass_context
def wait_command(ctx: click.Context, allocation: str, timeout: str | None) -> int:
    """Block until a waiting request is granted, or lost. Its place stays when this is interrupted.

    It stays from then on when whoever asked for it dies, too.
    """
    session = session_of(ctx)
    with session.open() as room:
        result = _result_of_wait(room, allocation, timeout, [])
        if result["outcome"] == "granted" and result["allocation"]["state"] == "ended":
            ended = result["allocation"]
            raise Failure(
                "already_ended",
                f"{ended['id']} has ended already: {ended['ended_by']}",
                f"see `leasebook why {ended['id']}`",
                CONFLICT,
            )
        return _answer(session, result, None)
