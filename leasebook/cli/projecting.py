"""``projections``: where the tables of the views file stand, made anew, and checked."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from leasebook.cli.failures import DONE, UNPROVEN
from leasebook.cli.options import VerbGroup, session_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leasebook.cli.session import Session
    from projections.engine import Engine, Progress, Status

names_given = click.argument("names", nargs=-1, metavar="[NAME]…")


@click.group("projections", cls=VerbGroup)
def projections_command() -> None:
    """Tables in NAME.views.db that SQL, Datasette and pandas can read; made from the log alone."""


def _engine(session: Session) -> Iterator[Engine]:
    from ledger.sqlite_log import SqliteLog
    from projections.engine import Engine, views_path

    with (
        SqliteLog.open(session.path(), read_only=True) as log,
        Engine(log, views_path(log.path)) as engine,
    ):
        yield engine


@projections_command.command("status")
@click.pass_context
def status_command(ctx: click.Context) -> None:
    """Where each projection stands. Changes nothing."""
    session = session_of(ctx)
    for engine in _engine(session):
        found = engine.status()
        document = {
            "path": str(engine.path),
            "position": found[0].head,
            "projections": [_document(status) for status in found],
        }
        session.answer(document, _table(found))


@projections_command.command("rebuild")
@names_given
@click.pass_context
def rebuild_command(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Make projections anew (these, or all) while the present ones go on answering.

    Without names it also mends a file that is damaged: that is taken away first, as all in it comes
    from the log.
    """
    session = session_of(ctx)
    for engine in _engine(session):
        progress = engine.rebuild(names or None)
        session.answer(_progress(progress), _rebuilt(progress))


@projections_command.command("check")
@names_given
@click.pass_context
def check_command(ctx: click.Context, names: tuple[str, ...]) -> int:
    """Make projections anew aside and compare: exit code 6 and the first difference, if there is one."""
    session = session_of(ctx)
    code = DONE
    for engine in _engine(session):
        found = engine.check(names or None)
        stopped = [
            s for s in engine.status() if s.state != "live" and s.name in (names or (s.name,))
        ]
        document: dict[str, Any] = {
            "ok": found is None,
            "difference": None if found is None else _difference(found),
            "unchecked": [s.name for s in stopped],
        }
        said = "the projections are what the log adds up to" if found is None else str(found)
        for status in stopped:
            said += f"\nnot checked: {status.name}, which is {status.state}"
        session.answer(document, said)
        if found is not None:
            session.note(
                f"{found.table} differs; run `leasebook projections rebuild {found.projection}`"
            )
            code = UNPROVEN
    return code


def _document(status: Status) -> dict[str, Any]:
    from leasebook.when import rfc3339

    document = asdict(status)
    document["updated_at"] = rfc3339(status.updated_at)
    document["behind"] = status.behind
    document["tables"] = list(status.tables)
    return document


def _difference(found: Any) -> dict[str, Any]:
    document = asdict(found)
    for side in ("live", "rebuilt"):
        value = document[side]
        if isinstance(value, bytes):
            document[side] = value.hex()
    return document


def _progress(progress: Progress) -> dict[str, Any]:
    document = asdict(progress)
    document["rebuilt"], document["failed"] = list(progress.rebuilt), list(progress.failed)
    return document


def _rebuilt(progress: Progress) -> str:
    said = f"made anew up to {progress.position}: {', '.join(progress.rebuilt)}"
    if progress.failed:
        said += f"\nfailed: {', '.join(progress.failed)}; see `leasebook projections status`"
    return said


def _table(found: list[Status]) -> str:
    lines = [f"{'projection':<12} {'state':<11} {'position':>10} {'behind':>8}  tables"]
    for s in found:
        tables = ", ".join(s.tables)
        lines.append(f"{s.name:<12} {s.state:<11} {s.position:>10} {s.behind:>8}  {tables}")
        if s.error is not None:
            lines.append(f"{'':<12} stopped at {s.failed_position}: {s.error}")
            lines.append(f"{'':<12} `leasebook projections rebuild {s.name}` tries again")
        elif s.note is not None:
            lines.append(f"{'':<12} made anew the last time: {s.note}")
    return "\n".join(lines)
