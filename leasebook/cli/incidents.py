"""``incident``: export a window as one file, check such a file, and look into it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from leasebook.cli.failures import INVALID, UNPROVEN, Failure, about_file, one_line
from leasebook.cli.options import Verb, VerbGroup, session_of
from leasebook.cli.session import Session

if TYPE_CHECKING:
    from ledger.notes import SigningKey
    from projections.past import Past
    from reports.incidents.manifest import Manifest
    from reports.incidents.reading import Bundle
    from reports.incidents.window import Span

LOOKS = ("at", "diff", "replay", "show", "why", "audit", "events", "list")
"""The verbs that look into a bundle as they do into a ledger."""
_BEHIND = "leasebook.behind"

incident_command = VerbGroup(
    "incident", help="A window of the ledger as one file that proves itself anywhere."
)

key_option = click.option(
    "--key", metavar="VERIFIERKEY", help="The key that must have signed it; from another source."
)
kept_option = click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    metavar="FILE",
    help="A signed checkpoint that was kept elsewhere: the bundle's chain must pass through it.",
)
file_argument = click.argument("file", metavar="FILE")


# --- export --------------------------------------------------------------------------------------


@incident_command.command("export")
@file_argument
@click.option("--from", "since", required=True, metavar="WHEN", help="The window's begin.")
@click.option("--until", required=True, metavar="WHEN", help="Its end, which is not part of it.")
@click.option(
    "--pseudonyms",
    is_flag=False,
    flag_value="people",
    default="none",
    type=click.Choice(("none", "people", "all")),
    help="Replace names: of people, tasks, hosts (people), or of pools, nodes and labels too (all).",
)
@click.option(
    "--metadata/--no-metadata", default=True, help="Whether metadata goes along, or its hash only."
)
@click.option(
    "--seal",
    type=click.Choice(("head", "end")),
    default="head",
    help="Sign the log's head, with all digests up to it (default), or the window's end.",
)
@click.option(
    "--with-digests",
    "digests",
    is_flag=True,
    help="With --pseudonyms: put the digests in, though they let a guessed name be confirmed.",
)
@click.option("--note", default="", metavar="TEXT", help="A note of yours that goes into the file.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.pass_context
def export_(ctx: click.Context, /, file: str, since: str, until: str, **options: Any) -> None:
    """Write a window of the ledger to FILE, signed with this machine's key.

    WHEN is 06:49, 2026-11-22T06:49:00Z, 30m-ago, now, or a position such as #1234. The file checks
    itself: python3 FILE --key VERIFIERKEY
    """
    from ledger.errors import InvalidInput
    from reports.incidents.gathering import Choices, ledger_id_of
    from reports.incidents.writing import export

    session = session_of(ctx)
    force = options.pop("force")
    choices = Choices(**options)
    if len(choices.note) > 1_000 or not choices.note.isprintable():
        raise InvalidInput(
            "--note is too long or no plain line", "write one line of 1000 characters"
        )
    with _past(session) as past:
        span = _span(past, session, since, until)
        key = _signing_key(ledger_id_of(past))
        with about_file(file):
            done = export(
                past,
                file,
                span,
                key,
                now=time.time_ns(),
                program=_program(),
                choices=choices,
                force=force,
            )
    document = _document(done.manifest) | {"path": str(done.path), "bytes": done.size}
    session.answer(
        document,
        f"{one_line(str(done.path))}  {done.manifest.window_text()}; {done.size} bytes;"
        f" verifier key: {done.manifest.verifier_key}",
    )


def _program() -> str:
    from leasebook import __version__

    return f"leasebook {__version__}"


@contextmanager
def _past(session: Session) -> Iterator[Past]:
    from projections.past import Past

    with session.open(read_only=True) as room:
        writer = room.ledger.writer
        yield Past(writer.log, writer.snapshots)


def _span(past: Past, session: Session, since: str, until: str) -> Span:
    from leasebook.when import parse_when
    from reports.incidents.window import span_of

    now = time.time_ns()
    return span_of(past, parse_when(since, now), parse_when(until, now), now)


def _signing_key(ledger_id: str) -> SigningKey:
    """This machine's key for a ledger, made on first use, as `checkpoint` signs with."""
    from leasebook.settings import key_directory
    from ledger.notes import load_or_create_key

    return load_or_create_key(key_directory() / f"{ledger_id}.key", f"leasebook/{ledger_id}")


# --- verify and open -----------------------------------------------------------------------------


@incident_command.command("verify")
@file_argument
@key_option
@kept_option
@click.pass_context
def verify_(ctx: click.Context, file: str, key: str | None, checkpoints: tuple[str, ...]) -> None:
    """Check a bundle with this program's own code: exit code 0, or 6 where something is wrong."""
    _show(session_of(ctx), opened(file, key, checkpoints))


def opened(file: str, key: str | None = None, checkpoints: tuple[str, ...] = ()) -> Bundle:
    """A bundle that passed its checks. Raises Failure with exit code 6, or InvalidInput."""
    from leasebook.cli.record import _read_note
    from ledger.errors import InvalidInput
    from ledger.notes import BadKey
    from reports.incidents.container import BadBundle
    from reports.incidents.reading import open_bundle

    try:
        return open_bundle(file, key, [_read_note(name) for name in checkpoints])
    except BadKey as error:
        raise InvalidInput(error.message, error.hint) from None
    except BadBundle as error:
        raise Failure(
            "corrupt",
            f"{file}: {error.message}",
            error.hint or "trust nothing that it says, and get it again from its source",
            UNPROVEN,
        ) from None


def _document(manifest: Manifest) -> dict[str, Any]:
    """A bundle's page as JSON, its times as the contract writes them."""
    from leasebook.when import rfc3339
    from reports.incidents.manifest import does_not_prove, proves

    return {
        "ledger_id": manifest.ledger_id,
        "window": {
            "since": rfc3339(manifest.since),
            "until": rfc3339(manifest.until),
            "first": manifest.first,
            "last": manifest.last,
        },
        "base": manifest.base,
        "sealed": manifest.sealed,
        "exported_at": rfc3339(manifest.exported_at),
        "program": manifest.program,
        "pseudonyms": manifest.pseudonyms,
        "metadata": manifest.metadata,
        "digests": manifest.digests,
        "note": manifest.note,
        "verifier_key": manifest.verifier_key,
        "proves": proves(manifest),
        "does_not_prove": does_not_prove(manifest),
    }


def _show(session: Session, bundle: Bundle) -> None:
    from reports.incidents.checking import plain, summary

    checks = [{"check": f.check, "ok": True, "text": f.text} for f in bundle.findings]
    text = [f"ok      {f.check:<10}  {plain(f.text)}" for f in bundle.findings]
    text += ["", *summary(bundle.manifest)]
    document = {"ok": True, **_document(bundle.manifest), "checks": checks}
    session.answer(document, "\n".join(text))


class _Looking(Verb):
    """A verb behind whose file another one may follow, with arguments of its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        cut = next((i for i, word in enumerate(args) if i and word in LOOKS), len(args))
        ctx.meta[_BEHIND] = args[cut:]
        return super().parse_args(ctx, args[:cut])


@incident_command.command("open", cls=_Looking)
@click.argument("file", metavar="FILE [VERB …]")
@key_option
@kept_option
@click.pass_context
def open_(ctx: click.Context, file: str, key: str | None, checkpoints: tuple[str, ...]) -> Any:
    """Check a bundle and look into it. Nothing in it can be changed.

    Without a VERB it says what is in the bundle and what its checks found. The verbs are those of a
    ledger: at WHEN, diff WHEN WHEN, replay --from WHEN --until WHEN, show A17, why A17, audit, list
    and events. `now` is the bundle's end.
    """
    session = session_of(ctx)
    bundle = opened(file, key, checkpoints)
    behind: list[str] = ctx.meta[_BEHIND]
    if not behind:
        _show(session, bundle)
        return 0
    from leasebook.cli.app import program
    from leasebook.cli.bundled import BundleSession

    name, *arguments = behind
    if name == "audit" and bundle.manifest.pseudonyms != "none":
        raise Failure(
            "invalid",
            "an audit trail rests on the ledger's digests, which replaced names do not fit",
            "use why, events or replay",
            INVALID,
        )
    command = program().get_command(ctx, name)
    assert command is not None
    _check_names(file, bundle)
    ctx.obj = BundleSession(session, bundle)
    with command.make_context(name, arguments, parent=ctx) as inner:
        try:
            return command.invoke(inner)
        except (TypeError, AttributeError, LookupError, ValueError, ArithmeticError) as error:
            # Whoever signs a bundle with a key of their own can put values into it that no ledger has.
            raise _makes_no_sense(file, f"{type(error).__name__}: {error}") from error


def _check_names(file: str, bundle: Bundle) -> None:
    """Raise Failure for names that no ledger takes: a terminal might act on them."""
    for row in bundle.log.read():
        names = (row.tenant, row.pool, row.allocation, row.holder, row.task, row.command_id)
        if not all(name is None or name.isprintable() for name in names):
            raise _makes_no_sense(file, f"event {row.position} has a name that does not print")


def _makes_no_sense(file: str, why: str) -> Failure:
    return Failure(
        "corrupt",
        f"{file}: an event in it makes no sense, though it was signed: {why[:200]}",
        "trust nothing that it says, and compare its key with one from another source",
        UNPROVEN,
    )
