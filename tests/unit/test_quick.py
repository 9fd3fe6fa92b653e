"""The house's own ``dataclass`` against the standard library's."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field, is_dataclass, replace
from typing import Any, ClassVar

import pytest

from ledger import quick
from ledger.events import Allocated, Event, PoolClosed, Released
from ledger.quick import encoder


def declare(dataclass: Callable[..., Any]) -> tuple[Any, Any, Any]:
    """The same three classes under one decorator or another."""

    class Root:
        __slots__ = ()

    @dataclass(frozen=True, slots=True)
    class Point(Root):
        KIND: ClassVar[str] = "point"
        x: int
        y: int = 2
        tags: list[str] = field(default_factory=list)

        @property
        def total(self) -> int:
            return self.x + self.y

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Named:
        name: str
        tenant: str = "default"

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Placed(Named):
        where: str
        size: int = 1

    return Point, Named, Placed


OURS = declare(quick.dataclass)
THEIRS = declare(dataclasses.dataclass)
CALLS = [
    (0, (1,), {}),
    (0, (1, 3), {"tags": ["a"]}),
    (0, (), {"y": 5, "x": 4}),
    (1, (), {"name": "n"}),
    (2, (), {"name": "n", "where": "here"}),
    (2, (), {"where": "here", "size": 7, "name": "n", "tenant": "t"}),
]


@pytest.mark.parametrize(("which", "args", "kwargs"), CALLS)
def test_a_value_shows_the_same_fields_as_the_standard_librarys(
    which: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    ours, theirs = OURS[which](*args, **kwargs), THEIRS[which](*args, **kwargs)
    assert repr(ours) == repr(theirs)
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    assert ours == OURS[which](*args, **kwargs)
    assert ours != theirs
    assert is_dataclass(ours)
    assert type(ours) is OURS[which]


@pytest.mark.parametrize(
    ("which", "args", "kwargs"),
    [
        (0, (), {}),
        (0, (1, 2, [], 4), {}),
        (0, (1,), {"z": 1}),
        (1, ("n",), {}),
        (2, (), {"name": "n"}),
    ],
)
def test_wrong_arguments_are_refused_as_the_standard_library_does(
    which: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(TypeError) as ours:
        OURS[which](*args, **kwargs)
    with pytest.raises(TypeError) as theirs:
        THEIRS[which](*args, **kwargs)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_signature_is_the_usual_one_after_the_first_value(which: int) -> None:
    call = next(call for call in CALLS if call[0] == which)
    OURS[which](*call[1], **call[2])
    ours, theirs = (inspect.signature(each[which]).parameters for each in (OURS, THEIRS))
    assert [(p.name, p.kind) for p in ours.values()] == [(p.name, p.kind) for p in theirs.values()]


def test_a_value_can_neither_be_changed_nor_grow() -> None:
    value = OURS[0](1)
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'x'"):
        value.x = 2
    with pytest.raises(FrozenInstanceError, match="cannot delete field 'x'"):
        del value.x
    with pytest.raises(AttributeError):
        value.other = 2
    assert (value.x, value.total) == (1, 3)


def test_a_default_factory_makes_a_new_default_for_each_value() -> None:
    assert OURS[0](1).tags is not OURS[0](1).tags


def test_values_are_equal_and_hash_alike_only_within_one_class() -> None:
    here = OURS[2](name="n", where="w")
    assert hash(here) == hash(OURS[2](name="n", where="w"))
    assert here != OURS[2](name="n", where="x")
    assert len({here, OURS[2](name="n", where="w"), OURS[1](name="n")}) == 2
    with pytest.raises(TypeError):
        hash(OURS[0](1))


def test_replace_makes_a_changed_copy() -> None:
    value = OURS[2](name="n", where="w")
    assert replace(value, size=9) == OURS[2](name="n", where="w", size=9)
    assert value.size == 1


def test_events_survive_copying_and_pickling() -> None:
    event = Event(1, 2, 2, "t", "p", "A1", "h", None, None, Released("h"), {"k": [1]})
    assert pickle.loads(pickle.dumps(event)) == event
    assert copy.copy(event) == event
    assert copy.deepcopy(event) == event
    assert PoolClosed() == PoolClosed()


def test_only_frozen_slotted_classes_are_made() -> None:
    for wrong in ({"frozen": False, "slots": True}, {"frozen": True, "slots": False}):
        with pytest.raises(AssertionError):
            quick.dataclass(**wrong)  # type: ignore[call-overload]


def test_an_encoder_leaves_defaults_out_and_encodes_what_is_nested() -> None:
    encode = encoder(Allocated, {"placements": len})
    body = Allocated("request", {"cpu": 1}, (), lease_until=5)  # type: ignore[arg-type]
    assert encode(body) == {
        "request": "request",
        "amounts": {"cpu": 1},
        "placements": 0,
        "lease_until": 5,
    }
    assert encoder(Released, leave_out="by")(Released("h", {"cpu": 1})) == {"consumed": {"cpu": 1}}
    assert encoder(OURS[0])(OURS[0](1)) == {"x": 1}
    assert encoder(OURS[0])(OURS[0](1, 3, ["a"])) == {"x": 1, "y": 3, "tags": ["a"]}
