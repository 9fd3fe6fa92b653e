"""What the fold needs of orjson, written with the standard library: it goes into bundles as ``orjson``.

For every value that the ledger stores, the bytes are the same as orjson's.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

OPT_SORT_KEYS = 32

JSONDecodeError = json.JSONDecodeError
JSONEncodeError = TypeError

_LEAST = -(2**63)
_MOST = 2**64 - 1


def _refuse(text: str) -> NoReturn:
    raise json.JSONDecodeError(f"{text} is not JSON", text, 0)


def loads(data: bytes | str) -> Any:
    """Read JSON. Raises JSONDecodeError, which is a ValueError."""
    try:
        text = data if isinstance(data, str) else bytes(data).decode()
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", "", 0) from None
    except UnicodeDecodeError:
        raise json.JSONDecodeError("not UTF-8", "", 0) from None
    if "\\u" in text:
        _no_halves(value)
    return value


def _no_halves(value: Any) -> None:
    """Half a surrogate pair is no text, though ``json`` takes it."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            try:
                one.encode()
            except UnicodeEncodeError:
                raise json.JSONDecodeError("a lone surrogate", "", 0) from None
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            waiting += one
            waiting += one.values()


def dumps(value: Any, default: None = None, option: int | None = None) -> bytes:
    """Write JSON without padding, with sorted keys where the option says so. Raises TypeError."""
    _check(value)
    try:
        text = json.dumps(
            value,
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
            sort_keys=bool(option and option & OPT_SORT_KEYS),
        )
        return text.encode()
    except (RecursionError, ValueError) as error:
        raise TypeError(f"there is no JSON for it: {error}") from None


def _check(value: Any) -> None:
    """Refuse what orjson refuses, and floats, whose text differs between the two."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if one is None or isinstance(one, str):
            continue
        if isinstance(one, int):
            if not _LEAST <= one <= _MOST:
                raise TypeError("Integer exceeds 64-bit range")
        elif isinstance(one, dict):
            if not all(isinstance(key, str) for key in one):
                raise TypeError("Dict key must be str")
            waiting += one.values()
        elif isinstance(one, (list, tuple)):
            waiting += one
        else:
            raise TypeError(f"Type is not JSON serializable: {type(one).__name__}")
