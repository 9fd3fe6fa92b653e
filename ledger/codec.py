"""Events to rows and back: the storage form, in one place.

``data`` is canonical JSON (sorted keys, integers only) of the body's fields without those that hold
their default, and of the cause (``digest``, ``item``, ``items``). An event type or schema that is
not known here raises :class:`UnknownEvent`: it is never guessed at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import orjson

from ledger.advance import ASKED_FOR_CAUSE
from ledger.canonical import canonical_json, checked_json
from ledger.chain import digest_of, link, metadata_hash
from ledger.errors import LedgerCorrupt, LedgerReadOnly
from ledger.events import AnyBody, Event, make_cause, make_event
from ledger.identity import ProcessIdentity
from ledger.log import Row
from ledger.quick import Encoder, decoder, encoder
from ledger.requests import NodeSpec, Placement, Request


class UnknownEvent(LedgerReadOnly):
    """The log holds an event that a newer program wrote: it can be read as rows, not folded."""


encode_process = encoder(ProcessIdentity)
"""A process identity as JSON-ready dict."""

encode_request = encoder(Request, {"process": encode_process})
"""A request as JSON-ready dict, defaults left out."""

encode_placement = encoder(Placement)
"""A placement as JSON-ready dict."""

encode_node = encoder(NodeSpec)
"""A node's announcement as JSON-ready dict."""


decode_process = decoder(ProcessIdentity)
"""The inverse of :func:`encode_process`. Takes its dict over, as all of these do."""

decode_request = decoder(Request, {"process": decode_process})
"""The inverse of :func:`encode_request`."""

decode_placement = decoder(Placement)
"""The inverse of :func:`encode_placement`."""

decode_node = decoder(NodeSpec)
"""The inverse of :func:`encode_node`."""


def _each(encoder: Encoder) -> Encoder:
    return lambda values: [encoder(value) for value in values]


_ENCODERS: dict[str, Encoder] = {
    "request": encode_request,
    "process": encode_process,
    "asker": encode_process,
    "placements": _each(encode_placement),
    "nodes": _each(encode_node),
}


def _placements(values: list[dict[str, Any]]) -> tuple[Placement, ...]:
    return tuple([decode_placement(value) for value in values])


_DECODERS: dict[str, Encoder] = {
    "request": decode_request,
    "process": decode_process,
    "asker": decode_process,
    "placements": _placements,
    "nodes": lambda values: tuple([decode_node(value) for value in values]),
    "blockers": tuple,
    "allocations": tuple,
    "ends": tuple,
    "with_holders": tuple,
}


_OWN_CONTENT = frozenset(
    {"allocated", "released", "expired", "queued", "reserved", "renewed", "refused", "withdrawn"}
)
"""Types that hold nothing but text, integers, and what was checked with their command."""


class _Shape:
    """How one body class is encoded and decoded."""

    __slots__ = ("cls", "decode", "encode", "schema", "write", "_decoders", "_encoders")

    def __init__(self, cls: Any) -> None:
        encoders = dict(_ENCODERS)
        decoders = dict(_DECODERS)
        if cls.TYPE == "node_joined":
            encoders["node"] = encode_node
            decoders["node"] = decode_node
        self.cls = cls
        self.schema = cls.SCHEMA
        self.write = checked_json if cls.TYPE in _OWN_CONTENT else canonical_json
        self._encoders = encoders
        self._decoders = decoders
        self.encode: Callable[[AnyBody], dict[str, Any]] = self._encode_first
        """A body as a dict."""
        self.decode: Callable[[dict[str, Any]], AnyBody] = self._decode_first
        """The inverse of :attr:`encode`."""

    # Either function is made when it is first needed: few processes need many of them.

    def _encode_first(self, body: AnyBody) -> dict[str, Any]:
        encode: Callable[[AnyBody], dict[str, Any]] = encoder(self.cls, self._encoders)
        self.encode = encode
        return encode(body)

    def _decode_first(self, data: dict[str, Any]) -> AnyBody:
        decode: Callable[[dict[str, Any]], AnyBody] = decoder(self.cls, self._decoders)
        self.decode = decode
        return decode(data)


_SHAPES: dict[str, _Shape] = {cls.TYPE: _Shape(cls) for cls in get_args(AnyBody)}
EVENT_TYPES = tuple(_SHAPES)
"""Every event type this program knows, by its stable name."""


def encode_body(body: AnyBody) -> dict[str, Any]:
    """A body as the JSON-ready dict that stands in ``data``."""
    return _SHAPES[body.TYPE].encode(body)


def decode_body(type_: str, schema: int, data: dict[str, Any]) -> AnyBody:
    """The inverse of :func:`encode_body`. Takes ``data`` over.

    Raises UnknownEvent for a type or schema this program does not know.
    """
    shape = _SHAPES.get(type_)
    if shape is None or schema > shape.schema:
        raise UnknownEvent(
            f"the ledger holds an event {type_!r} (schema {schema}) that this program does not know,"
            " so it can only be read",
            "upgrade leasebook",
        )
    return shape.decode(data)


def to_row(event: Event, previous: bytes) -> Row:
    """The stored form of an event that follows an event with hash ``previous``."""
    body = event.body
    shape = _SHAPES[body.TYPE]
    data = shape.encode(body)
    cause = event.cause
    command_id = None
    if cause is not None:
        command_id = cause.command_id
        data["digest"] = cause.digest
        if cause.items is not None:
            data["item"], data["items"] = cause.item, cause.items
    text = shape.write(data).decode()
    metadata = canonical_json(event.metadata).decode() if event.metadata else None
    digest = digest_of(
        event.position,
        event.at,
        event.recorded_at,
        body.TYPE,
        body.SCHEMA,
        event.tenant,
        event.pool,
        event.allocation,
        event.holder,
        event.task,
        command_id,
        text,
        metadata_hash(metadata),
    )
    return Row(
        event.position,
        event.at,
        event.recorded_at,
        body.TYPE,
        body.SCHEMA,
        event.tenant,
        event.pool,
        event.allocation,
        event.holder,
        event.task,
        command_id,
        text,
        metadata,
        digest,
        link(previous, digest),
    )


_NO_EVENT = (ValueError, TypeError, KeyError, AttributeError)


def _unreadable(row: Row, error: Exception) -> LedgerCorrupt:
    return LedgerCorrupt(
        f"event {row.position} ({row.type}) cannot be read: {error}",
        "run `leasebook verify`; restore the last backup if it is damaged",
        position=row.position,
    )


def from_row(row: Row) -> Event:
    """The event that a row stores. Raises UnknownEvent, and LedgerCorrupt for what is no event."""
    # fmt: off
    (position, at, recorded_at, type_, schema, tenant, pool, allocation, holder, task,
     command_id, text, metadata_text, _, _) = row
    # fmt: on
    try:
        data = orjson.loads(text)
        cause = None
        if command_id is not None:
            cause = make_cause(
                command_id, data.pop("digest"), data.pop("item", None), data.pop("items", None)
            )
        body = decode_body(type_, schema, data)
        metadata = None if metadata_text is None else orjson.loads(metadata_text)
    except _NO_EVENT as error:
        raise _unreadable(row, error) from error
    return make_event(
        position,
        at,
        recorded_at,
        tenant,
        pool,
        allocation,
        holder,
        task,
        cause,
        body,
        metadata,
    )


def fact_of(row: Row) -> Event:
    """As :func:`from_row`, with no more than a book goes by: no metadata, and a cause only where
    :func:`~ledger.advance.advance` asks for one. A fold makes an event of each row for nothing else.
    """
    type_ = row.type
    if type_ in ASKED_FOR_CAUSE:
        return from_row(row)
    # fmt: off
    (position, at, recorded_at, _, schema, tenant, pool, allocation, holder, task,
     command_id, text, _, _, _) = row
    # fmt: on
    try:
        data = orjson.loads(text)
        if command_id is not None:
            del data["digest"]
            if "items" in data:
                del data["item"], data["items"]
        body = decode_body(type_, schema, data)
    except _NO_EVENT as error:
        raise _unreadable(row, error) from error
    return make_event(
        position, at, recorded_at, tenant, pool, allocation, holder, task, None, body, None
    )
