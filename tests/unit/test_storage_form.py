"""The storage form, byte for byte: what is in people's ledgers must be read and hashed for ever.

``storage_form.jsonl`` holds, for one example of each event type, the exact ``data``, the digest and
the hash. A change here breaks every ledger there is: add fields with defaults, never edit the file's
lines.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from ledger.chain import digest_of, link, metadata_hash
from ledger.codec import EVENT_TYPES, UnknownEvent, from_row, to_row
from ledger.errors import LedgerCorrupt
from ledger.events import AnyBody, Event, LedgerOpened
from ledger.log import GENESIS, Row
from tests.unit.storage_examples import BODIES, example

GOLDEN = [
    json.loads(line)
    for line in (Path(__file__).parent / "storage_form.jsonl").read_text("utf-8").splitlines()
]
CONTRACT_TYPES = """
ledger_opened pool_opened pool_resized pool_closed node_joined node_left node_cordoned
node_uncordoned quota_set policy_set queued refused allocated reserved confirmed adjusted
renewed ending released expired reclaimed withdrawn transferred shared replenished holder_seen
task_started task_finished usage_recorded capacity_observed time_extended alert_raised
alert_cleared corrected redacted checkpointed
""".split()  # noqa: SIM905


def rows() -> list[Row]:
    made, previous = [], GENESIS
    for position, body in enumerate(BODIES, 1):
        made.append(to_row(example(position, body), previous))
        previous = made[-1].hash
    return made


def test_every_event_type_of_the_contract_has_an_example() -> None:
    assert {body.TYPE for body in BODIES} == set(CONTRACT_TYPES) == set(EVENT_TYPES)
    assert len(get_args(AnyBody)) == len(CONTRACT_TYPES)


@pytest.mark.parametrize("number", range(len(BODIES)), ids=[body.TYPE for body in BODIES])
def test_an_event_is_stored_as_it_always_was(number: int) -> None:
    row = rows()[number]
    assert {
        "type": row.type,
        "schema": row.schema,
        "data": row.data,
        "metadata": row.metadata,
        "digest": row.digest.hex(),
        "hash": row.hash.hex(),
    } == GOLDEN[number]


@pytest.mark.parametrize("number", range(len(BODIES)), ids=[body.TYPE for body in BODIES])
def test_an_event_is_read_back_as_it_was(number: int) -> None:
    assert from_row(rows()[number]) == example(number + 1, BODIES[number])


@pytest.mark.parametrize("number", range(len(BODIES)), ids=[body.TYPE for body in BODIES])
def test_fields_at_their_default_are_left_out_and_come_back(number: int) -> None:
    cls = type(BODIES[number])
    required = {
        f.name: getattr(BODIES[number], f.name)
        for f in fields(cls)
        if f.default is f.default_factory  # both MISSING
    }
    body = cls(**required)
    row = to_row(Event(1, 1, 1, "", None, None, None, None, None, body), GENESIS)
    assert set(json.loads(row.data)) == set(required)
    assert from_row(row).body == body


def test_the_digest_covers_every_column() -> None:
    row = rows()[-1]
    columns = list(row[:12])
    args = [*columns, metadata_hash(row.metadata)]
    assert digest_of(*args) == row.digest  # type: ignore[arg-type]
    for index, value in enumerate(args):
        other = list(args)
        other[index] = (
            value + 1 if isinstance(value, int) else bytes(32) if isinstance(value, bytes) else "x"
        )
        assert digest_of(*other) != row.digest, index  # type: ignore[arg-type]
        if isinstance(value, str) and index in (6, 7, 8, 9, 10):
            missing, empty = list(args), list(args)
            missing[index], empty[index] = None, ""
            assert digest_of(*missing) != digest_of(*empty)  # type: ignore[arg-type]


def test_moving_text_between_columns_changes_the_digest() -> None:
    base = [1, 1, 1, "t", 1, "ab", "c", None, None, None, None, "{}", bytes(32)]
    moved = [1, 1, 1, "t", 1, "a", "bc", None, None, None, None, "{}", bytes(32)]
    assert digest_of(*base) != digest_of(*moved)  # type: ignore[arg-type]


def test_the_hash_covers_the_one_before() -> None:
    row = rows()[0]
    assert link(GENESIS, row.digest) == row.hash
    assert link(bytes([1] * 32), row.digest) != row.hash


def test_a_type_or_schema_from_the_future_is_never_guessed_at() -> None:
    row = to_row(Event(1, 1, 1, "", None, None, None, None, None, LedgerOpened("x")), GENESIS)
    with pytest.raises(UnknownEvent, match="ledger_merged"):
        from_row(row._replace(type="ledger_merged"))
    with pytest.raises(UnknownEvent, match="schema 2"):
        from_row(row._replace(schema=2))


@pytest.mark.parametrize("data", ["", "[]", "null", "{", '{"nonsense": 1}', "{}"])
def test_data_that_is_no_event_is_damage(data: str) -> None:
    row = rows()[0]
    with pytest.raises(LedgerCorrupt) as caught:
        from_row(row._replace(data=data))
    assert caught.value.position == 1
