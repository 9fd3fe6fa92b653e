"""The file that a bundle is: a zip that Python can run, sealed by a checksum over all of its bytes.

The checksum stands in the zip's closing comment. It shows accidents, wherever in the file they
happened; against intent there are the signature and the hashes that it covers.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from struct import error as StructError
from typing import Final

from ledger.errors import InvalidInput, LeasebookError

FORMAT: Final = 1
"""The number of the format of bundles. Another layout gets another number."""

FILE_BYTES_MAX: Final = 512 * 2**20
MEMBERS_MAX: Final = 200
EVENTS: Final = "events.jsonl"
BASE_BOOK: Final = "base_book.json"
DIGESTS: Final = "digests.bin"
MANIFEST: Final = "manifest.json"
CHECKPOINT: Final = "checkpoint.txt"
READ_ME: Final = "README.txt"
SCRIPT: Final = "__main__.py"
BYTES_MAX: Final = {EVENTS: 512 * 2**20, BASE_BOOK: 128 * 2**20, DIGESTS: 64 * 2**20}
"""How large a member may be when unpacked; any other one may have :data:`OTHER_BYTES_MAX`."""
OTHER_BYTES_MAX: Final = 2 * 2**20

_LONG_AGO: Final = (1980, 1, 1, 0, 0, 0)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*\.(py|json|jsonl|txt|bin)\Z")
_COMMENT = re.compile(rb"leasebook incident (\d{1,9}) sha256 ([0-9a-f]{64})\Z")
_HEX: Final = 64
_MISREADINGS = (
    zipfile.BadZipFile,
    zlib.error,
    StructError,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    MemoryError,
    KeyError,
    IndexError,
)
"""What the standard library raises on a zip that is none."""


class BadBundle(LeasebookError):
    """A bundle that is damaged, was changed, or does not prove what it should; one line."""


def limit_of(name: str) -> int:
    """How many bytes a member may have."""
    return BYTES_MAX.get(name, OTHER_BYTES_MAX)


def packed(members: Iterable[tuple[str, bytes]]) -> bytes:
    """The bytes of a bundle with these members, in this order."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name, _LONG_AGO)
            # Digests do not get smaller, and the script has to be found even by a bare Python.
            stored = name in (DIGESTS, SCRIPT)
            info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = 0o600 << 16
            archive.writestr(info, data)
        archive.comment = _comment("0" * _HEX)
    whole = out.getvalue()[:-_HEX]
    return whole + sha256(whole).hexdigest().encode()


def _comment(checksum: str) -> bytes:
    return f"leasebook incident {FORMAT} sha256 {checksum}".encode()


def read_file(path: Path) -> bytes:
    """The bytes of a bundle's file. Raises InvalidInput where it is not there or cannot be read."""
    try:
        with path.open("rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "it is no file name"
        raise InvalidInput(f"{path} cannot be read: {why}", "name a bundle's file") from None
    if len(data) > FILE_BYTES_MAX:
        raise BadBundle(
            f"the file is larger than {FILE_BYTES_MAX} bytes, which no bundle is",
            "check that it is the right file",
        )
    return data


def unpacked(data: bytes) -> dict[str, bytes]:
    """Member → bytes, once the file is known to be as it was written. Raises BadBundle."""
    end = _COMMENT.search(data, max(0, len(data) - 120))
    if end is None:
        raise BadBundle(
            "this is no incident bundle, or its end is cut off or changed", "get the file again"
        )
    if sha256(data[:-_HEX]).hexdigest().encode() != end[2]:
        where = _where_changed(data)
        raise BadBundle(f"the file is not as it was written: {where}", "get the file again")
    if int(end[1]) != FORMAT:
        raise BadBundle(
            f"the bundle has format {int(end[1])}, this program reads format {FORMAT}",
            "use the program that it was made with, or run the bundle itself with python3",
        )
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            infos = archive.infolist()
            _check_directory(infos)
            return {info.filename: archive.read(info) for info in infos}
    except _MISREADINGS as error:
        raise BadBundle(
            f"the bundle cannot be unpacked: {_line(error)}", "get the file again"
        ) from None


def _check_directory(infos: list[zipfile.ZipInfo]) -> None:
    if len(infos) > MEMBERS_MAX or len({info.filename for info in infos}) != len(infos):
        raise BadBundle("the bundle has too many members, or two of one name")
    for info in infos:
        name = info.filename
        if not _NAME.match(name):
            raise BadBundle(f"the bundle has a member with a name that none has: {name[:60]!r}")
        if info.file_size > limit_of(name):
            raise BadBundle(f"the bundle's {name} would unpack to {info.file_size} bytes")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadBundle(f"the bundle's {name} is packed in an unknown way")


def _where_changed(data: bytes) -> str:
    """Which member has another content than its own checksum says, as far as that can be told."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            infos = archive.infolist()
            _check_directory(infos)
            for info in infos:
                try:
                    archive.read(info)
                except _MISREADINGS:
                    return f"{info.filename} was changed"
    except (BadBundle, *_MISREADINGS):
        return "its frame was changed or is incomplete"
    return "its checksum differs"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
