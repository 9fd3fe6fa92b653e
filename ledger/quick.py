"""Frozen values that are quick to declare and to make: ``dataclass`` for what the house speaks.

The ledger declares some eighty frozen slotted classes, every command makes a dozen values of them,
and a fold makes millions. :mod:`dataclasses` compiles six methods for each class when it is imported
(together a third of what a command line has to start), and a frozen initialiser of its kind sets
each field by a call. The :func:`dataclass` here takes fields, slots and defaults from there, shares
all methods but the initialiser, and compiles that when the first value is made.

To the type checker, and to the functions of :mod:`dataclasses` (``fields``, ``replace``,
``is_dataclass``), there is no difference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, fields
from functools import cache
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Encoder = Callable[[Any], Any]


def _repr(self: Any) -> str:
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__field_names__)
    return f"{type(self).__qualname__}({shown})"


def _eq(self: Any, other: Any) -> Any:
    if type(other) is not type(self):
        return NotImplemented
    return all(getattr(self, name) == getattr(other, name) for name in self.__field_names__)


def _hash(self: Any) -> int:
    return hash(tuple([getattr(self, name) for name in self.__field_names__]))


def _setattr(self: Any, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, name) for name in self.__field_names__]


def _setstate(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__field_names__, state, strict=True):
        object.__setattr__(self, name, value)


_SHARED = {
    "__repr__": _repr,
    "__eq__": _eq,
    "__hash__": _hash,
    "__setattr__": _setattr,
    "__delattr__": _delattr,
    "__getstate__": _getstate,
    "__setstate__": _setstate,
}


@cache
def _twin_of(cls: Any) -> Any:
    """An open class with the same slots, which a value is of while its fields are set."""
    own = {"__slots__": cls.__slots__, "__setattr__": object.__setattr__}
    return type(cls.__name__, cls.__bases__, own)


def _written_out(cls: Any, name: str, self_given: bool) -> Callable[..., Any]:
    """A function of the usual signature of ``__init__``, as source, as :mod:`dataclasses` does it.

    A value is frozen, so its fields cannot simply be set. They are set while it is of an open twin
    class with the same slots, and then it becomes what it is: three to five times as fast as a
    call of ``object.__setattr__`` for each.
    """
    space: dict[str, Any] = {
        "_cls": cls,
        "_twin": _twin_of(cls),
        "_become": object.__setattr__,
        "_new": object.__new__,
        "_MISSING": MISSING,
    }
    parameters = ["self"] if self_given else []
    lines = []
    for f in fields(cls):
        if f.kw_only and "*" not in parameters:
            parameters.append("*")
        value = f.name
        if f.default is not MISSING:
            space[f"_default_{f.name}"] = f.default
            parameters.append(f"{f.name}=_default_{f.name}")
        elif f.default_factory is not MISSING:
            space[f"_make_{f.name}"] = f.default_factory
            parameters.append(f"{f.name}=_MISSING")
            value = f"_make_{f.name}() if {f.name} is _MISSING else {f.name}"
        else:
            parameters.append(f.name)
        lines.append(f" self.{f.name} = {value}")
    begin = " _become(self, '__class__', _twin)" if self_given else " self = _new(_twin)"
    end = [" self.__class__ = _cls", *([] if self_given else [" return self"])]
    head = f"def {name}({', '.join(parameters)}):"
    exec("\n".join([head, begin, *lines, *end]), space)
    function: Callable[..., Any] = space[name]
    return function


def _initialiser(cls: Any) -> Callable[..., None]:
    """The ``__init__`` of a class, made when its first value is."""
    initialise = _written_out(cls, "__init__", self_given=True)
    initialise.__qualname__ = f"{cls.__qualname__}.__init__"
    initialise.__annotations__ = {f.name: f.type for f in fields(cls)} | {"return": None}
    return initialise


def maker(cls: Callable[P, T]) -> Callable[P, T]:
    """A function that makes values of a class of :func:`dataclass`, as calling the class does.

    It takes two thirds of the time, since nothing lies between the caller and the fields. For the
    few classes of which every event and every command makes a value.
    """
    return _written_out(cls, "make", self_given=False)


def _copier(cls: Any) -> Callable[[Any, dict[str, Any]], Any]:
    """A function from a value and some other fields to a value that has those, field by field."""
    space: dict[str, Any] = {"_cls": cls, "_twin": _twin_of(cls), "_new": object.__new__}
    lines = ["def copy(value, changes):", " self = _new(_twin)"]
    lines += [f" self.{name} = value.{name}" for name in cls.__field_names__]
    lines += [" for name, other in changes.items():", "  setattr(self, name, other)"]
    exec("\n".join([*lines, " self.__class__ = _cls", " return self"]), space)
    copy: Callable[[Any, dict[str, Any]], Any] = space["copy"]
    return copy


def _quick(cls: Any, kw_only: bool) -> Any:
    made: Any = dataclasses.dataclass(
        init=False, repr=False, eq=False, slots=True, kw_only=kw_only
    )(cls)
    made.__field_names__ = tuple([field.name for field in fields(made)])
    made.__copy_with__ = None
    for name, method in _SHARED.items():
        setattr(made, name, method)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        made.__init__ = _initialiser(made)
        made.__init__(self, *args, **kwargs)

    made.__init__ = __init__
    return made


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import replace as replace
else:

    def dataclass(*, frozen: bool, slots: bool, kw_only: bool = False):
        """As :func:`dataclasses.dataclass` with ``frozen=True, slots=True``, which it insists on.

        Not for a class that a class without this decorator inherits from.
        """
        assert frozen
        assert slots
        return lambda cls: _quick(cls, kw_only)

    def replace(value, /, **changes):
        """As :func:`dataclasses.replace`, for values of the classes here."""
        cls = type(value)
        copy = cls.__copy_with__
        if copy is None:
            cls.__copy_with__ = copy = _copier(cls)
        try:
            return copy(value, changes)
        except AttributeError as error:
            raise TypeError(str(error)) from None


def encoder(cls: Any, nested: dict[str, Encoder] | None = None, *, leave_out: str = "") -> Encoder:
    """A function from a value of a dataclass to a dict of the fields that differ from their default.

    It is written out as source, field by field, since a loop over the fields took a third of the
    time of a grant. ``nested`` says how some fields are encoded themselves; ``leave_out`` is a field
    that is not wanted.
    """
    nested = nested or {}
    space: dict[str, Any] = {f"_nested_{name}": encode for name, encode in nested.items()}
    lines = ["def encode(value):", " out = {}"]
    for f in fields(cls):
        if f.name == leave_out:
            continue
        default = f.default if f.default_factory is MISSING else f.default_factory()
        space[f"_default_{f.name}"] = default
        lines.append(f" item = value.{f.name}")
        if default is None:
            lines.append(" if item is not None:")
        elif default is not MISSING:
            lines.append(f" if item != _default_{f.name}:")
        else:
            lines.append(" if True:")
        item = f"_nested_{f.name}(item)" if f.name in nested else "item"
        lines.append(f"  out[{f.name!r}] = {item}")
    exec("\n".join([*lines, " return out"]), space)
    encode: Encoder = space["encode"]
    return encode


def decoder(cls: Any, nested: dict[str, Encoder] | None = None) -> Encoder:
    """The inverse of :func:`encoder`: a function from a dict, which it empties, to a value.

    ``nested`` says how some fields are decoded themselves; None stays None. Raises KeyError for a
    field that is missing, TypeError for a key that is none of the fields.
    """
    nested = nested or {}
    space: dict[str, Any] = {f"_nested_{name}": decode for name, decode in nested.items()}
    space |= {"_cls": cls, "_twin": _twin_of(cls), "_new": object.__new__}
    lines = ["def decode(data):", " self = _new(_twin)"]
    for f in fields(cls):
        item = f"data.pop({f.name!r})"
        if f.name in nested:
            item = f"(None if (item := {item}) is None else _nested_{f.name}(item))"
        if f.default is not MISSING:
            space[f"_default_{f.name}"] = f.default
            item = f"{item} if {f.name!r} in data else _default_{f.name}"
        elif f.default_factory is not MISSING:
            space[f"_make_{f.name}"] = f.default_factory
            item = f"{item} if {f.name!r} in data else _make_{f.name}()"
        lines.append(f" self.{f.name} = {item}")
    lines += [" if data != {}:", "  raise TypeError(f'{data!r} is more than it has')"]
    exec("\n".join([*lines, " self.__class__ = _cls", " return self"]), space)
    decode: Encoder = space["decode"]
    return decode
