"""Making a bundle: a window's events, the state before them, and the chain to a signed head.

What was made is checked as its reader will check it, before it is put in its place.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ledger.errors import InvalidInput, LedgerCorrupt
from ledger.log import GENESIS, Head
from ledger.notes import Note, SigningKey, sign_note
from projections.past import Past
from reports.incidents.checking import Examination, key_in, summary
from reports.incidents.container import (
    BASE_BOOK,
    CHECKPOINT,
    DIGESTS,
    EVENTS,
    FILE_BYTES_MAX,
    MANIFEST,
    READ_ME,
    BadBundle,
    packed,
)
from reports.incidents.gathering import CORRUPT, Choices, Part, chain, gather, too_large
from reports.incidents.manifest import SEALED_LINE, Manifest
from reports.incidents.sources import sources
from reports.incidents.window import Span
from reports.replacing import check_replaceable


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle that was written: where, how large, and what it says of itself."""

    path: Path
    size: int
    manifest: Manifest


def export(
    past: Past,
    path: str | os.PathLike[str],
    span: Span,
    key: SigningKey,
    *,
    now: int,
    program: str,
    choices: Choices | None = None,
    force: bool = False,
) -> Exported:
    """Write the bundle of a window to ``path``, whole or not at all, readable by its owner only.

    ``key`` signs it; its name is ``leasebook/`` and the ledger's id. ``now`` (ns UTC) and ``program``
    are noted in it. With ``force`` a file that is there is replaced.

    Raises InvalidInput for a file that is there, and for more events than a bundle may hold,
    LedgerCorrupt where the ledger does not prove what the bundle would.
    """
    file = Path(path)
    choices = choices or Choices()
    if not force and os.path.lexists(file):
        raise _exists(file)
    check_replaceable(file)
    head = past.log.head()
    part = gather(past, span, choices)
    listed, sealed = chain(past, part, head, span.last, choices)
    manifest, data = _bundle(part, span, key, listed, sealed, now, program, choices)
    _check(data, key)
    _put(file, data, force)
    return Exported(file, len(data), manifest)


# --- the file ------------------------------------------------------------------------------------


def _bundle(
    part: Part,
    span: Span,
    key: SigningKey,
    listed: bytes | None,
    sealed: Head,
    now: int,
    program: str,
    choices: Choices,
) -> tuple[Manifest, bytes]:
    members = {
        BASE_BOOK: part.base_book,
        EVENTS: b"".join(part.lines),
        **({} if listed is None else {DIGESTS: listed}),
        **dict(sources()),
    }
    manifest = Manifest(
        ledger_id=part.ledger_id,
        program=program,
        exported_at=now,
        note=choices.note,
        since=span.since,
        until=span.until,
        first=span.first,
        last=span.last,
        base=part.base,
        base_hash=(GENESIS if listed is None and part.base else part.base_hash).hex(),
        sealed=sealed.position,
        states=part.states,
        pseudonyms=choices.pseudonyms,
        metadata="included" if choices.metadata and not choices.hidden else "left out",
        digests=listed is not None,
        verifier_key=str(key.verifier),
        files={},
    )
    members[READ_ME] = _read_me(manifest).encode()
    for name, data in members.items():
        manifest.files[name] = sha256(data).hexdigest()
    page = manifest.to_bytes()
    line = SEALED_LINE + sha256(page).hexdigest()
    note = sign_note(Note(manifest.origin, sealed.position, sealed.hash, (line,)), key)
    front = {READ_ME: members.pop(READ_ME), MANIFEST: page, CHECKPOINT: note.encode()}
    return manifest, packed([*front.items(), *members.items()])


def _read_me(manifest: Manifest) -> str:
    lines = [
        "An incident bundle of Leasebook.",
        "",
        *summary(manifest),
        "",
        "Check it on any machine with Python 3.11 or newer, which needs nothing else installed:",
        "",
        "    python3 -I FILE --key VERIFIERKEY",
        "",
        "or, where Leasebook is installed: leasebook incident verify FILE --key VERIFIERKEY. Get the",
        "key from whoever made the bundle by another way than the bundle itself.",
    ]
    return "\n".join(lines) + "\n"


def _check(data: bytes, key: SigningKey) -> None:
    """The bundle as its reader will see it. What fails here is wrong with the ledger."""
    if len(data) > FILE_BYTES_MAX:
        raise too_large("the bundle", f"{FILE_BYTES_MAX} bytes are the most")
    try:
        for _ in Examination(data, key_in(str(key.verifier))).run():
            pass
    except BadBundle as error:
        raise LedgerCorrupt(
            f"the ledger does not prove this window: {error.message}", CORRUPT
        ) from None


def _put(file: Path, data: bytes, force: bool) -> None:
    """Put a whole, durable file in its place; without ``force`` never in another one's."""
    draft = file.with_name(f".{file.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except ValueError:
        raise InvalidInput(f"{str(file)!r} is no file name", "choose another name") from None
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
        if force:
            os.replace(draft, file)
        else:
            try:
                os.link(draft, file)
            except FileExistsError:
                raise _exists(file) from None
        directory = os.open(file.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        draft.unlink(missing_ok=True)


def _exists(file: Path) -> InvalidInput:
    return InvalidInput(f"{file} exists already", "choose another name, or replace it with --force")
