"""What a command asks, as a digest: the same id with another content is refused (design, rule 4)."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from hashlib import sha256
from typing import Any

from ledger.canonical import canonical_json, checked_json
from ledger.codec import encode_request
from ledger.commands import Allocate, AllocateBatch, Command, Fact, Reclaim
from ledger.quick import encoder
from ledger.requests import Placement

_TABLES: dict[type, tuple[tuple[str, Any], ...]] = {}


def _plain(value: Any) -> Any:
    """A value as JSON-ready data without what holds its default, so that new fields change nothing."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if not is_dataclass(value):
        return value
    table = _TABLES.get(type(value))
    if table is None:
        table = tuple(
            (f.name, f.default_factory() if f.default_factory is not MISSING else f.default)
            for f in fields(value)
            if f.name != "command_id"
        )
        _TABLES[type(value)] = table
    return {
        name: _plain(getattr(value, name))
        for name, default in table
        if getattr(value, name) != default
    }


_item = encoder(Allocate, {"request": encode_request}, leave_out="command_id")


_OBSERVED = ("evidence", "process_alive", "enforced", "happened_at")


def _is_checked(command: Allocate) -> bool:
    """Whether :func:`ledger.decide.check` has seen every part that could hold anything but JSON."""
    request = command.request
    return command.metadata is None and request.process is None and request.parent is None


def content_digest(command: Command) -> str:
    """128 bits, in hex, of the SHA-256 over the verb and all that the command says but its id."""
    content: Any
    write = canonical_json
    if type(command) is Allocate:
        content = (
            command.tenant,
            command.pool,
            command.holder,
            command.task,
            encode_request(command.request),
            command.metadata,
        )
        if _is_checked(command):
            write = checked_json
    elif type(command) is AllocateBatch:
        # What the last branch makes of it, by a shorter way: batches are long.
        content = {"items": [_item(item) for item in command.items]}
        if command.tenant != "default":
            content["tenant"] = command.tenant
        if command.atomic:
            content["atomic"] = True
        if all(map(_is_checked, command.items)):
            write = checked_json
    else:
        content = _plain(command)
        if type(command) is Reclaim:
            # What was seen of the process is no part of what is asked: a retry sees it anew.
            for seen in _OBSERVED:
                content.pop(seen, None)
    return sha256(write([command.VERB, content])).hexdigest()[:32]


def fact_digest(fact: Fact) -> str:
    """128 bits, in hex, of the SHA-256 over all that a fact says and the record keeps."""
    usage = fact.usage
    content = (
        fact.holder,
        fact.task,
        fact.request.amounts,
        fact.request.ttl_ns,
        _placed(fact.placements),
        fact.requested_at,
        fact.began_at,
        fact.ended_at,
        fact.ended_by,
        fact.seen_from,
        fact.seen_until,
        [(at, _placed(placements)) for at, placements in fact.moves] if fact.moves else None,
        None if usage is None else _plain(usage),
    )
    return sha256(checked_json(content)).hexdigest()[:32]


def _placed(placements: tuple[Placement, ...]) -> list[Any]:
    return [(one.node, one.amounts, one.devices) for one in placements]
