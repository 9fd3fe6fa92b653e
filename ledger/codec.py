"""Events to rows and back: the storage form, in one place.

``data`` is canonical JSON (sorted keys, integers only) of the body's fields without those that hold
their default, and of the cause (``digest``, ``item``, ``items``). An event type or schema that is
not known here raises :class:`UnknownEvent`: it is never guessed at.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

import orjson

from ledger.canonical import canonical_json, checked_json
from ledger.chain import digest_of, link, metadata_hash
from ledger.errors import LedgerCorrupt, LedgerReadOnly
from ledger.events import AnyBody, Cause, Event
from ledger.identity import ProcessIdentity
from ledger.log import Row
from ledger.quick import Encoder, encoder
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


def decode_process(data: dict[str, Any]) -> ProcessIdentity:
    """The inverse of :func:`encode_process`."""
    return ProcessIdentity(**data)


def decode_request(data: dict[str, Any]) -> Request:
    """The inverse of :func:`encode_request`. Takes ``data`` over."""
    if "process" in data:
        data["process"] = ProcessIdentity(**data["process"])
    return Request(**data)


def decode_placement(data: dict[str, Any]) -> Placement:
    """The inverse of :func:`encode_placement`."""
    return Placement(**data)


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
    return tuple([Placement(**value) for value in values])


_DECODERS: dict[str, Encoder] = {
    "request": decode_request,
    "process": decode_process,
    "asker": decode_process,
    "placements": _placements,
    "nodes": lambda values: tuple([NodeSpec(**value) for value in values]),
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

    __slots__ = ("cls", "decoders", "schema", "write", "_encode", "_encoders")

    def __init__(self, cls: Any) -> None:
        encoders = dict(_ENCODERS)
        decoders = dict(_DECODERS)
        if cls.TYPE == "node_joined":
            encoders["node"] = encode_node
            decoders["node"] = lambda value: NodeSpec(**value)
        names = {f.name for f in fields(cls)}
        self.cls = cls
        self.schema = cls.SCHEMA
        self.write = checked_json if cls.TYPE in _OWN_CONTENT else canonical_json
        self.decoders = tuple((n, d) for n, d in decoders.items() if n in names)
        self._encoders = encoders
        self._encode: Encoder | None = None

    def encode(self, body: AnyBody) -> dict[str, Any]:
        """A body as a dict. Its encoder is made when first needed: few processes need many."""
        encode = self._encode
        if encode is None:
            encode = self._encode = encoder(self.cls, self._encoders)
        encoded: dict[str, Any] = encode(body)
        return encoded


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
    for name, decode in shape.decoders:
        value = data.get(name)
        if value is not None:
            data[name] = decode(value)
    return shape.cls(**data)  # type: ignore[no-any-return]


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
            cause = Cause(
                command_id, data.pop("digest"), data.pop("item", None), data.pop("items", None)
            )
        body = decode_body(type_, schema, data)
        metadata = None if metadata_text is None else orjson.loads(metadata_text)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LedgerCorrupt(
            f"event {position} ({type_}) cannot be read: {error}",
            "run `leasebook verify`; restore the last backup if it is damaged",
            position=position,
        ) from error
    return Event(
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
