"""Rows for tests of the log: a small builder that keeps positions, digests and hashes right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ledger.canonical import canonical_json
from ledger.chain import digest_of, link, metadata_hash
from ledger.log import EMPTY, Head, Row

START_NS = 1_790_000_000_000_000_000


def row_after(head: Head, **fields: Any) -> Row:
    """The row that follows a head; ``data`` may be a dict, everything has a default."""
    position = head.position + 1
    data = fields.pop("data", {"amounts": {"cpu": 1000}})
    values: dict[str, Any] = {
        "at": START_NS + position,
        "recorded_at": START_NS + position,
        "type": "allocated",
        "schema": 1,
        "tenant": "default",
        "pool": "local",
        "allocation": f"A{position}",
        "holder": "agent-1",
        "task": None,
        "command_id": None,
        "data": data if isinstance(data, str) else canonical_json(data).decode(),
        **fields,
    }
    metadata = values.pop("metadata", None)
    digest = digest_of(position, **_renamed(values), metadata_sha256=metadata_hash(metadata))
    return Row(position, **values, metadata=metadata, digest=digest, hash=link(head.hash, digest))


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    return {("type_" if name == "type" else name): value for name, value in values.items()}


def head_of(row: Row) -> Head:
    """The head of a log that ends with this row."""
    return Head(row.position, row.hash, row.recorded_at)


def rows_after(head: Head, specs: Sequence[dict[str, Any]]) -> list[Row]:
    """Rows that follow each other from a head on, one for each dict of fields."""
    rows = []
    for spec in specs:
        rows.append(row_after(head, **spec))
        head = head_of(rows[-1])
    return rows


def plain_rows(count: int, head: Head = EMPTY, **fields: Any) -> list[Row]:
    """``count`` like rows from a head on."""
    return rows_after(head, [fields] * count)


def append(log: Any, *specs: dict[str, Any]) -> list[Row]:
    """Append one row for each dict of fields in one transaction, and return them."""
    with log.transaction() as transaction:
        rows = rows_after(transaction.head(), specs)
        transaction.append(rows)
    return rows


def redact(log: Any, position: int) -> Row:
    """Redact one row as the ledger does: the event first, then the erasure, in one transaction."""
    with log.transaction() as transaction:
        metadata = next(log.read(position - 1, position)).metadata
        fact = {"position": position, "metadata_sha256": metadata_hash(metadata).hex()}
        row = row_after(transaction.head(), type="redacted", tenant="", allocation=None, data=fact)
        transaction.append([row])
        transaction.erase_metadata(position)
    return row


def ordinary_allocation(number: int) -> Iterator[dict[str, Any]]:
    """The four events of one ordinary allocation, with fields of usual length."""
    who = {
        "allocation": f"A{4 * number + 1}",
        "pool": "gpus",
        "holder": f"session-{number % 97}/agent-{number % 7}",
        "task": f"train-{number // 10}",
    }
    request = {
        "amounts": {"cpu": 2000, "memory": 4294967296},
        "priority": "normal",
        "strategy": "best_fit",
        "ttl_ns": 900000000000,
    }
    placement = [{"amounts": request["amounts"], "node": "n2"}]
    key = "0190a1b2-c3d4-7e5f-8a9b-"
    yield {
        **who,
        "type": "allocated",
        "command_id": f"{key}{number:012x}",
        "data": {
            "digest": "ab" * 16,
            "expires_at": START_NS,
            "in_use": {"n2": {"cpu": 4000}},
            "placements": placement,
            "request": request,
        },
        "metadata": '{"branch":"main","job":"ci-1234"}',
    }
    yield {
        **who,
        "type": "renewed",
        "command_id": f"{key}{number + 2**40:012x}",
        "data": {
            "digest": "cd" * 16,
            "expires_at": START_NS,
        },
    }
    yield {
        **who,
        "type": "usage_recorded",
        "data": {
            "cpu_ns": 123456789012,
            "coverage_ppm": 990000,
            "memory_peak": 3221225472,
            "since": START_NS,
            "until": START_NS,
        },
    }
    yield {
        **who,
        "type": "released",
        "command_id": f"{key}{number + 2**41:012x}",
        "data": {
            "by": who["holder"],
            "digest": "ef" * 16,
            "in_use": {"n2": {"cpu": 2000}},
        },
    }
