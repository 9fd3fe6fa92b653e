"""The functions that :mod:`ledger.quick` writes out do what the class itself would do."""

from __future__ import annotations

import dataclasses
import pickle
from dataclasses import FrozenInstanceError, field
from typing import Any

import pytest

from ledger.quick import dataclass, decoder, encoder, maker, replace


@dataclass(frozen=True, slots=True)
class Inner:
    name: str
    size: int = 1


@dataclass(frozen=True, slots=True)
class Outer:
    key: str
    inner: Inner | None
    amounts: dict[str, int] = field(default_factory=dict)
    note: str | None = None


make = maker(Outer)
encode = encoder(Outer, {"inner": encoder(Inner)})
decode = decoder(Outer, {"inner": decoder(Inner)})
FULL = Outer("a", Inner("b", 2), {"cpu": 3}, "n")


def test_a_made_value_is_the_value_that_its_class_makes() -> None:
    made = make("a", Inner("b", 2), amounts={"cpu": 3}, note="n")
    assert type(made) is Outer
    assert made == FULL
    assert hash(make("a", None, (), "x")) == hash(Outer("a", None, (), "x"))  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(made)) == made


def test_a_made_value_has_defaults_of_its_own_and_is_frozen() -> None:
    one, two = make("a", None), make("a", None)
    assert one == Outer("a", None)
    assert one.amounts is not two.amounts
    with pytest.raises(FrozenInstanceError):
        one.note = "changed"  # type: ignore[misc]


def test_a_maker_takes_what_the_class_takes_and_nothing_else() -> None:
    with pytest.raises(TypeError):
        make("a")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        make("a", None, other=1)  # type: ignore[call-arg]


def test_a_copy_differs_in_what_was_named_and_shares_the_rest() -> None:
    copy = replace(FULL, note=None, key="z")
    assert copy == dataclasses.replace(FULL, note=None, key="z")
    assert type(copy) is Outer
    assert copy.inner is FULL.inner
    assert FULL.note == "n"


def test_a_copy_with_a_field_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError):
        replace(FULL, other=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "value", [FULL, Outer("a", Inner("b")), Outer("a", Inner("b"), {}, ""), Outer("", Inner(""))]
)
def test_decoding_undoes_encoding_and_takes_the_dict_over(value: Outer) -> None:
    data = encode(value)
    assert decode(data) == value
    assert data == {}


def test_null_for_a_nested_value_stays_none() -> None:
    assert decode({"key": "a", "inner": None}) == Outer("a", None)


@pytest.mark.parametrize(
    "data",
    [
        {"key": "a"},
        {"key": "a", "inner": None, "other": 1},
        {"key": "a", "inner": {"name": "b", "other": 1}},
        {"key": "a", "inner": {"size": 1}},
        {"key": "a", "inner": [1]},
        ["key", "inner"],
        "key",
        7,
        None,
    ],
)
def test_what_is_no_such_value_is_not_decoded(data: Any) -> None:
    with pytest.raises((KeyError, TypeError, AttributeError)):
        decode(data)


@pytest.mark.parametrize("data", [[], "", None, 0, ["name"]])
def test_where_all_fields_have_defaults_only_a_dict_is_decoded(data: Any) -> None:
    @dataclass(frozen=True, slots=True)
    class Lenient:
        name: str = ""

    assert decoder(Lenient)({}) == Lenient()
    with pytest.raises((TypeError, AttributeError)):
        decoder(Lenient)(data)
