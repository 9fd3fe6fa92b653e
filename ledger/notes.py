"""Signed notes: a checkpoint of the log that can be kept elsewhere and proves itself.

The form is C2SP's signed note (https://c2sp.org/signed-note) with a checkpoint as its text
(https://c2sp.org/tlog-checkpoint), signed with Ed25519. The text names its origin, the number of
events and the digest that covers them; whoever holds the verifier key can tell a changed note, and
whoever holds an older note can tell a changed or shortened log::

    leasebook/0191e0c2
    1234
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

    — leasebook/0191e0c2 Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q…

Signing keys live in files in the form of Go's ``golang.org/x/mod/sumdb/note``.
"""

from __future__ import annotations

import os
import stat
from binascii import a2b_base64, b2a_base64
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Self

from ledger.errors import LeasebookError

ROOT_BYTES: Final = 32
SEED_BYTES: Final = 32
NOTE_BYTES_MAX: Final = 1_000_000
SIGNATURES_MAX: Final = 100
_ED25519: Final = b"\x01"
_SIGNATURE_BYTES: Final = 64
_KEY_ID_BYTES: Final = 4
_SECRET_PREFIX: Final = "PRIVATE+KEY+"
_KEY_FILE_BYTES_MAX: Final = 4096


class BadNote(LeasebookError, ValueError):
    """A note that is malformed, unknown or not what its key signed."""


class BadKey(LeasebookError, ValueError):
    """A key, or a key file, that cannot be trusted or read."""


@dataclass(frozen=True, slots=True)
class Note:
    """A checkpoint: after ``size`` events of ``origin``, ``root`` (32 bytes) covers them all.

    ``extra`` holds further lines, none of them empty, which the signature covers too.
    """

    origin: str
    size: int
    root: bytes
    extra: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """The public half of a key: enough to verify, and safe to publish."""

    name: str
    public_key: bytes

    def __post_init__(self) -> None:
        _check_key_name(self.name)
        if len(self.public_key) != 32:
            raise BadKey("an Ed25519 public key has 32 bytes", "copy the whole verifier key")

    @property
    def key_id(self) -> bytes:
        """The first 4 bytes of SHA-256(name, newline, 0x01, public key), as C2SP defines them."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public_key).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{_base64(_ED25519 + self.public_key)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``<name>+<hex key id>+<base64 of 0x01 and the key>``; raises BadKey."""
        name, key_id, key = _key_parts(text)
        verifier = cls(name, key)
        if verifier.key_id.hex() != key_id:
            raise BadKey(
                f"the verifier key {name!r} does not match its key id", "copy it again, whole"
            )
        return verifier

    def verifies(self, signature: bytes, text: bytes) -> bool:
        """Whether ``signature`` (64 bytes) is this key's over ``text``."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, text)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A named Ed25519 key. The seed (32 bytes) is the secret and never shows in ``repr``."""

    name: str
    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check_key_name(self.name)
        if len(self.seed) != SEED_BYTES:
            raise BadKey("an Ed25519 seed has 32 bytes", "restore the key file from a backup")

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = Ed25519PrivateKey.from_private_bytes(self.seed)
        return VerifierKey(self.name, key.public_key().public_bytes_raw())

    def sign(self, text: bytes) -> bytes:
        """The Ed25519 signature (64 bytes, RFC 8032) over ``text``."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(text)

    def secret_text(self) -> str:
        """The key as its file holds it: ``PRIVATE+KEY+<name>+<hex key id>+<base64>``. Secret."""
        key_id = self.verifier.key_id.hex()
        return f"{_SECRET_PREFIX}{self.name}+{key_id}+{_base64(_ED25519 + self.seed)}"

    @classmethod
    def parse_secret(cls, text: str) -> Self:
        """Read what ``secret_text`` wrote; raises BadKey, which never shows the text."""
        if not text.startswith(_SECRET_PREFIX):
            raise BadKey("this is not a signing key", "restore the key file from a backup")
        name, key_id, seed = _key_parts(text.removeprefix(_SECRET_PREFIX))
        key = cls(name, seed)
        if key.verifier.key_id.hex() != key_id:
            raise BadKey("the signing key is damaged", "restore the key file from a backup")
        return key


def note_text(note: Note) -> str:
    """The text that is signed: origin, size, root in base64 and extra lines, each ended.

    Raises BadNote for a note that this form cannot hold.
    """
    if len(note.root) != ROOT_BYTES or note.size < 0:
        raise BadNote("a checkpoint needs a size from 0 and a root of 32 bytes", "make it anew")
    lines = (note.origin, str(note.size), _base64(note.root), *note.extra)
    if any(not line or not _is_clean(line) for line in lines):
        raise BadNote("a checkpoint's lines are not empty and hold no control characters")
    return "".join(f"{line}\n" for line in lines)


def sign_note(note: Note, key: SigningKey) -> str:
    """The note with this key's signature, ready to be kept elsewhere."""
    return sign_text(note_text(note), key)


def open_note(text: str, *verifiers: VerifierKey) -> Note:
    """The checkpoint in ``text``, once a known key's signature on it has been verified.

    Signatures of unknown keys are ignored; one bad signature of a known key rejects the note.
    Raises BadNote where the note is malformed, no known key signed it, or a signature is bad.
    """
    body = open_text(text, *verifiers)
    lines = body.split("\n")[:-1]
    if len(lines) < 3:
        raise BadNote("the note is no checkpoint: it needs an origin, a size and a root")
    origin, size, root, *extra = lines
    if not (size.isascii() and size.isdecimal() and len(size) <= 19):
        raise BadNote("the note is no checkpoint: its second line is not a size")
    note = Note(origin, int(size), _decoded(root, "the root"), tuple(extra))
    if note_text(note) != body:
        raise BadNote("the note is no checkpoint: its size or root is not in canonical form")
    return note


def sign_text(text: str, key: SigningKey) -> str:
    """Sign any text that ends in a newline as a C2SP signed note; raises BadNote."""
    if not text.endswith("\n") or not _is_clean(text.replace("\n", "")):
        raise BadNote("a note's text ends in a newline and holds no other control character")
    signature = _base64(key.verifier.key_id + key.sign(text.encode()))
    return f"{text}\n— {key.name} {signature}\n"


def open_text(text: str, *verifiers: VerifierKey) -> str:
    """The text of a signed note, newline included, once a known key's signature holds.

    Raises BadNote as ``open_note`` does.
    """
    if len(text) > NOTE_BYTES_MAX or not _is_clean(text.replace("\n", "")):
        raise BadNote("the note is too long, or holds control characters")
    body, blank, signatures = text.rpartition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise BadNote("the note is cut short: a text, an empty line and signatures make a note")
    body += "\n"
    known = {(verifier.name, verifier.key_id): verifier for verifier in verifiers}
    verified = False
    lines = signatures.split("\n")[:-1]
    if len(lines) > SIGNATURES_MAX:
        raise BadNote(f"the note has more than {SIGNATURES_MAX} signatures")
    for line in lines:
        name, key_id, signature = _signature_parts(line)
        verifier = known.get((name, key_id))
        if verifier is None:
            continue
        if not verifier.verifies(signature, body.encode()):
            raise BadNote(f"the signature of {name!r} does not fit: the note was changed")
        verified = True
    if not verified:
        raise BadNote(
            "no known key has signed the note", "give the verifier key that belongs to it"
        )
    return body


def load_or_create_key(path: str | os.PathLike[str], name: str) -> SigningKey:
    """The signing key in the file at ``path``, made on first use under the name ``name``.

    The file is readable by its owner only, and so is its directory where this makes it. Several
    processes at once get the same key. Raises BadKey where the file is readable by others, belongs
    to another user, is damaged or holds a key of another name; OSError where the disk fails.
    """
    _check_key_name(name)
    file = os.fspath(path)
    try:
        text = _read_private(file)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(file) or ".", mode=0o700, exist_ok=True)
        _create_private(file, SigningKey(name, os.urandom(SEED_BYTES)).secret_text())
        # Another process may have been first; then its key is the key.
        text = _read_private(file)
    try:
        key = SigningKey.parse_secret(text.removesuffix("\n"))
    except BadKey as error:
        raise BadKey(f"{file!r}: {error.message}", error.hint) from None
    if key.name != name:
        raise BadKey(
            f"{file!r} holds the key of {key.name!r}, not of {name!r}", "name another key file"
        )
    return key


def _create_private(file: str, text: str) -> None:
    """Put a whole, durable, owner-only file at ``file``, unless there is one by then.

    A link appears at once and with its content, and it never replaces a file, so that nobody reads
    half a key and the first of several writers wins.
    """
    folder, base = os.path.split(file)
    draft = os.path.join(folder, f".{base}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(descriptor, 0o600)
            stream.write(f"{text}\n")
            stream.flush()
            os.fsync(descriptor)
        try:
            os.link(draft, file)
        except FileExistsError:
            return
        directory = os.open(folder or ".", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        os.unlink(draft)


def _read_private(file: str) -> str:
    """The content of a small file that nobody else can read or could have put there."""
    # O_NONBLOCK keeps a pipe in the file's place from blocking; it does nothing to a regular file.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadKey(f"{file!r} is not a regular file", "name another key file")
        if status.st_mode & 0o077:
            raise BadKey(
                f"the signing key {file!r} is open to others "
                f"(mode {stat.S_IMODE(status.st_mode):04o})",
                "run chmod 600 on it, or remove it and use a new key if others may have read it",
            )
        if os.geteuid() not in (0, status.st_uid):
            raise BadKey(f"the signing key {file!r} is another user's", "name another file")
        data = os.read(descriptor, _KEY_FILE_BYTES_MAX)
    finally:
        os.close(descriptor)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadKey(f"{file!r} is not a signing key", "restore it from a backup") from None


def _key_parts(text: str) -> tuple[str, str, bytes]:
    """Split ``<name>+<hex key id>+<base64>`` into name, key id and the 32 bytes of the key."""
    parts = text.split("+", 2)  # The base64 may hold a plus, the name may not.
    try:
        name, key_id, encoded = parts
        key = _decoded(encoded, "the key")
    except (ValueError, LeasebookError):
        raise BadKey("this is not a key", "give it as name+id+base64, whole") from None
    if key[:1] != _ED25519 or len(key) != 33:
        raise BadKey("this is not an Ed25519 key", "use a key made by this program")
    return name, key_id, key[1:]


def _signature_parts(line: str) -> tuple[str, bytes, bytes]:
    """Split a signature line into the key's name, its id and the signature itself."""
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    if dash != "—" or not _is_key_name(name):
        raise BadNote("the note has a line after its text that is not a signature")
    signed = _decoded(encoded, "a signature")
    if len(signed) <= _KEY_ID_BYTES:
        raise BadNote("the note has a signature that is cut short")
    return name, signed[:_KEY_ID_BYTES], signed[_KEY_ID_BYTES:]


def _is_key_name(name: str) -> bool:
    return bool(name) and "+" not in name and name.split() == [name] and _is_clean(name)


def _check_key_name(name: str) -> None:
    if not _is_key_name(name) or len(name) > 200:
        raise BadKey(
            f"{name[:40]!r} cannot name a key", "use 1 to 200 characters without spaces and '+'"
        )


def _is_clean(text: str) -> bool:
    """Whether ``text`` has no ASCII control character and can be written as UTF-8."""
    return not any(c < " " or "\ud800" <= c <= "\udfff" for c in text)


def _base64(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode()


def _decoded(text: str, what: str) -> bytes:
    """Decode base64, in the one form that RFC 4648 gives to these bytes."""
    try:
        data = a2b_base64(text, strict_mode=True)
    except ValueError:
        data = b""
    if not data or _base64(data) != text:
        raise BadNote(f"{what} in the note is not base64")
    return data
