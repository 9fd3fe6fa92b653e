"""Upkeep: ``backup``, ``upgrade``, ``doctor``, ``sweep``, and the ``demo``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from leasebook.cli.failures import DONE, FAILED
from leasebook.cli.options import session_of, verb
from leasebook.cli.session import Room, Session


@verb("backup")
@click.argument("file")
@click.pass_context
def backup_command(ctx: click.Context, file: str) -> None:
    """Copy the ledger to the new FILE while it is in use, and check the copy."""
    from ledger.backup import backup

    session = session_of(ctx)
    made = backup(session.path(), file)
    document = {
        "path": str(made.path),
        "position": made.head.position,
        "head": made.head.hash.hex(),
        "size_bytes": made.size_bytes,
    }
    kib = made.size_bytes // 1024
    session.answer(document, f"{made.path}  {made.head.position} events, {kib} KiB, checked")


@verb("upgrade")
@click.pass_context
def upgrade_command(ctx: click.Context) -> None:
    """Bring an older ledger to this program's format, after a backup beside it."""
    from ledger.upgrade import upgrade

    session = session_of(ctx)
    path = session.path()
    done = upgrade(path)
    saved = None if done.backup_path is None else str(done.backup_path)
    document = {
        "path": str(path),
        "from_format": done.from_format,
        "to_format": done.to_format,
        "backup": saved,
    }
    if saved is None:
        session.answer(document, f"{path} is in format {done.to_format} already")
        return
    session.answer(
        document, f"{path}  format {done.from_format} to {done.to_format}; backup {saved}"
    )


@verb("doctor")
@click.option("--accept-clock", is_flag=True, help="Go by the wall clock again after it jumped.")
@click.pass_context
def doctor_command(ctx: click.Context, accept_clock: bool) -> int:
    """Examine the ledger and this machine: what is wrong, and what to do about it.

    Exit code 1 where something has to be mended.
    """
    from leasebook import doctor

    session = session_of(ctx)
    if accept_clock:
        from leasebook.settings import default_holder

        with session.open() as room:
            receipt = doctor.accept_clock(room.ledger.writer, default_holder())
        accepted = receipt.outcome == "alert_cleared"
        document = {"accepted": accepted, "positions": list(receipt.positions)}
        session.answer(
            document, "the clock is accepted" if accepted else "nothing to accept: no jump was seen"
        )
        return DONE
    findings = doctor.examine(None if session.where is None else session.path())
    session.answer(doctor.as_json(findings), doctor.as_text(findings))
    return FAILED if doctor.worst(findings) == "bad" else DONE


@verb("sweep")
@click.argument("names", nargs=-1, metavar="[NAME]…")
@click.option("--dry-run", is_flag=True, help="Only say what it would do.")
@click.pass_context
def sweep_command(ctx: click.Context, names: tuple[str, ...], dry_run: bool) -> None:
    """Run the sweeps of these NAMEs, or all, once: expire, crash, ending, observe."""
    from scheduler.sweeps import run_sweeps

    session = session_of(ctx)
    with session.open(read_only=dry_run) as room:
        reports = [asdict(r) for r in run_sweeps(room.ledger.writer, names or None, dry_run)]
        if not dry_run:
            _take_in(session, room)
    if session.json:
        session.answer({"dry_run": dry_run, "sweeps": reports})
        return
    for report in reports:
        did = "record" if report["name"] == "observe" else "end"
        would = f"would {did}" if dry_run else f"{did}ed"
        print(f"{report['name']}: {would} {report['acted']} of {report['examined']}")
        for detail in report["details"]:
            print(f"  {_detail(detail)}")


def _take_in(session: Session, room: Room) -> None:
    """Record what ran while the ledger could not be written."""
    from leasebook.manager import ResourceManager
    from leasebook.run.spool import SpoolUnusable, record_spooled

    try:
        recorded = record_spooled(ResourceManager(room.ledger))
    except SpoolUnusable as error:
        # The sweeps have done their work, and what they did is worth more than this.
        session.note(error.message)
        return
    if recorded:
        session.note(f"{recorded} runs that were not recorded at their time are in the ledger now")


def _detail(detail: dict[str, Any]) -> str:
    if detail["cause"] == "observed":
        from ledger.amounts import format_amounts

        used = " ".join(f"{r}={text}" for r, text in format_amounts(detail["outside"]).items())
        whose = "; ".join(detail["basis"].values())
        shown = f"{used or 'nothing'}" + (f" ({whose})" if whose else "")
        return f"others use on {detail['node']} of {detail['pool']}: {shown}"
    return f"{detail['allocation']} of {detail['holder']} in {detail['pool']}: {detail['cause']}"


@verb("demo")
@click.option("--quick", is_flag=True, help="Smaller work, done sooner.")
@click.pass_context
def demo_command(ctx: click.Context, quick: bool) -> int:
    """Watch it work: real processes compete for a pool of this machine. Under a minute."""
    from leasebook import demo

    session = session_of(ctx)
    return demo.main(session.named(), quick=quick, as_json=session.json)
