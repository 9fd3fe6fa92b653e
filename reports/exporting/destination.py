"""Where an export goes: a stream, a file, or a folder that later exports go on from.

Files are written under names that no reader takes for finished (``….partial``) and renamed when they
are whole. In a folder ``manifest.json`` comes last and says what belongs to the export: files that it
does not name do not.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO, Final

import orjson

from ledger.errors import InvalidInput
from reports.replacing import check_replaceable

Json = dict[str, Any]
Write = Callable[[bytes], Any]

MANIFEST: Final = "manifest.json"
VERSION: Final = 1
PARTIAL: Final = ".partial"
_FAULTS: Final = frozenset({errno.ENOSPC, errno.EIO, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Part:
    """One file of an export: its path within the folder, and the positions it holds."""

    path: str
    rows: int
    first: int | None = None
    last: int | None = None


@dataclass(slots=True)
class Covered:
    """What an export covers: positions after ``after`` up to ``last``, whose hash is ``last_hash``.

    ``since`` and ``until`` are the times (RFC 3339) that left some of it out, None where nothing was.
    """

    ledger_id: str
    what: str
    format: str
    after: int
    last: int
    last_hash: str
    previous_hash: str
    written_at: str
    since: str | None = None
    until: str | None = None
    more: Json = field(default_factory=dict)

    def as_json(self, rows: int) -> Json:
        """This export's line in the manifest."""
        return {
            "after": self.after,
            "last_position": self.last,
            "last_hash": self.last_hash,
            "previous_hash": self.previous_hash,
            "since": self.since,
            "until": self.until,
            "rows": rows,
            "written_at": self.written_at,
        }


# --- one file ------------------------------------------------------------------------------------


@contextlib.contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[Path]:
    """A name beside ``path`` to write to; it becomes ``path`` when the block ends without an error.

    Raises InvalidInput where ``path`` is there already and ``force`` is not given, or cannot be.
    """
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder", "name a file")
    if path.exists() and not force:
        raise InvalidInput(
            f"{path} exists already", "choose another name, or --force to replace it"
        )
    check_replaceable(path)
    with _unwritable(path):
        partial = path.parent / f".{path.name[:100]}-{os.getpid()}-{token_hex(4)}{PARTIAL}"
        partial.touch(exist_ok=False)
    try:
        with _unwritable(path):
            yield partial
            _sync(partial)
            _put(partial, path, force)
            _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _put(partial: Path, path: Path, force: bool) -> None:
    """Give a finished file its name; without force never over another one, whoever was quicker."""
    if force:
        partial.replace(path)
        return
    try:
        os.link(partial, path)
    except FileExistsError:
        raise InvalidInput(f"{path} exists already", "choose another name") from None
    except OSError:
        # A file system without links.
        partial.rename(path)


@contextlib.contextmanager
def _unwritable(path: Path) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise InvalidInput(f"{str(path)!r} is no file name", "choose another name") from None
    except OSError as error:
        if error.errno in _FAULTS:
            # The place is right; what fails is the machine.
            raise
        why = error.strerror or type(error).__name__
        hint = "give a path in a folder that can be written to"
        raise InvalidInput(f"{path} cannot be written: {why}", hint) from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened(path: Path, *, compressed: bool) -> Iterator[BinaryIO]:
    """A file to write bytes to, through gzip where ``compressed``."""
    with path.open("wb") as raw:
        if not compressed:
            yield raw
            return
        # No name and no time inside: the same content gives the same bytes.
        with gzip.GzipFile("", "wb", 6, raw, 0) as packed:
            yield packed  # type: ignore[misc]


def file_manifest(path: Path, covered: Covered, part: Part) -> None:
    """Write ``FILE.manifest.json`` beside a finished file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    files = [_file_out(part, path.stat().st_size, digest)]
    write_manifest(path.with_name(f"{path.name}.{MANIFEST}"), covered, files, {})


def write_manifest(path: Path, covered: Covered, files: list[Json], old: Json) -> Json:
    """Write what an export covers, added to what ``old`` says of those before it."""
    rows = sum(file["rows"] for file in files)
    manifest = {
        "leasebook_export": VERSION,
        "ledger_id": covered.ledger_id,
        "what": covered.what,
        "format": covered.format,
        **covered.more,
        "after": old.get("after", covered.after),
        "last_position": covered.last,
        "last_hash": covered.last_hash,
        "rows": old.get("rows", 0) + rows,
        "files": [*old.get("files", ()), *files],
        "exports": [*old.get("exports", ()), covered.as_json(rows)],
    }
    with new_file(path, force=True) as partial:
        partial.write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    return manifest


def _file_out(part: Part, size: int, digest: str) -> Json:
    return {
        "path": part.path,
        "rows": part.rows,
        "first_position": part.first,
        "last_position": part.last,
        "bytes": size,
        "sha256": digest,
    }


# --- a folder ------------------------------------------------------------------------------------


class Folder:
    """A folder that holds an export, or will."""

    def __init__(self, path: Path, covered: Covered, *, force: bool) -> None:
        """Raises InvalidInput where an export of something else, or other files, are there."""
        self.path = path
        self._covered = covered
        self._force = force
        self._old = self._manifest()
        self._check()

    @property
    def goes_on(self) -> bool:
        """Whether this export is added to one that is there."""
        return self._old is not None and not self._force

    def _manifest(self) -> Json | None:
        if self.path.exists() and not self.path.is_dir():
            raise InvalidInput(f"{self.path} is a file", "name a folder to export to")
        try:
            found = orjson.loads((self.path / MANIFEST).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict) or found.get("leasebook_export") != VERSION:
            raise InvalidInput(
                f"{self.path / MANIFEST} is not the manifest of an export",
                "name another folder, or a new one",
            )
        return found

    def _check(self) -> None:
        old, new = self._old, self._covered
        if old is None:
            if self.path.is_dir() and any(self.path.iterdir()):
                raise InvalidInput(
                    f"{self.path} is not empty, and holds no export",
                    "name an empty or a new folder",
                )
            return
        same = ("ledger_id", "what", "format")
        if any(old.get(name) != getattr(new, name) for name in same):
            held = ", ".join(str(old.get(name)) for name in same)
            raise InvalidInput(f"{self.path} holds an export of {held}", "name another folder")
        if self._force:
            return
        last = old.get("last_position")
        if new.what != "events":
            raise InvalidInput(f"{self.path} holds an export", "replace it with --force")
        if new.after != last:
            raise InvalidInput(
                f"{self.path} holds an export up to event {last}",
                f"go on from there with --after {last}, or write it anew with --force",
            )
        if old.get("last_hash") != new.previous_hash:
            raise InvalidInput(
                f"event {last} is not the one that was exported to {self.path}",
                "the ledger was changed or restored since: export to another folder",
            )

    def fill(self, write: Callable[[Path], Iterable[Part]]) -> Json:
        """Have ``write`` put its files into a folder of its own, then take them over; the manifest.

        Each file is to be there as its part's path with ``.partial`` behind it.
        """
        with _unwritable(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(PARTIAL, ".export-", self.path) as name:
                staging = Path(name)
                parts = [(part, *_seal(staging, part)) for part in write(staging)]
                if self._force:
                    self._remove_old()
                files = [self._take(staging, *each) for each in parts]
            old = self._old if self.goes_on and self._old is not None else {}
            return write_manifest(self.path / MANIFEST, self._covered, files, old)

    def _take(self, staging: Path, part: Part, size: int, digest: str) -> Json:
        target = self.path / part.path
        target.parent.mkdir(parents=True, exist_ok=True)
        (staging / (part.path + PARTIAL)).replace(target)
        _sync(target.parent)
        return _file_out(part, size, digest)

    def _remove_old(self) -> None:
        """Remove what the old manifest names, and nothing else."""
        if self._old is None:
            return
        (self.path / MANIFEST).unlink(missing_ok=True)
        root = self.path.resolve()
        for file in self._old.get("files", ()):
            old = (root / str(file.get("path"))).resolve()
            if old.is_relative_to(root):
                old.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    if old.parent != root:
                        old.parent.rmdir()


def _seal(staging: Path, part: Part) -> tuple[int, str]:
    """A written file on disk: its size and SHA-256."""
    path = staging / (part.path + PARTIAL)
    _sync(path)
    with path.open("rb") as stream:
        return path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()
