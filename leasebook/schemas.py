"""Where JSON and files enter: pydantic checks their shape and turns them into our values.

Imported only where such input comes in: pydantic is too slow to load for a command line that is
called from hooks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from leasebook.values import AllocationRequest
from ledger.errors import InvalidInput

Text = Annotated[str, Field(min_length=1, max_length=200)]
Quantity = int | float | str


class BatchItem(BaseModel):
    """One request of a batch as JSON: the fields of :class:`leasebook.AllocationRequest`."""

    model_config = ConfigDict(extra="forbid")

    amounts: dict[Text, Quantity]
    pool: Text
    holder: Text | None = None
    task: Text | None = None
    ttl: Quantity | None = None
    pid: int | None = None
    wait: Quantity | None = None
    priority: Text = "normal"
    strategy: Text | None = None
    select: dict[Text, Text] | None = None
    max_age: Quantity | None = None
    parent: Text | None = None
    metadata: dict[str, Any] | None = None


class NodeRow(BaseModel):
    """One row of a nodes file: the node's name; every other column is a resource or a label."""

    model_config = ConfigDict(extra="allow")

    name: Text


_BATCH: TypeAdapter[list[BatchItem]] = TypeAdapter(list[BatchItem])


def _line(error: ValidationError, where: str) -> InvalidInput:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    more = len(error.errors()) - 1
    also = f" (and {more} more)" if more else ""
    return InvalidInput(f"{where}: {field}: {first['msg']}{also}", "mend it and try again")


def batch_item(given: Mapping[str, Any], number: int) -> AllocationRequest:
    """A batch's request from a dict. Raises InvalidInput."""
    try:
        item = BatchItem.model_validate(dict(given))
    except ValidationError as error:
        raise _line(error, f"request {number} of the batch") from None
    return AllocationRequest(**item.model_dump())


def batch_from_json(text: str) -> list[AllocationRequest]:
    """A batch from a JSON array. Raises InvalidInput."""
    try:
        items = _BATCH.validate_json(text)
    except ValidationError as error:
        raise _line(error, "the batch") from None
    return [AllocationRequest(**item.model_dump()) for item in items]


def node_row(given: Mapping[str, Any], line: int) -> NodeRow:
    """A row of a nodes file. Raises InvalidInput."""
    try:
        return NodeRow.model_validate(given)
    except ValidationError as error:
        raise _line(error, f"line {line} of the nodes file") from None
