"""JSON values one after the other, out of an array or on lines of their own, in bounded memory.

A value that is broken is told with its text, and reading goes on at the next object behind it.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from leasebook.importers.base import LATIN_1, Source, WrongFormat
from ledger.errors import InvalidInput

CHUNK_BYTES: Final = 1 << 16
VALUE_CHARACTERS_MAX: Final = 1 << 24
"""The longest single value that is read: an inventory of a large fleet has its place in it."""

_BETWEEN = re.compile(r"[\s,]*")
_NEXT_OBJECT = re.compile(r"\}\s*,?\s*(?=\{)")


@dataclass(frozen=True, slots=True)
class Broken:
    """Text that is no JSON value, and why."""

    reason: str
    text: str


class JsonStream:
    """Reads a source once. ``array`` says whether the values stand in one; known after the first."""

    def __init__(self, source: Source) -> None:
        self.array = False
        self._source = source
        self._stream = source.binary()
        self._decoder = codecs.getincrementaldecoder("utf-8")(LATIN_1)
        self._scan = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._over = False

    def values(self) -> Iterator[tuple[int, Any]]:
        """Each value with its number from 1; a :class:`Broken` where one cannot be read.

        Raises WrongFormat where the text is no JSON at all, InvalidInput for a damaged gzip file.
        """
        first = self._skip()
        if first == "\ufeff":
            self._at += 1
            first = self._skip()
        if first not in ("[", "{"):
            raise WrongFormat(
                f"{self._source.name} is no JSON: it begins with {first!r}",
                "name a file with one JSON array, or choose another --format",
            )
        self.array = first == "["
        self._at += self.array
        number = 0
        while letter := self._skip():
            if letter == "]" and self.array:
                return
            number += 1
            yield number, self._value()
        if self.array:
            yield number + 1, Broken("the file ends before its array does", "")

    def _skip(self) -> str:
        """Go to where the next value begins: its first character, empty at the end."""
        while True:
            match = _BETWEEN.match(self._text, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Read on, twice as much as is at hand; whether there was anything."""
        if self._over:
            return False
        try:
            data = self._stream.read(max(CHUNK_BYTES, len(self._text) - self._at))
        except (EOFError, OSError, zlib.error) as error:
            raise InvalidInput(
                f"{self._source.name} is damaged: {error}",
                "what came before it is recorded; get the file again and import it again",
            ) from None
        self._over = not data
        self._text = self._text[self._at :] + self._decoder.decode(data, self._over)
        self._at = 0
        return bool(data)

    def _value(self) -> Any:
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except (ValueError, RecursionError) as error:
                # It may only not be whole yet.
                if len(self._text) - self._at < VALUE_CHARACTERS_MAX and self._more():
                    continue
                return self._broken(error)
            if end == len(self._text) and not self._over and self._more():
                continue
            self._at = end
            return value

    def _broken(self, error: Exception) -> Broken:
        match = _NEXT_OBJECT.search(self._text, self._at)
        end = len(self._text) if match is None else match.end()
        text = self._text[self._at : end]
        self._at = end
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
        return Broken(f"is no JSON: {reason}", text[:4000])
