"""The digest and the chain: every column counts, and nothing can be moved between columns."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.chain import NO_METADATA, digest_of, link, metadata_hash
from ledger.log import GENESIS

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBER = st.integers(-(2**63), 2**63 - 1)
COLUMNS = st.fixed_dictionaries(
    {
        "position": NUMBER,
        "at": NUMBER,
        "recorded_at": NUMBER,
        "type_": TEXT,
        "schema": st.integers(-(2**31), 2**31 - 1),
        "tenant": TEXT,
        "pool": st.none() | TEXT,
        "allocation": st.none() | TEXT,
        "holder": st.none() | TEXT,
        "task": st.none() | TEXT,
        "command_id": st.none() | TEXT,
        "data": TEXT,
        "metadata_sha256": st.binary(min_size=32, max_size=32),
    }
)
SAMPLE: dict[str, Any] = {
    "position": 17,
    "at": 1_790_000_000_000_000_001,
    "recorded_at": 1_790_000_000_000_000_002,
    "type_": "allocated",
    "schema": 1,
    "tenant": "default",
    "pool": "gpus",
    "allocation": "A17",
    "holder": None,
    "task": "",
    "command_id": "c-ü",
    "data": "{}",
    "metadata_sha256": NO_METADATA,
}


def test_the_digest_of_a_known_event_never_changes() -> None:
    texts = ["allocated", "default", "gpus", "A17", "c-ü", "{}"]
    expected = hashlib.sha256()
    for number in (17, 1_790_000_000_000_000_001, 1_790_000_000_000_000_002):
        expected.update(number.to_bytes(8, "big"))
    expected.update((1).to_bytes(4, "big"))
    for length in (9, 7, 4, 3, -1, 0, 4, 2):
        expected.update(length.to_bytes(4, "big", signed=True))
    expected.update("".join(texts).encode() + bytes(32))
    assert digest_of(**SAMPLE) == expected.digest()
    assert (
        digest_of(**SAMPLE).hex()
        == "48bea62b1213ba7bf2f9c363db994e39ffe63fe6ad8cbc4c1da98b7251523f4a"
    )


def test_the_hash_covers_the_hash_before_and_the_digest() -> None:
    digest = digest_of(**SAMPLE)
    assert link(GENESIS, digest) == hashlib.sha256(bytes(32) + digest).digest()
    assert link(digest, digest) != link(GENESIS, digest)


def test_metadata_enters_by_its_own_hash() -> None:
    assert metadata_hash(None) == NO_METADATA == bytes(32)
    assert metadata_hash('{"a":1}') == hashlib.sha256(b'{"a":1}').digest()
    assert metadata_hash("") != NO_METADATA


@given(COLUMNS, COLUMNS)
def test_events_that_differ_in_anything_have_different_digests(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert (digest_of(**one) == digest_of(**other)) == (one == other)


@given(COLUMNS, st.data())
def test_a_change_of_any_single_column_changes_the_digest(
    columns: dict[str, Any], data: st.DataObject
) -> None:
    other = data.draw(COLUMNS)
    name = data.draw(st.sampled_from(sorted(columns)))
    changed = {**columns, name: other[name]}
    assert (digest_of(**columns) == digest_of(**changed)) == (columns[name] == other[name])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"pool": None}, {"pool": ""}),
        ({"tenant": "ab", "pool": "c"}, {"tenant": "a", "pool": "bc"}),
        ({"pool": "x", "allocation": None}, {"pool": None, "allocation": "x"}),
        ({"command_id": "c{", "data": "}"}, {"command_id": "c", "data": "{}"}),
        ({"at": 1, "recorded_at": 2}, {"at": 2, "recorded_at": 1}),
    ],
)
def test_text_cannot_move_from_one_column_to_the_next(
    left: dict[str, Any], right: dict[str, Any]
) -> None:
    assert digest_of(**{**SAMPLE, **left}) != digest_of(**{**SAMPLE, **right})
