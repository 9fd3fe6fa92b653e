"""What every reader of foreign records speaks: what it is given, and what it yields.

A reader is a function ``read(source, options)`` in a module of its own (:data:`FORMATS`). It goes
through the source once, keeps no more of it than it must, and yields for each record what the
record says of an allocation (:class:`Found`), or why it cannot be understood (:class:`Reject`); and
what it learns of nodes (:class:`Inventory`). A file that is not of its format at all makes it raise
:class:`WrongFormat` before it yields anything.
"""

from __future__ import annotations

import codecs
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, cast

from ledger.amounts import NAME_LENGTH_MAX
from ledger.errors import InvalidInput

if TYPE_CHECKING:
    from ledger.commands import Fact
    from ledger.requests import NodeSpec

FORMATS = {
    "sacct": "leasebook.importers.sacct",
    "csv": "leasebook.importers.csv_table",
    "swf": "leasebook.importers.swf",
    "openb": "leasebook.importers.openb",
    "openstack": "leasebook.importers.openstack",
}
"""Format → the module whose ``read`` is its reader."""

LINE_CHARACTERS_MAX = 4_000_000
"""The longest line that is read; beyond it a file is no table of records."""


LATIN_1 = "leasebook-latin-1"
"""The name of a handler of decoding errors: a byte that is no UTF-8 is a character of Latin-1."""
_DIGEST_CHARACTERS = 16


def _as_latin_1(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error(LATIN_1, _as_latin_1)


def fit_name(text: str) -> str | None:
    """A name made fit to be one, None where nothing is left of it; two names stay two.

    Spaces at its ends are left off. What cannot be printed is written as ``\\x1b``. What is too long
    ends in ``~`` and 16 digits of the SHA-256 of the whole of it.
    """
    if not text.isprintable():
        text = "".join(
            letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
            for letter in text.strip()
        )
    text = text.strip()
    if len(text) > NAME_LENGTH_MAX:
        from hashlib import sha256

        digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARACTERS]
        text = f"{text[: NAME_LENGTH_MAX - _DIGEST_CHARACTERS - 1]}~{digest}"
    return text or None


class WrongFormat(InvalidInput):
    """The file is not of the format that was named: what was expected, and what stands there."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one record says of one allocation.

    ``line`` counts from 1 (for formats without lines: the number of the record). Several records
    may speak of one allocation, under the same ``fact.key``, in any order and in several files.
    ``text`` is the original, for the rejects if it cannot be recorded after all.
    """

    line: int
    pool: str
    fact: Fact
    text: str = ""


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that cannot be understood: where, why (one line), and its original text."""

    line: int
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """Nodes that a pool has from ``at`` on (ns UTC; None where the source does not say).

    ``complete``: those are all, and what else the pool had has left it.
    """

    pool: str
    nodes: tuple[NodeSpec, ...]
    at: int | None = None
    complete: bool = False


Item = Found | Reject | Inventory


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user said about the source; each reader takes what concerns it.

    ``pool`` overrides the reader's choice of a pool. ``columns`` are names for a file without a
    header, ``mapping`` is our name → column (with ``:unit`` where it has one). ``zone`` is that of
    times that have none. ``now`` (ns UTC) is when the import began.
    """

    pool: str | None = None
    pool_by: str = "cluster"
    columns: tuple[str, ...] | None = None
    delimiter: str | None = None
    mapping: dict[str, str] = field(default_factory=dict)
    zone: tzinfo = UTC
    tenant: str | None = None
    memory_in_bytes: bool = False
    origin: int = 0
    """What times count from where a source gives them as seconds since its own beginning (ns UTC)."""
    now: int = 0


class Source:
    """A file to read once: plain or gzip, or standard input as ``-``.

    ``name`` is the file's name without folders, ``size`` its bytes on disk (None where unknown).
    ``attached`` counts records that are part of another one (less one for each fact more than one
    that a record tells), and ``skipped`` those that are about something else than allocations;
    readers count them up. ``recoded`` counts lines with bytes that are no UTF-8.
    """

    def __init__(self, path: str) -> None:
        """Opens the file. Raises InvalidInput where that cannot be."""
        self.path = path
        self.name = "stdin" if path == "-" else Path(path).name
        self.size: int | None = None
        self.attached = 0
        self.skipped = 0
        self.recoded = 0
        self._begin = 0
        self._raw: IO[bytes]
        if path == "-":
            if sys.stdin is None:
                raise InvalidInput("standard input is closed", "name a file, or pipe one in")
            self._raw = sys.stdin.buffer
        else:
            try:
                self._raw = open(path, "rb")  # noqa: SIM115 - it lives as long as the source
                self.size = Path(path).stat().st_size or None
            except (OSError, ValueError) as error:
                why = (error.strerror if isinstance(error, OSError) else None) or "it is no name"
                raise InvalidInput(f"{path!r} cannot be read: {why}", "name a file") from None
        self._buffered: IO[bytes] | None = None
        self._stream: IO[bytes] | None = None
        self._is_copy = False

    @property
    def stem(self) -> str:
        """The file's name without what follows its first dot: a name for what has none."""
        return self.name.split(".")[0] or self.name

    def binary(self) -> IO[bytes]:
        """The content, unpacked where it is gzip. Always the same stream."""
        if self._stream is None:
            from io import BufferedReader

            raw = self._buffered or self._raw
            buffered = raw if isinstance(raw, BufferedReader) else BufferedReader(raw)  # type: ignore[type-var]
            self._buffered = self._stream = cast("IO[bytes]", buffered)
            if buffered.peek(2)[:2] == b"\x1f\x8b":
                from gzip import GzipFile

                self._stream = cast("IO[bytes]", BufferedReader(GzipFile(fileobj=buffered)))
        return self._stream

    def keep(self) -> None:
        """Make sure, before anything is read, that :meth:`rewind` works.

        What is no file to go back in, such as a pipe, is copied into one that nobody sees. Raises
        InvalidInput where there is no room for it.
        """
        try:
            if self._raw.seekable():
                self._begin = self._raw.tell()
                return
            import os
            from shutil import copyfileobj
            from tempfile import TemporaryFile

            with TemporaryFile() as copy:
                copyfileobj(self._raw, copy, 1 << 20)
                copy.flush()
                given, self._raw = self._raw, open(os.dup(copy.fileno()), "rb")  # noqa: SIM115
        except (OSError, ValueError) as error:
            raise InvalidInput(
                f"{self.name} cannot be copied to be read twice: {error}", "import it from a file"
            ) from None
        self._is_copy = True
        self._raw.seek(0)
        if self.path != "-":
            given.close()

    def rewind(self) -> None:
        """Begin once more where it began; see :meth:`keep`."""
        self._stream = None
        (self._buffered or self._raw).seek(self._begin)
        self.recoded = 0

    def raw_lines(self) -> Iterator[bytes]:
        """Lines as they stand, with their ends, for a first look.

        They end where the file is damaged or no text, which :meth:`lines` tells.
        """
        try:
            stream = self.binary()
            line = stream.readline(LINE_CHARACTERS_MAX).removeprefix(codecs.BOM_UTF8)
            while line and len(line) < LINE_CHARACTERS_MAX:
                yield line
                line = stream.readline(LINE_CHARACTERS_MAX)
        except (EOFError, OSError, zlib.error):
            return

    def lines(self) -> Iterator[tuple[int, str]]:
        """Lines with their numbers from 1, without their ends.

        Bytes that are no UTF-8 are read as Latin-1, so that none is lost. Raises InvalidInput for a
        damaged gzip file, and WrongFormat for a line without an end.
        """
        number = 0
        try:
            stream = self.binary()
            while line := stream.readline(LINE_CHARACTERS_MAX):
                number += 1
                if len(line) >= LINE_CHARACTERS_MAX:
                    raise WrongFormat(
                        f"line {number} of {self.name} is longer than {LINE_CHARACTERS_MAX} bytes",
                        "name a text file with one record on each line"
                        if number == 1
                        else "what came before it is recorded; take the line out to go on",
                    )
                try:
                    text = line.decode()
                except UnicodeDecodeError:
                    text = line.decode("utf-8", LATIN_1)
                    self.recoded += 1
                text = text.rstrip("\r\n")
                yield number, text.removeprefix("\ufeff") if number == 1 else text
        except (EOFError, OSError, zlib.error) as error:
            raise InvalidInput(
                f"{self.name} is damaged after line {number}: {error}",
                "what came before it is recorded; get the file again and import it again",
            ) from None

    def done_bytes(self) -> int:
        """How far it has been read, in bytes on disk; 0 where that cannot be told."""
        try:
            return self._raw.tell() if self.size is not None else 0
        except (OSError, ValueError):
            return 0

    def close(self) -> None:
        """Let go of the file."""
        if self.path != "-" or self._is_copy:
            self._raw.close()


class Reader(Protocol):
    """The ``read`` of a format's module."""

    def __call__(self, source: Source, options: Options) -> Iterator[Item]:
        """Go through the source once. Raises WrongFormat before it yields anything, InvalidInput."""
        ...


def reader_of(format: str) -> Reader:
    """The reader of a format. Raises InvalidInput for one that there is not."""
    module = FORMATS.get(format)
    if module is None:
        raise InvalidInput(f"there is no format {format!r}", f"choose one of {', '.join(FORMATS)}")
    read: Reader = import_module(module).read
    return read


def open_reader(format: str, path: str, options: Options) -> Iterator[Item]:
    """All that a file holds, as its format's reader understands it."""
    source = Source(path)
    try:
        yield from reader_of(format)(source, options)
    finally:
        source.close()
