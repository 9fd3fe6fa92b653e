"""What goes into a bundle, gathered from a log: the state before it, its events, the chain."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from ledger.book import Book
from ledger.canonical import checked_json, loads
from ledger.chain import NO_METADATA, digest_of, link, metadata_hash
from ledger.codec import from_row
from ledger.errors import InvalidInput, LedgerCorrupt
from ledger.events import Checkpointed, LedgerOpened, Redacted
from ledger.fields import FIELDS, book_digest, dump, load
from ledger.fold import fold
from ledger.log import GENESIS, Head, Row
from projections.past import Past
from reports.incidents.checking import EVENTS_MAX
from reports.incidents.columns import digests, of_type
from reports.incidents.container import BASE_BOOK, BYTES_MAX, DIGESTS, EVENTS
from reports.incidents.pseudonyms import Pseudonyms
from reports.incidents.rows import line_of
from reports.incidents.window import Span

CORRUPT: Final = "run `leasebook verify`, and compare the ledger with a backup"
"""What to do about a ledger that does not prove a window."""
_PAGE: Final = 4_096


@dataclass(frozen=True, slots=True)
class Choices:
    """How a bundle is made.

    ``pseudonyms``: ``none``, ``people`` or ``all``. ``metadata``: whether it goes along. ``seal``: the
    signed checkpoint is of the log's ``head``, or of the window's ``end``, which spares the digests
    in between. ``digests``: put them into a pseudonymised bundle too, though a guessed name can then
    be confirmed. ``note``: a text of the maker's own.
    """

    pseudonyms: str = "none"
    metadata: bool = True
    seal: str = "head"
    digests: bool = False
    note: str = ""

    @property
    def hidden(self) -> bool:
        """Whether names are replaced."""
        return self.pseudonyms != "none"

    @property
    def chained(self) -> bool:
        """Whether the digests go along."""
        return self.digests or not self.hidden

    @property
    def seals_head(self) -> bool:
        """Whether the log's head is signed; without digests nothing would lead to it."""
        return self.seal == "head" and self.chained


@dataclass(slots=True)
class Part:
    """What is gathered for a bundle. ``digests`` are the log's own, of every event of ``lines``."""

    base: int
    base_hash: bytes
    base_book: bytes
    lines: list[bytes] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    ledger_id: str = ""


def ledger_id_of(past: Past) -> str:
    """The ledger's name, from its first event. Raises LedgerCorrupt."""
    row = past.row(1)
    body = None if row is None else from_row(row).body
    if not isinstance(body, LedgerOpened):
        raise LedgerCorrupt("the log does not begin with its name", "restore a backup", position=1)
    return body.ledger_id


def _base_of(past: Past, first: int) -> tuple[int, Row | None]:
    """The last position before an event whose book the log proves, and the row that does; or 0."""
    upto = first
    while upto > 0:
        after = max(0, upto - _PAGE)
        for row in reversed(list(past.log.read(after, upto))):
            if row.type == Checkpointed.TYPE:
                body = from_row(row).body
                assert isinstance(body, Checkpointed)
                if body.fields == FIELDS:
                    return row.position - 1, row
        upto = after
    return 0, None


def _start(past: Past, first: int) -> Part:
    base, proof = _base_of(past, first)
    if proof is None:
        return Part(0, GENESIS, dump(Book()))
    data = dump(past.book_at(base))
    body = from_row(proof).body
    before = past.row(base)
    if not isinstance(body, Checkpointed) or before is None:
        raise LedgerCorrupt(f"event {base} is missing", CORRUPT, position=base)
    if sha256(data).hexdigest() != body.book:
        raise LedgerCorrupt(
            f"the state at event {base} is not the one that event {base + 1} records",
            CORRUPT,
            position=base,
        )
    return Part(base, before.hash, data)


def gather(past: Past, span: Span, choices: Choices) -> Part:
    """The events from the base to the window's end, and the states that they lead to.

    Raises InvalidInput for a window that no bundle can hold, LedgerCorrupt for a damaged log.
    """
    part = _start(past, span.first)
    part.ledger_id = ledger_id_of(past)
    if len(part.base_book) > BYTES_MAX[BASE_BOOK]:
        raise too_large("the state before it", f"{BYTES_MAX[BASE_BOOK]} bytes are the most")
    count = span.last - part.base
    if count > EVENTS_MAX:
        raise too_large(f"{count} events", f"a bundle holds {EVENTS_MAX} at most")
    hidden = Pseudonyms(os.urandom(32), choices.pseudonyms) if choices.hidden else None
    if hidden is not None:
        part.base_book = hidden.book(part.base_book)
    book = load(part.base_book)
    bare: list[tuple[int, Row]] = []
    size = 0
    for row in past.log.read(part.base, span.last):
        part.digests.append(row.digest)
        if row.position == span.first:
            part.states[str(book.position)] = book_digest(book)
        if hidden is not None:
            row = _with_state(hidden.row(row), book)
        elif _lacks_metadata(row):
            bare.append((len(part.lines), row))
        withheld = None
        if row.metadata is not None and not choices.metadata:
            row, withheld = row._replace(metadata=None), metadata_hash(row.metadata)
        part.lines.append(line_of(row, withheld))
        size += len(part.lines[-1])
        if size > BYTES_MAX[EVENTS]:
            raise too_large("its events", f"{BYTES_MAX[EVENTS]} bytes are the most")
        fold(book, (row,))
    if book.position != span.last:
        raise LedgerCorrupt(f"event {book.position + 1} is missing", CORRUPT)
    part.states[str(book.position)] = book_digest(book)
    _put_redactions_in(past, part, bare)
    return part


def _with_state(row: Row, book: Book) -> Row:
    """The row, and if it holds a digest of the book, that of the book with other names."""
    if row.type != Checkpointed.TYPE:
        return row
    data = loads(row.data)
    data["book"] = book_digest(book)
    return row._replace(data=checked_json(data).decode())


def _lacks_metadata(row: Row) -> bool:
    return row.metadata is None and digest_of(*row[:12], NO_METADATA) != row.digest


def _put_redactions_in(past: Past, part: Part, bare: list[tuple[int, Row]]) -> None:
    """For rows whose metadata was redacted, the hash that their redaction names."""
    if not bare:
        return
    head = past.log.head().position
    named: dict[int, list[bytes]] = {}
    for _, data in of_type(past.log, Redacted.TYPE, bare[0][1].position, head):
        fact = loads(data)
        named.setdefault(fact["position"], []).append(bytes.fromhex(fact["metadata_sha256"]))
    for index, row in bare:
        for known in named.get(row.position, ()):
            if digest_of(*row[:12], known) == row.digest:
                part.lines[index] = line_of(row, known)
                break
        else:
            raise LedgerCorrupt(
                f"event {row.position} was changed: its digest differs",
                CORRUPT,
                position=row.position,
            )


def chain(
    past: Past, part: Part, head: Head, last: int, choices: Choices
) -> tuple[bytes | None, Head]:
    """The digests up to the position that is to be signed (None: none are wanted), and its head.

    The chain is followed to the log's head in any case: a signature under a part of a log that does
    not lead to its own head would be worth nothing. Raises LedgerCorrupt, and InvalidInput for more
    digests than a bundle holds.
    """
    count = (head.position if choices.seals_head else last) - part.base
    if choices.chained and 32 * count > BYTES_MAX[DIGESTS]:
        raise InvalidInput(
            f"{count} digests lead to the signed event, more than a bundle holds",
            "sign the window's end instead, with --seal end, or shorten the window",
        )
    hash_ = part.base_hash
    for digest in part.digests:
        hash_ = link(hash_, digest)
    end = Head(last, hash_, 0)
    listed = [*part.digests] if choices.chained else []
    for expected, (position, digest) in enumerate(digests(past.log, last, head.position), last + 1):
        if position != expected:
            raise LedgerCorrupt(f"event {expected} is missing", CORRUPT, position=expected)
        hash_ = link(hash_, digest)
        if choices.seals_head:
            listed.append(digest)
    if hash_ != head.hash:
        raise LedgerCorrupt(
            f"the chain of hashes does not lead from event {part.base} to the head", CORRUPT
        )
    return b"".join(listed) if choices.chained else None, head if choices.seals_head else end


def too_large(what: str, most: str) -> InvalidInput:
    """A window that no bundle can hold."""
    return InvalidInput(f"the window is too large for a bundle: {what}; {most}", "shorten it")
