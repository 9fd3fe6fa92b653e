"""The checks of a bundle, one after another: what each found, or the first thing that is wrong.

The same code runs in the installed program and, shipped inside the bundle, on a bare Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple

from ledger.book import Book
from ledger.chain import link
from ledger.codec import from_row
from ledger.errors import LeasebookError
from ledger.events import Checkpointed
from ledger.fields import FIELDS, dump, load
from ledger.fold import fold
from ledger.log import GENESIS, Row
from ledger.notes import BadKey, BadNote, Note, VerifierKey, open_note
from ledger.times import rfc3339
from reports.incidents.container import (
    BASE_BOOK,
    CHECKPOINT,
    DIGESTS,
    EVENTS,
    MANIFEST,
    BadBundle,
    unpacked,
)
from reports.incidents.ed25519 import verifies
from reports.incidents.manifest import (
    SEALED_LINE,
    Manifest,
    does_not_prove,
    proves,
    read_manifest,
)
from reports.incidents.rows import BundleLog, row_of

EVENTS_MAX = 1_000_000
"""How many events a bundle may hold."""


class Finding(NamedTuple):
    """One check that passed: its name, and what it found."""

    check: str
    text: str


class BareKey(VerifierKey):
    """A verifier key that needs no library: the same answer on every machine."""

    def verifies(self, signature: bytes, text: bytes) -> bool:
        """As :meth:`ledger.notes.VerifierKey.verifies`."""
        return verifies(self.public_key, signature, text)


def key_in(text: str) -> BareKey:
    """A verifier key from its text. Raises BadKey."""
    known = VerifierKey.parse(text.strip())
    return BareKey(known.name, known.public_key)


class Examination:
    """The checks of one bundle. :meth:`run` yields what they find and raises BadBundle.

    ``key`` is the verifier key that is trusted; None takes the one that the bundle itself names.
    ``kept`` are signed checkpoints that were kept elsewhere: where their position lies in the
    bundle's chain, it must have their hash. After the run ``manifest``, ``base``, ``log`` and
    ``note`` are what was found.
    """

    manifest: Manifest
    base: Book
    log: BundleLog
    note: Note

    def __init__(self, data: bytes, key: BareKey | None = None, kept: Sequence[str] = ()) -> None:
        self._data = data
        self._key = key
        self._kept = kept
        self._lines: list[bytes] = []
        self._hashes: list[tuple[bytes, bytes]] = []

    def run(self) -> Iterator[Finding]:
        """All checks, in an order in which each may rely on those before it."""
        self._members = unpacked(self._data)
        yield Finding("file", f"{len(self._data)} bytes, as they were written")
        self.manifest = read_manifest(self._member(MANIFEST))
        yield self._check_signature()
        yield self._check_members()
        yield self._check_base()
        yield self._check_events()
        yield self._check_chain()
        self.log = BundleLog(self.manifest.base, self._lines, self._hashes)
        yield self._check_fold()

    def _member(self, name: str) -> bytes:
        try:
            return self._members[name]
        except KeyError:
            raise BadBundle(f"the bundle has no {name}") from None

    def _check_signature(self) -> Finding:
        manifest = self.manifest
        try:
            named = key_in(manifest.verifier_key)
            text = self._member(CHECKPOINT).decode()
            if self._key is not None and str(self._key) != str(named):
                raise BadBundle(
                    f"the bundle is signed with another key: with {named}, not with {self._key}",
                    "check where the bundle and the key come from",
                )
            self.note = note = open_note(text, self._key or named)
        except (BadNote, BadKey, UnicodeDecodeError) as error:
            why = error.message if isinstance(error, LeasebookError) else "it is no text"
            raise BadBundle(f"the signature does not hold: {why}") from None
        if note.origin != manifest.origin or named.name != manifest.origin:
            raise BadBundle(f"the checkpoint is of {note.origin!r}, not of {manifest.origin!r}")
        sealed = SEALED_LINE + sha256(self._member(MANIFEST)).hexdigest()
        if note.extra != (sealed,):
            raise BadBundle("the manifest is not the one that was signed")
        if note.size != manifest.sealed:
            raise BadBundle("the checkpoint is of another position than the manifest says")
        if self._key is not None:
            whose = "with the key that was given"
        else:
            whose = "but a bundle cannot vouch for its own key: compare it, or give it with --key"
        return Finding("signature", f"signed by {named}, {whose}")

    def _check_members(self) -> Finding:
        files = self.manifest.files
        there = self._members.keys() - {MANIFEST, CHECKPOINT}
        if there != files.keys():
            odd = sorted(there ^ files.keys())[0]
            raise BadBundle(f"the bundle has not the members that were signed: {odd[:60]!r}")
        for name, digest in files.items():
            if sha256(self._members[name]).hexdigest() != digest:
                raise BadBundle(f"{name} is not as it was signed")
        return Finding("members", f"{len(files)} files are as they were signed")

    def _check_base(self) -> Finding:
        manifest = self.manifest
        data = self._member(BASE_BOOK)
        try:
            self.base = load(data)
            same = dump(self.base) == data and self.base.position == manifest.base
        except Exception as error:
            # A state from outside can be anything at all.
            raise BadBundle(f"the state before the events cannot be read: {_why(error)}") from None
        empty = manifest.base == 0 and data != dump(Book())
        if not same or empty or (manifest.base == 0 and manifest.base_hash != GENESIS.hex()):
            raise BadBundle("the state before the events contradicts itself")
        if manifest.base and self.base.ledger_id != manifest.ledger_id:
            raise BadBundle("the state before the events is another ledger's")
        held = len(self.base.allocations)
        what = f"{len(self.base.pools)} pools, {held} allocations" if manifest.base else "nothing"
        return Finding("state", f"before the events there is {what}, at event {manifest.base}")

    def _digests(self) -> list[bytes] | None:
        """The digests of the events from the base to the sealed position, or None."""
        manifest = self.manifest
        if not manifest.digests:
            if manifest.pseudonyms == "none" or manifest.sealed != manifest.last:
                raise BadBundle("the bundle lacks the digests of its events")
            return None
        data = self._member(DIGESTS)
        if len(data) != 32 * (manifest.sealed - manifest.base):
            raise BadBundle("the list of digests does not reach the signed checkpoint")
        return [data[i : i + 32] for i in range(0, len(data), 32)]

    def _check_events(self) -> Finding:
        """Each event's bytes against its digest; the hashes up to the last event."""
        manifest = self.manifest
        self._listed = self._digests()
        self._lines = self._member(EVENTS).splitlines(keepends=True)
        count = len(self._lines)
        if count != manifest.last - manifest.base or count > EVENTS_MAX:
            raise BadBundle(f"the bundle holds {count} events, not those that its manifest names")
        covered = manifest.pseudonyms == "none"
        listed = self._listed
        hash_, recorded_at = self._base_hash(), self.base.recorded_at
        for index, line in enumerate(self._lines):
            row = row_of(line)
            position = manifest.base + index + 1
            if row.position != position or row.recorded_at < recorded_at:
                raise BadBundle(f"event {position} is not where it should be")
            recorded_at = row.recorded_at
            digest = row.digest if listed is None else listed[index]
            if covered and row.digest != digest:
                raise BadBundle(f"event {position} was changed: its bytes do not fit its digest")
            hash_ = link(hash_, digest)
            self._hashes.append((digest, hash_))
        span = f"{count} events, {manifest.base + 1} to {manifest.last}"
        if covered:
            return Finding("payload", f"{span}: their bytes are those that their digests cover")
        return Finding("payload", f"{span}, names replaced: no digest covers the bytes shown")

    def _base_hash(self) -> bytes:
        try:
            hash_ = bytes.fromhex(self.manifest.base_hash)
        except ValueError:
            hash_ = b""
        if len(hash_) != 32:
            raise BadBundle("the manifest's hash before the events is no hash")
        return hash_

    def _check_chain(self) -> Finding:
        """The digests from the base on lead to the signed head, through every kept checkpoint."""
        manifest, wanted = self.manifest, self._kept_heads()
        at, hash_ = manifest.base, self._base_hash()
        if self._listed is None:
            at, hash_ = manifest.sealed, self.note.root
        self._agree(wanted, at, hash_)
        for digest in self._listed or ():
            at, hash_ = at + 1, link(hash_, digest)
            if at in wanted:
                self._agree(wanted, at, hash_)
        if hash_ != self.note.root:
            raise BadBundle(
                f"the chain does not lead to the signed head at event {manifest.sealed}"
            )
        kept = f"; {len(self._kept)} kept checkpoints agree" if self._kept else ""
        if self._listed is None:
            return Finding("chain", f"left out; the signed head is event {manifest.sealed}{kept}")
        return Finding(
            "chain", f"from event {manifest.base} to the signed head {manifest.sealed}{kept}"
        )

    def _kept_heads(self) -> dict[int, bytes]:
        """Position → hash of the checkpoints that were signed earlier and kept elsewhere."""
        manifest = self.manifest
        key = self._key or key_in(manifest.verifier_key)
        first = manifest.base if manifest.digests else manifest.sealed
        heads: dict[int, bytes] = {}
        for text in self._kept:
            try:
                note = open_note(text, key)
            except BadNote as error:
                raise BadBundle(f"a kept checkpoint cannot be used: {error.message}") from None
            if note.origin != manifest.origin or not first <= note.size <= manifest.sealed:
                raise BadBundle(
                    f"the kept checkpoint of {note.origin} at event {note.size} lies outside of"
                    f" this bundle's chain, events {first} to {manifest.sealed}",
                    "give one from in between",
                )
            if heads.setdefault(note.size, note.root) != note.root:
                raise BadBundle(f"two kept checkpoints contradict each other at {note.size}")
        return heads

    @staticmethod
    def _agree(wanted: dict[int, bytes], at: int, hash_: bytes) -> None:
        if wanted.get(at, hash_) != hash_:
            raise BadBundle(
                f"the kept checkpoint at event {at} has another hash: what this bundle comes from"
                " was written anew"
            )

    def _check_fold(self) -> Finding:
        manifest = self.manifest
        book = load(self._member(BASE_BOOK))
        claimed = {str(p) for p in (manifest.first - 1, manifest.last)}
        if manifest.states.keys() != claimed:
            raise BadBundle("the manifest claims other states than those of its window")
        recorded = 0
        for row in self.log.read():
            self._claim(book)
            recorded += self._fold_one(book, row)
        self._claim(book)
        if book.ledger_id != manifest.ledger_id:
            raise BadBundle("the events are another ledger's")
        also = f", and the {recorded} digests that the ledger recorded" if recorded else ""
        return Finding("folding", f"the events lead to the two states that are claimed{also}")

    def _claim(self, book: Book) -> None:
        claimed = self.manifest.states.get(str(book.position))
        if claimed is not None and sha256(_dumped(book)).hexdigest() != claimed:
            raise BadBundle(f"folding leads to another state at event {book.position}")

    def _fold_one(self, book: Book, row: Row) -> int:
        """Fold one event; 1 where it holds a digest of the book, which must be the book's."""
        first = row.position == self.manifest.base + 1
        try:
            body = from_row(row).body if row.type == Checkpointed.TYPE or first else None
            if isinstance(body, Checkpointed) and body.fields == FIELDS:
                if sha256(dump(book)).hexdigest() != body.book:
                    raise BadBundle(
                        f"the state before event {row.position} is not the one that it records"
                    )
            elif first and self.manifest.base:
                raise BadBundle(
                    "the bundle does not begin at a recorded digest of the state before it"
                )
            fold(book, (row,))
        except BadBundle:
            raise
        except Exception as error:
            # The events come from outside: what does not fold may fail in any way.
            raise BadBundle(f"event {row.position} cannot be folded: {_why(error)}") from None
        return int(body is not None and isinstance(body, Checkpointed))


def _dumped(book: Book) -> bytes:
    try:
        return dump(book)
    except Exception as error:
        raise BadBundle(f"the state cannot be written down: {_why(error)}") from None


def _why(error: Exception) -> str:
    return plain(" ".join(f"{type(error).__name__} {error}".split())[:200])


def summary(manifest: Manifest) -> list[str]:
    """What a bundle is about, and what its checks mean, line by line."""
    lines = [
        f"window      {manifest.window_text()}",
        f"ledger      {manifest.ledger_id}",
        f"events      {manifest.base + 1} to {manifest.last}",
        f"exported    {rfc3339(manifest.exported_at)} by {manifest.program}",
        f"pseudonyms  {manifest.pseudonyms}",
        f"metadata    {manifest.metadata}",
    ]
    if manifest.note:
        lines.append(f"note        {manifest.note}")
    lines += [f"proves      {line}" for line in proves(manifest)]
    lines += [f"not proven  {line}" for line in does_not_prove(manifest)]
    return [plain(line) for line in lines]


def plain(text: str) -> str:
    """Text on one line, with what a terminal would act on written out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
