"""Canonical JSON: the same value gives the same bytes, and no float gets in."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.canonical import DEPTH_MAX, BadJson, canonical_json, loads
from ledger.errors import LeasebookError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=30
)


class Colour(StrEnum):
    RED = "red"


@given(VALUES)
def test_a_value_reads_back_as_it_was(value: Any) -> None:
    assert loads(canonical_json(value)) == value


@given(st.dictionaries(TEXT, SCALARS), st.randoms(use_true_random=False))
def test_the_order_of_keys_leaves_no_trace(value: dict[str, Any], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(value)


@given(st.dictionaries(TEXT, SCALARS))
def test_another_reader_finds_the_same_value_with_its_keys_in_order(value: dict[str, Any]) -> None:
    read = json.loads(canonical_json(value))
    assert read == value
    assert list(read) == sorted(value)


def test_the_bytes_are_fixed() -> None:
    value = {"b": [1, -2, True, None], "a": {"é": "ü\n", "Z": ()}, "state": Colour.RED}
    expected = '{"a":{"Z":[],"é":"ü\\n"},"b":[1,-2,true,null],"state":"red"}'
    assert canonical_json(value) == expected.encode()


@pytest.mark.parametrize(
    "odd",
    [
        1.5, 1.0, float("nan"), float("inf"), Decimal(1), datetime.now(UTC), UUID(int=1), b"x",
        {1}, object(), "\ud800", 2**64, -(2**63) - 1, {1: 2}, {None: 1}, {"\ud800": 1},
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"k": (1, {"deep": x})}])
def test_what_has_no_canonical_form_is_refused_wherever_it_stands(odd: Any, wrap: Any) -> None:
    with pytest.raises(BadJson) as caught:
        canonical_json(wrap(odd))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, LeasebookError)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_nesting_has_a_limit() -> None:
    assert canonical_json(nested(DEPTH_MAX)).count(b"[") == DEPTH_MAX
    for levels in (DEPTH_MAX + 1, 100_000):
        with pytest.raises(BadJson, match="deeper"):
            canonical_json(nested(levels))


@pytest.mark.parametrize(
    "data", [b"", b"{", b"NaN", b'{"a":1}x', b"\xff", "[1,]", b"[" * 5000], ids=len
)
def test_bytes_that_are_not_json_are_refused_in_one_line(data: bytes | str) -> None:
    with pytest.raises(BadJson) as caught:
        loads(data)
    assert "\n" not in str(caught.value)
