"""The hash chain: each event's hash covers its content's digest and the hash before it.

``digest`` is SHA-256 over the length-prefixed columns, the data, and the SHA-256 of the metadata;
``hash`` is SHA-256 over the previous hash and the digest. Metadata enters only through its own hash,
so that it can be redacted and the proof still holds.
"""

from __future__ import annotations

from hashlib import sha256
from struct import Struct

_INTS = Struct(">qqqi").pack
_LENGTHS = Struct(">8i").pack

NO_METADATA = bytes(32)
"""What stands for the metadata's hash where there is none."""


def metadata_hash(metadata: str | None) -> bytes:
    """SHA-256 of the metadata's stored bytes, or :data:`NO_METADATA`."""
    return NO_METADATA if metadata is None else sha256(metadata.encode()).digest()


def digest_of(
    position: int,
    at: int,
    recorded_at: int,
    type_: str,
    schema: int,
    tenant: str,
    pool: str | None,
    allocation: str | None,
    holder: str | None,
    task: str | None,
    command_id: str | None,
    data: str,
    metadata_sha256: bytes,
) -> bytes:
    """The digest of one event's content (32 bytes).

    Layout: the four integers big-endian (position, at, recorded_at as 8 bytes, schema as 4), then
    the UTF-8 lengths of type, tenant, pool, allocation, holder, task, command_id and data as 4-byte
    big-endian integers (−1 for a missing column), then those texts in that order, then the
    metadata's SHA-256.
    """
    t, n, d = type_.encode(), tenant.encode(), data.encode()
    p = b"" if pool is None else pool.encode()
    a = b"" if allocation is None else allocation.encode()
    h = b"" if holder is None else holder.encode()
    k = b"" if task is None else task.encode()
    c = b"" if command_id is None else command_id.encode()
    lengths = _LENGTHS(
        len(t),
        len(n),
        -1 if pool is None else len(p),
        -1 if allocation is None else len(a),
        -1 if holder is None else len(h),
        -1 if task is None else len(k),
        -1 if command_id is None else len(c),
        len(d),
    )
    ints = _INTS(position, at, recorded_at, schema)
    return sha256(b"".join((ints, lengths, t, n, p, a, h, k, c, d, metadata_sha256))).digest()


def link(previous: bytes, digest: bytes) -> bytes:
    """The hash of an event: SHA-256 over the hash before it and its digest."""
    return sha256(previous + digest).digest()
