"""Host lists as Slurm writes them: ``n[01-03,7],rack[1-2]n[1-4]`` are eleven names."""

from __future__ import annotations

from functools import lru_cache

HOSTS_MAX = 20_000
"""The most names one list may stand for."""
BRACKETS_MAX = 12
"""The most brackets in one name, beside and in each other."""


class BadHostlist(ValueError):
    """A host list that cannot be read; one line says why."""


@lru_cache(maxsize=4096)
def expand(text: str) -> tuple[str, ...]:
    """The names that a host list stands for, in its order, each once. Raises BadHostlist.

    Numbers keep their leading zeros. Brackets may stand several times in a name, and in each other.
    """
    names: dict[str, None] = {}
    for part in _split(text):
        if part:
            if part.count("[") > BRACKETS_MAX:
                raise BadHostlist(f"more than {BRACKETS_MAX} brackets in {part[:60]!r}")
            names.update(dict.fromkeys(_expand_one(part)))
            if len(names) > HOSTS_MAX:
                raise BadHostlist(f"a host list of more than {HOSTS_MAX} names")
    return tuple(names)


def _split(text: str) -> list[str]:
    """The parts between commas that stand outside of brackets."""
    if "[" not in text and "]" not in text:
        return [part.strip() for part in text.split(",")]
    parts, depth, begun = [], 0, 0
    for index, letter in enumerate(text):
        if letter == "[":
            depth += 1
        elif letter == "]":
            depth -= 1
            if depth < 0:
                break
        elif letter == "," and depth == 0:
            parts.append(text[begun:index].strip())
            begun = index + 1
    if depth:
        raise BadHostlist(f"the brackets of {text[:60]!r} do not match")
    return [*parts, text[begun:].strip()]


def _expand_one(text: str) -> list[str]:
    """One part: what stands before the first bracket, each of its values, and the rest of it."""
    opened = text.find("[")
    if opened < 0:
        return [text]
    depth, closed = 0, -1
    for index in range(opened, len(text)):
        depth += {"[": 1, "]": -1}.get(text[index], 0)
        if depth == 0:
            closed = index
            break
    rests = _expand_one(text[closed + 1 :])
    values = [value for one in _split(text[opened + 1 : closed]) for value in _range(one)]
    if len(values) * len(rests) > HOSTS_MAX:
        raise BadHostlist(f"a host list of more than {HOSTS_MAX} names")
    return [text[:opened] + value + rest for value in values for rest in rests]


def _range(text: str) -> list[str]:
    """``01-03`` as its numbers; anything else is expanded as a part of its own."""
    first, dash, last = text.partition("-")
    if not dash or "[" in text:
        return _expand_one(text)
    if not (_is_number(first) and _is_number(last)):
        raise BadHostlist(f"{text[:60]!r} in a host list is not a range of numbers")
    low, high = int(first), int(last)
    if high < low:
        raise BadHostlist(f"the range {text[:60]!r} in a host list is upside down")
    if high - low >= HOSTS_MAX:
        raise BadHostlist(f"a host list of more than {HOSTS_MAX} names")
    return [f"{number:0{len(first)}}" for number in range(low, high + 1)]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18
