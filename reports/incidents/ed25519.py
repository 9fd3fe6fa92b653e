"""Ed25519 signatures verified with nothing but the standard library (RFC 8032, section 5.1.7).

It verifies only, so nothing here is secret and nothing needs to take constant time. One signature
takes some milliseconds.
"""

from __future__ import annotations

from hashlib import sha512
from typing import Final

_P: Final = 2**255 - 19
_L: Final = 2**252 + 27742317777372353535851937790883648493
_D: Final = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT_OF_MINUS_ONE: Final = pow(2, (_P - 1) // 4, _P)

_Point = tuple[int, int, int, int]
"""X, Y, Z, T with x = X/Z, y = Y/Z and xy = T/Z (section 5.1.4)."""

_ZERO: Final = (0, 1, 1, 0)


def _x_of(y: int, odd: int) -> int | None:
    """The x of a point from its y and the parity of x (section 5.1.3); None where there is none."""
    squared = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    if squared == 0:
        return None if odd else 0
    x = pow(squared, (_P + 3) // 8, _P)
    if (x * x - squared) % _P:
        x = x * _ROOT_OF_MINUS_ONE % _P
    if (x * x - squared) % _P:
        return None
    return _P - x if x & 1 != odd else x


def _decode(data: bytes) -> _Point | None:
    """A point from its 32 bytes; None for what is no point or not its one proper form."""
    number = int.from_bytes(data, "little")
    y, odd = number & (2**255 - 1), number >> 255
    if y >= _P:
        return None
    x = _x_of(y, odd)
    return None if x is None else (x, y, 1, x * y % _P)


def _encode(point: _Point) -> bytes:
    x, y, z, _ = point
    inverse = pow(z, _P - 2, _P)
    x, y = x * inverse % _P, y * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _add(p: _Point, q: _Point) -> _Point:
    a = (p[1] - p[0]) * (q[1] - q[0]) % _P
    b = (p[1] + p[0]) * (q[1] + q[0]) % _P
    c = 2 * p[3] * q[3] * _D % _P
    d = 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(scalar: int, point: _Point) -> _Point:
    total: _Point = _ZERO
    while scalar:
        if scalar & 1:
            total = _add(total, point)
        point = _add(point, point)
        scalar >>= 1
    return total


def _base() -> _Point:
    y = 4 * pow(5, _P - 2, _P) % _P
    x = _x_of(y, 0)
    assert x is not None
    return x, y, 1, x * y % _P


_BASE: Final = _base()


def verifies(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether a signature (64 bytes) is the key's (32 bytes) over a message.

    Stricter than RFC 8032 demands in one point: a key of small order, which would let one signature
    fit many messages, verifies nothing. The equation is the one without the cofactor, so that what
    is accepted here is accepted by OpenSSL too.
    """
    if len(public_key) != 32 or len(signature) != 64:
        return False
    key = _decode(public_key)
    s = int.from_bytes(signature[32:], "little")
    if key is None or s >= _L or _encode(_times(8, key)) == _encode(_ZERO):
        return False
    k = int.from_bytes(sha512(signature[:32] + public_key + message).digest(), "little") % _L
    minus_key = (_P - key[0], key[1], 1, _P - key[3])
    return _encode(_add(_times(s, _BASE), _times(k, minus_key))) == signature[:32]
