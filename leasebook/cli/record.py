"""The verbs on the record itself: ``events``, ``verify`` and ``checkpoint``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leasebook.cli.failures import UNPROVEN, Failure, about_file
from leasebook.cli.options import filters, session_of, verb
from leasebook.cli.session import Room, Session, print_json, print_json_text, to_json

if TYPE_CHECKING:
    from ledger.events import Event
    from ledger.log import Row
    from ledger.notes import SigningKey, VerifierKey
    from ledger.verify import NotedHead, VerifyResult

FOLLOW_EVERY_S = 0.2
NOTE_CHARACTERS_MAX = 1_000_000


# --- events --------------------------------------------------------------------------------------


@verb("events")
@click.option("--after", metavar="POS", default="0", help="After this position.")
@click.option("--type", "type", metavar="TYPE", help="Of this type only, such as refused.")
@filters
@click.option("--since", metavar="WHEN", help="From this time or position on.")
@click.option("--until", metavar="WHEN", help="Before this time or position.")
@click.option("--limit", type=click.IntRange(0, 2**62), metavar="N", help="At most so many.")
@click.option("--follow", is_flag=True, help="Go on with what comes; with --json as JSON Lines.")
@click.pass_context
def events_command(
    ctx: click.Context,
    /,
    after: str,
    since: str | None,
    until: str | None,
    limit: int | None,
    follow: bool,
    **wanted: Any,
) -> None:
    """The log's events, oldest first.

    WHEN is 06:49, 2026-11-22T06:49:00Z, 30m-ago, now, or a position such as #1234.
    """
    session = session_of(ctx)
    if follow and until is not None:
        raise click.UsageError("--follow has no end, so it takes no --until", ctx)
    bounds = _bounds(position_in(after), since, until)
    with session.open(read_only=True) as room:
        _check_type(room, wanted["type"])
        if follow:
            _follow(room, session, bounds, limit, wanted)
            return
        found = room.ask.rows(**bounds, limit=limit, **wanted)
        if session.json:
            _print_document(found, room.ledger.writer.log.head().position, bounds)
        else:
            for row in found:
                print(row_text(row))


def _check_type(room: Room, name: str | None) -> None:
    """Raise InvalidInput for a type that neither the program nor the log knows."""
    from ledger.codec import EVENT_TYPES
    from ledger.errors import InvalidInput

    if name is None or name in EVENT_TYPES or any(room.ask.rows(type=name, limit=1)):
        return
    raise InvalidInput(
        f"there is no event type {name[:40]!r}", f"there are {', '.join(EVENT_TYPES)}"
    )


def position_in(text: str) -> int:
    """A position from ``1234`` or ``#1234``. Raises InvalidInput."""
    from ledger.errors import InvalidInput

    digits = text.removeprefix("#")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise InvalidInput(f"{text[:40]!r} is not a position", "give a whole number from 0")
    return int(digits)


def _bounds(after: int, since: str | None, until: str | None) -> dict[str, Any]:
    """``after`` and ``upto`` (positions), ``since`` and ``until`` (ns UTC), as questions take them."""
    from leasebook.when import parse_when

    now = time.time_ns()
    bounds: dict[str, Any] = {"after": after, "upto": None, "since": None, "until": None}
    if since is not None:
        kind, value = parse_when(since, now)
        if kind == "position":
            bounds["after"] = max(after, value - 1)
        else:
            bounds["since"] = value
    if until is not None:
        kind, value = parse_when(until, now)
        if kind == "position":
            bounds["upto"] = max(0, value - 1)
        else:
            bounds["until"] = value
    return bounds


def _print_document(found: Iterator[Row], head: int, bounds: dict[str, Any]) -> None:
    """One JSON document, written as it is read: a log may be larger than memory."""
    from leasebook.when import rfc3339

    print_json_text('{"events":[', end="")
    comma = ""
    for row in found:
        print_json_text(comma + to_json(_out(row)), end="")
        comma = ","
    echoed = {name: rfc3339(bounds[name]) for name in ("since", "until")}
    print_json_text("]," + to_json({"position": head, **echoed})[1:])


def _follow(
    room: Room,
    session: Session,
    bounds: dict[str, Any],
    limit: int | None,
    wanted: dict[str, Any],
) -> None:
    """What is there, then what comes, until the limit is reached or the reader stops."""
    log = room.ledger.writer.log
    after = bounds["after"] or 0
    left = limit
    while left is None or left > 0:
        head = log.head().position
        if head <= after:
            time.sleep(FOLLOW_EVERY_S)
            continue
        asked = bounds | {"after": after, "upto": head}
        for row in room.ask.rows(**asked, limit=left, **wanted):
            if session.json:
                print_json(_out(row))
            else:
                print(row_text(row))
            left = None if left is None else left - 1
        if sys.stdout is not None:
            sys.stdout.flush()
        after = head


def _out(row: Row) -> dict[str, Any]:
    from leasebook.mapping import event_out, row_out
    from ledger.codec import UnknownEvent, from_row

    try:
        return event_out(from_row(row))
    except UnknownEvent:
        return row_out(row)


def row_text(row: Row) -> str:
    """One event on one line; of a type that only a newer program knows, what is stored."""
    from leasebook.cli.text import clock_text
    from leasebook.when import rfc3339
    from ledger.codec import UnknownEvent, from_row

    try:
        return event_text(from_row(row))
    except UnknownEvent:
        at = clock_text(rfc3339(row.at) or "")
        return f"#{row.position}  {at}  {row.type}  (of a newer program)  {row.data}"


def event_text(event: Event) -> str:
    """One event on one line: position, time, type, whose, what in words."""
    from leasebook.cli.text import clock_text
    from leasebook.when import rfc3339
    from projections.stories import sentence

    at = clock_text(rfc3339(event.at) or "")
    said = sentence(event)
    words = "" if said == event.type.replace("_", " ") else f"  {said}"
    subject = next((s for s in (event.allocation, event.pool, event.task) if s), "")
    return f"#{event.position}  {at}  {event.type}  {subject}{words}".rstrip()


# --- proof ---------------------------------------------------------------------------------------


@verb("verify")
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    metavar="FILE",
    help="A signed checkpoint that was kept elsewhere: the log must still contain it.",
)
@click.option(
    "--key", metavar="VERIFIERKEY", help="What it was signed with; else this machine's own key."
)
@click.pass_context
def verify_command(ctx: click.Context, checkpoints: tuple[str, ...], key: str | None) -> int:
    """Prove that the log is whole and unchanged: exit code 0, or 6 where it is not."""
    from ledger.errors import LedgerCorrupt
    from ledger.verify import VerifyResult

    session = session_of(ctx)
    if key is not None and not checkpoints:
        raise click.UsageError("--key is for a --checkpoint", ctx)
    try:
        with session.open(read_only=True) as room:
            result = _verified(room, checkpoints, key)
    except LedgerCorrupt as error:
        result = VerifyResult(False, 0, bytes(32), error.position or 1, 0, error.message)
    if session.json:
        print_json(result.as_json())
    elif result.ok:
        redacted = f", {result.redacted} redacted" if result.redacted else ""
        proved = f", {len(checkpoints)} checkpoints hold" if checkpoints else ""
        print(f"whole: {result.events} events{redacted}{proved}, head {result.head.hex()}")
    else:
        raise Failure(
            "corrupt",
            f"the log is not whole: {result.reason}",
            "keep the file as it is, and compare it with a backup",
            UNPROVEN,
        )
    return 0 if result.ok else UNPROVEN


def _verified(room: Room, checkpoints: tuple[str, ...], key: str | None) -> VerifyResult:
    from dataclasses import replace

    from ledger.notes import BadNote
    from ledger.verify import verify

    log = room.ledger.writer.log
    try:
        notes = _noted(room, checkpoints, key) if checkpoints else []
    except BadNote as error:
        # The log may be whole all the same, but it is not what the note was to prove.
        return replace(verify(log), ok=False, first_bad=None, reason=error.message)
    return verify(log, notes=notes)


def _noted(room: Room, checkpoints: tuple[str, ...], key: str | None) -> list[NotedHead]:
    """The heads of signed checkpoints. Raises BadNote, InvalidInput."""
    from ledger.notes import BadNote, open_note
    from ledger.verify import NotedHead

    verifier = _verifier(room, key)
    heads = []
    for file in checkpoints:
        note = open_note(_read_note(file), verifier)
        if note.origin != verifier.name:
            raise BadNote(f"{file} is a checkpoint of {note.origin!r}, not of {verifier.name!r}")
        if note.origin != _origin(room):
            raise BadNote(f"{file} is a checkpoint of another ledger, {note.origin}")
        heads.append(NotedHead(note.size, note.root))
    return heads


def _read_note(file: str) -> str:
    """The text of a checkpoint's file. Raises InvalidInput where it has not even the look of one."""
    from ledger.errors import InvalidInput

    try:
        with Path(file).open(encoding="utf-8", newline="") as stream:
            text = stream.read(NOTE_CHARACTERS_MAX + 1)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "it is no text"
        raise InvalidInput(f"{file} cannot be read: {why}", "name a checkpoint's file") from None
    origin, *more = text.split("\n", 2)
    if not origin or len(more) < 2 or not more[0].isdecimal():
        # One that was damaged or changed is another matter: it is what it was kept for.
        raise InvalidInput(
            f"{file} is no checkpoint: it does not begin with an origin, a size and a root",
            "name the file that `leasebook checkpoint` wrote",
        )
    return text


def _verifier(room: Room, key: str | None) -> VerifierKey:
    """The key as given, else this machine's own for this ledger. Raises InvalidInput."""
    from ledger.errors import InvalidInput
    from ledger.notes import BadKey, VerifierKey

    if key is None:
        path = _key_path(room)
        if not path.exists():
            raise InvalidInput(
                "this machine has signed no checkpoint of this ledger",
                "give the verifier key that `leasebook checkpoint` showed: --key",
            )
        return _signing_key(room).verifier
    try:
        return VerifierKey.parse(key)
    except BadKey as error:
        raise InvalidInput(error.message, error.hint) from None


def _ledger_id(room: Room) -> str:
    from ledger.codec import from_row
    from ledger.errors import LedgerCorrupt
    from ledger.events import LedgerOpened

    for row in room.ledger.writer.log.read(0, 1):
        body = from_row(row).body
        if isinstance(body, LedgerOpened):
            return body.ledger_id
    raise LedgerCorrupt("the log does not begin with its name", "restore a backup", position=1)


def _origin(room: Room) -> str:
    return f"leasebook/{_ledger_id(room)}"


def _key_path(room: Room) -> Path:
    from leasebook.settings import key_directory

    return key_directory() / f"{_ledger_id(room)}.key"


def _signing_key(room: Room) -> SigningKey:
    """This machine's key for this ledger, made on first use. Raises LedgerUnavailable."""
    from ledger.errors import LedgerUnavailable
    from ledger.notes import load_or_create_key

    path = _key_path(room)
    try:
        return load_or_create_key(path, _origin(room))
    except OSError as error:
        raise LedgerUnavailable(
            f"the signing key {path} can be neither read nor made ({error.strerror})",
            "check its folder's permissions and free space; $XDG_STATE_HOME names another",
        ) from error


@verb("checkpoint")
@click.option("--out", metavar="FILE", help="Write it to this new file.")
@click.pass_context
def checkpoint_command(ctx: click.Context, out: str | None) -> None:
    """Sign the log's head with this machine's key, which is made on first use.

    Keep the note and the verifier key elsewhere: `leasebook verify --checkpoint` then shows whether
    anything before it was changed or cut off.
    """
    from ledger.notes import Note, sign_note

    session = session_of(ctx)
    with session.open(read_only=True) as room:
        origin = _origin(room)
        head = room.ledger.writer.log.head()
        key = _signing_key(room)
    note = sign_note(Note(origin, head.position, head.hash), key)
    if out is not None:
        _write_new(out, note)
    if session.json:
        print_json(
            {
                "origin": origin,
                "size": head.position,
                "root": head.hash.hex(),
                "note": note,
                "verifier_key": str(key.verifier),
                "path": out,
            }
        )
        return
    if out is None:
        print(note, end="")
        session.note(f"verifier key: {key.verifier}")
    else:
        print(f"{out}  signed at event {head.position}; verifier key: {key.verifier}")


def _write_new(file: str, text: str) -> None:
    """Write a file that is not there yet, whole or not at all. Raises InvalidInput, OSError."""
    from ledger.errors import InvalidInput

    path = Path(file)
    try:
        stream = path.open("x", encoding="utf-8")
    except FileExistsError:
        raise InvalidInput(f"{file} exists already", "choose another name") from None
    except ValueError:
        raise InvalidInput(f"{file!r} is no file name", "choose another name") from None
    try:
        with about_file(file), stream:
            stream.write(text)
    except BaseException:
        # The part that was written would be in the way of the next attempt.
        path.unlink(missing_ok=True)
        raise
