"""Events to rows and back: the storage form, in one place.

``data`` is canonical JSON (sorted keys, integers only) of the body's fields without those that hold
their default, and of the cause (``digest``, ``item``, ``items``). An event type or schema that is
not known here raises :class:`UnknownEvent`: it is never guessed at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, get_args

from ledger.canonical import canonical_json, loads
from ledger.chain import digest_of, link, metadata_hash
from ledger.errors import LedgerCorrupt, LedgerReadOnly
from ledger.events import AnyBody, Cause, Event
from ledger.identity import ProcessIdentity
from ledger.log import Row
from ledger.requests import NodeSpec, Placement, Request

Encoder = Callable[[Any], Any]


class UnknownEvent(LedgerReadOnly):
    """The log holds an event that a newer program wrote: it can be read as rows, not folded."""


def _default(of: Field[Any]) -> Any:
    if of.default is not MISSING:
        return of.default
    return of.default_factory() if of.default_factory is not MISSING else MISSING


def _table(cls: type, nested: dict[str, Encoder]) -> tuple[tuple[str, Any, Encoder | None], ...]:
    return tuple((f.name, _default(f), nested.get(f.name)) for f in fields(cls))


def _encode(table: tuple[tuple[str, Any, Encoder | None], ...], value: Any) -> dict[str, Any]:
    out = {}
    for name, default, encoder in table:
        item = getattr(value, name)
        if item is default or item == default:
            continue
        out[name] = encoder(item) if encoder is not None and item is not None else item
    return out


_PROCESS = _table(ProcessIdentity, {})
_NODE_SPEC = _table(NodeSpec, {})
_PLACEMENT = _table(Placement, {})


def encode_process(process: ProcessIdentity) -> dict[str, Any]:
    """A process identity as JSON-ready dict."""
    return _encode(_PROCESS, process)


_REQUEST = _table(Request, {"process": encode_process})


def encode_request(request: Request) -> dict[str, Any]:
    """A request as JSON-ready dict, defaults left out."""
    return _encode(_REQUEST, request)


def decode_process(data: dict[str, Any]) -> ProcessIdentity:
    """The inverse of :func:`encode_process`."""
    return ProcessIdentity(**data)


def decode_request(data: dict[str, Any]) -> Request:
    """The inverse of :func:`encode_request`. Takes ``data`` over."""
    if "process" in data:
        data["process"] = ProcessIdentity(**data["process"])
    return Request(**data)


def encode_placement(placement: Placement) -> dict[str, Any]:
    """A placement as JSON-ready dict."""
    return _encode(_PLACEMENT, placement)


def decode_placement(data: dict[str, Any]) -> Placement:
    """The inverse of :func:`encode_placement`."""
    return Placement(**data)


def encode_node(node: NodeSpec) -> dict[str, Any]:
    """A node's announcement as JSON-ready dict."""
    return _encode(_NODE_SPEC, node)


def _each(encoder: Encoder) -> Encoder:
    return lambda values: [encoder(value) for value in values]


_ENCODERS: dict[str, Encoder] = {
    "request": encode_request,
    "process": encode_process,
    "placements": _each(encode_placement),
    "nodes": _each(encode_node),
}
_DECODERS: dict[str, Encoder] = {
    "request": decode_request,
    "process": decode_process,
    "placements": lambda values: tuple([Placement(**value) for value in values]),
    "nodes": lambda values: tuple([NodeSpec(**value) for value in values]),
    "blockers": tuple,
    "allocations": tuple,
    "ends": tuple,
    "with_holders": tuple,
}


class _Shape:
    """How one body class is encoded and decoded."""

    __slots__ = ("cls", "decoders", "schema", "table")

    def __init__(self, cls: Any) -> None:
        encoders = dict(_ENCODERS)
        decoders = dict(_DECODERS)
        if cls.TYPE == "node_joined":
            encoders["node"] = encode_node
            decoders["node"] = lambda value: NodeSpec(**value)
        names = {f.name for f in fields(cls)}
        self.cls = cls
        self.schema = cls.SCHEMA
        self.table = _table(cls, encoders)
        self.decoders = tuple((n, d) for n, d in decoders.items() if n in names)


_SHAPES: dict[str, _Shape] = {cls.TYPE: _Shape(cls) for cls in get_args(AnyBody)}
EVENT_TYPES = tuple(_SHAPES)
"""Every event type this program knows, by its stable name."""


def encode_body(body: AnyBody) -> dict[str, Any]:
    """A body as the JSON-ready dict that stands in ``data``."""
    return _encode(_SHAPES[body.TYPE].table, body)


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
    data = _encode(_SHAPES[body.TYPE].table, body)
    cause = event.cause
    command_id = None
    if cause is not None:
        command_id = cause.command_id
        data["digest"] = cause.digest
        if cause.items is not None:
            data["item"], data["items"] = cause.item, cause.items
    text = canonical_json(data).decode()
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
    (position, at, recorded_at, type_, schema, tenant, pool, allocation, holder, task) = row[:10]
    try:
        data = loads(row.data)
        cause = None
        if row.command_id is not None:
            cause = Cause(
                row.command_id, data.pop("digest"), data.pop("item", None), data.pop("items", None)
            )
        body = decode_body(type_, schema, data)
        metadata = None if row.metadata is None else loads(row.metadata)
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
