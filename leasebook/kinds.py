"""Arguments of the wrong kind, said in one line: what a manager's methods check before they begin.

What is checked is what a method's annotations say. The check is for callers: what stands inside a
value of the right kind (a name's characters, a duration's text) is for the mapping and the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from ledger.errors import InvalidInput
from ledger.identity import ProcessIdentity

P = ParamSpec("P")
T = TypeVar("T")
Test = Callable[[Any], bool]
Check = Callable[[tuple[Any, ...], dict[str, Any]], None]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _maps(key: Test, value: Test) -> Test:
    return lambda given: (
        isinstance(given, Mapping) and all(key(k) and value(v) for k, v in given.items())
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_any(value: Any) -> bool:
    return True


def _is_many(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes)


def _is_noted(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and _is_whole(value[0])
        and isinstance(value[1], bytes)
    )


_KINDS: dict[str, tuple[str, Test]] = {
    "None": ("nothing", lambda value: value is None),
    "str": ("text", _is_text),
    "int": ("a whole number", _is_whole),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "float": ("a number", _is_number),
    "Duration": ("a duration", lambda value: _is_number(value) or _is_text(value)),
    "When": ("a time", lambda value: _is_whole(value) or _is_text(value)),
    "ProcessIdentity": ("a process identity", lambda value: isinstance(value, ProcessIdentity)),
    "Mapping[str, Any]": ("a mapping with names", _maps(_is_text, _is_any)),
    "Amounts": ("a mapping with names", _maps(_is_text, _is_any)),
    "Mapping[str, str]": ("a mapping of text to text", _maps(_is_text, _is_text)),
    "Mapping[str, int]": ("a mapping of text to whole numbers", _maps(_is_text, _is_whole)),
    "tuple[tuple[int, bytes], ...]": (
        "a tuple of (position, hash)",
        lambda value: isinstance(value, tuple) and all(map(_is_noted, value)),
    ),
}
"""Annotation → what it is called, and what tells it."""


def _parts(annotation: str) -> list[str]:
    """``int | Iterable[int | str]`` → ``int``, ``Iterable[int | str]``."""
    parts, depth = [""], 0
    for piece in annotation.split(" | "):
        parts[-1] += f" | {piece}" if depth else piece
        depth += piece.count("[") - piece.count("]")
        if not depth:
            parts.append("")
    return parts[:-1]


def _named(name: str) -> Test:
    return lambda given: any(each.__name__ == name for each in type(given).__mro__)


def _kind_of(part: str) -> tuple[str, Test] | None:
    if part in _KINDS:
        return _KINDS[part]
    if part.startswith(("Iterable[", "Sequence[")):
        return "several of them", _is_many
    if part.startswith("Mapping["):
        return _KINDS["Mapping[str, Any]"]
    return (f"a value of {part}", _named(part)) if part.isidentifier() and part != "Any" else None


def _kinds_of(annotation: str) -> tuple[str, tuple[Test, ...]] | None:
    """What an annotation allows, in words and tests; None where nothing is checked."""
    kinds = [_kind_of(part) for part in _parts(annotation)]
    known = [kind for kind in kinds if kind is not None]
    if len(known) < len(kinds):
        return None
    words = [word for word, _ in known if word != "nothing"]
    return " or ".join(words), tuple(test for _, test in known)


def checks(method: Any) -> Check:
    """A check of the positional and named arguments of a method, without its ``self``.

    The check raises InvalidInput naming the first argument of the wrong kind. Arguments that the
    method does not have, or lacks, are left to the call itself.
    """
    wanted: dict[str, tuple[str, tuple[Test, ...]]] = {}
    order: list[str] = []

    def prepare() -> None:
        # Without inspect, and only once it is needed: the command line imports this and is in a hurry.
        code = method.__code__
        order.extend(code.co_varnames[1 : code.co_argcount])
        for name, annotation in method.__annotations__.items():
            kinds = _kinds_of(str(annotation))
            if kinds is not None and name != "return":
                wanted[name] = kinds

    def check(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not wanted:
            prepare()
        for name, value in (*zip(order, args, strict=False), *kwargs.items()):
            kinds = wanted.get(name)
            if kinds is not None and not any(test(value) for test in kinds[1]):
                raise InvalidInput(
                    f"{name} is {_shown(value)}, which is not {kinds[0]}",
                    f"see help() of {method.__name__}",
                )

    return check


def checked(method: Callable[P, T]) -> Callable[P, T]:
    """The method, with its arguments checked first."""
    check = checks(method)

    @wraps(method)
    def first_checked(*args: P.args, **kwargs: P.kwargs) -> T:
        check(args[1:], kwargs)
        return method(*args, **kwargs)

    return first_checked


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"
