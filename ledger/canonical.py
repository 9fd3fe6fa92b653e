"""Canonical JSON: one value, one sequence of bytes, so that a hash of it means something.

Keys are sorted by code point, nothing is padded, text is UTF-8, and numbers are integers: the
text of a float differs between writers, so a float is refused wherever it stands.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from ledger.errors import InvalidInput

DEPTH_MAX: Final = 64
"""How deep arrays and objects may nest."""


class BadJson(InvalidInput, ValueError):
    """A value that has no canonical form, or bytes that are not JSON; one line."""


def canonical_json(value: object) -> bytes:
    """Write ``value`` as canonical JSON.

    Takes ``None``, booleans, integers of 64 bits, text, lists, tuples and dicts with text keys,
    nested up to 64 deep; text and integer enums are written as their values. Raises BadJson for
    floats, other types, other keys, lone surrogates and larger integers.
    """
    _check(value, DEPTH_MAX)
    return checked_json(value)


def checked_json(value: object) -> bytes:
    """As :func:`canonical_json`, for a value that is known to hold nothing orjson would make up.

    The check takes ten times as long as the writing, so it is done once, where a value comes in.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise BadJson(
            f"the value has no canonical JSON: {error}",
            "use text in UTF-8, whole numbers within 64 bits, and keys that are text",
        ) from None


def loads(data: bytes | str) -> Any:
    """Read JSON. Raises BadJson for anything else; NaN and Infinity are not JSON."""
    try:
        return orjson.loads(data)
    except ValueError as error:
        raise BadJson(f"not readable as JSON: {error}") from None


def _check(value: object, depth_left: int) -> None:
    """Raise BadJson for what orjson would write without a canonical form.

    orjson writes floats, dates, dataclasses and UUIDs by itself, and NaN as null.
    """
    if value is None or isinstance(value, (str, int)):
        return
    if depth_left == 0:
        raise BadJson(f"the value nests deeper than {DEPTH_MAX}", "make it flatter")
    if isinstance(value, dict):
        for item in value.values():
            if type(item) is not str and type(item) is not int:
                _check(item, depth_left - 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(item, depth_left - 1)
    else:
        raise BadJson(
            f"a {type(value).__name__} has no canonical JSON",
            "use integers, text, booleans, null, lists and objects",
        )
