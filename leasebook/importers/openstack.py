"""OpenStack: what compute notifications tell of instances, and inventories of hypervisors.

A file is a JSON array of notifications (or one object on each line), or ``{"hypervisors": […]}``, whose
date is that in the file's name. An instance holds its ``vcpus`` and ``memory_mb`` from ``create.end``
(or from when it was first seen active) until ``delete.end``. One that is not deleted holds until it
was last seen active, and stays open; being powered off ends nothing, and an ``exists`` counts only
with state ``active``. A migration, a resize and the like change where it is and how much it has.

Notifications may come twice, late and in any order, in one file or several: what is said of an
instance is gathered while there is room for it, and told piece by piece where there is not. What it
comes to depends on the notifications alone, so every move is told, even one to where it is already:
another that came between them may turn up in a later file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from leasebook.importers.base import (
    Found,
    Inventory,
    Item,
    Options,
    Reject,
    Source,
    WrongFormat,
    fit_name,
)
from leasebook.importers.json_stream import Broken, JsonStream
from leasebook.importers.units import moment
from ledger.requests import Amounts, NodeSpec, Placement, Request
from ledger.rules.history import UNKNOWN, Notice
from reports.lives import UNPLACED

POOL: Final = "openstack"
ABOUT_INSTANCES: Final = "compute.instance."
MEBIBYTE: Final = 1 << 20
INSTANCES_MAX: Final = 50_000
"""How many instances are gathered at a time."""
MOVES_MAX: Final = 200
"""How many moves of one instance are gathered at a time."""

_MOVES = re.compile(r"(?:migrat|resize|rebuild|evacuate|unshelve).*\.end\Z")
_NO_MOVE = re.compile(r"\.pre\.|prep|rollback|\Aresize\.end")
_DATE = re.compile(
    r"(?<!\d)(\d{4})-?(\d\d)-?(\d\d)(?:[T_-]?(\d\d)[:-]?(\d\d)(?:[:-]?(\d\d))?)?(?!\d)"
)
_NOTHING: Final = frozenset({"", "None", "none", "null"})


class BadRecord(Exception):
    """A record that cannot be understood, and why."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where an instance was and what it had, from a time on."""

    at: int
    host: str
    amounts: Amounts

    def placements(self) -> tuple[Placement, ...]:
        """As the ledger has it."""
        return (Placement(self.host, self.amounts, {}),)


@dataclass(slots=True)
class Instance:
    """All that was said of one instance since it was last told. Times are ns UTC."""

    line: int
    tenant: str | None = None
    holder: str | None = None
    created: Spot | None = None
    deleted: Spot | None = None
    first_seen: Spot | None = None
    last_seen: int | None = None
    moves: dict[int, Spot] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def read(source: Source, options: Options) -> Iterator[Item]:
    """The instances and hypervisors that a file tells of."""
    reader = _Reader(source, options)
    for number, value in JsonStream(source).values():
        if isinstance(value, Broken):
            yield Reject(number, value.reason, value.text)
            continue
        if number == 1:
            _check_first(source, value)
        try:
            if isinstance(value, dict) and "hypervisors" in value:
                yield from reader.hypervisors(number, value["hypervisors"])
            else:
                reader.take(number, value)
        except BadRecord as error:
            yield Reject(number, str(error), _shown(value))
        if len(reader.instances) > INSTANCES_MAX or reader.full:
            yield from reader.tell(INSTANCES_MAX // 2)
    yield from reader.tell(0)


def _check_first(source: Source, value: Any) -> None:
    if not (isinstance(value, dict) and ("event_type" in value or "hypervisors" in value)):
        raise WrongFormat(
            f"{source.name} holds neither notifications nor hypervisors",
            'name a JSON array of {"event_type": …}, or {"hypervisors": […]}',
        )


def _shown(value: Any) -> str:
    import json

    return json.dumps(value)[:4000]


class _Reader:
    """Gathers what notifications say, instance by instance."""

    def __init__(self, source: Source, options: Options) -> None:
        self.instances: dict[str, Instance] = {}
        self.full = False
        self._source = source
        self._options = options
        self._pool = options.pool or POOL

    # --- notifications ---------------------------------------------------------------------------

    def take(self, number: int, record: Any) -> None:
        """Take in one notification. Raises BadRecord."""
        if not isinstance(record, dict) or not _text(record, "event_type"):
            raise BadRecord("is no notification: it has no event_type")
        kind = str(record["event_type"])
        if not kind.startswith(ABOUT_INSTANCES):
            self._source.skipped += 1
            return
        name = _text(record, "instance_id") or _text(record, "resource_id")
        if name is None:
            raise BadRecord("names no instance")
        spot = Spot(_generated(record, self._options), _host(record), _amounts(record))
        instance = self.instances.get(name)
        if instance is None:
            instance = self.instances[name] = Instance(number)
        else:
            self._source.attached += 1
        self._say(instance, kind.removeprefix(ABOUT_INSTANCES), record, spot)

    def _say(self, one: Instance, kind: str, record: Mapping[str, Any], spot: Spot) -> None:
        one.tenant = one.tenant or _text(record, "project_name") or _text(record, "project_id")
        one.holder = one.holder or _text(record, "user_name") or _text(record, "user_id")
        for key in ("instance_type", "domain", "project_id", "display_name"):
            value = _text(record, key)
            if value is not None:
                one.metadata.setdefault(key, value)
        if kind == "create.end" and _sooner(spot, one.created):
            one.created = spot
        elif kind == "delete.end" and _sooner(spot, one.deleted):
            one.deleted = spot
        elif (
            kind != "exists" and spot.amounts and _MOVES.search(kind) and not _NO_MOVE.search(kind)
        ):
            if _sooner(spot, one.moves.get(spot.at)):
                one.moves[spot.at] = spot
            self.full = self.full or len(one.moves) > MOVES_MAX
        if (_text(record, "state") or "").lower() == "active":
            if _sooner(spot, one.first_seen):
                one.first_seen = spot
            one.last_seen = max(spot.at, one.last_seen or spot.at)

    def tell(self, keep: int) -> Iterator[Item]:
        """Tell of all instances but the last so many, and of those with too many moves."""
        count = max(0, len(self.instances) - keep)
        names = list(self.instances)[:count]
        names += [n for n, one in self.instances.items() if len(one.moves) > MOVES_MAX]
        self.full = False
        for name in dict.fromkeys(names):
            yield from self._tell(name, self.instances.pop(name))

    def _tell(self, name: str, one: Instance) -> Iterator[Item]:
        if not any((one.created, one.deleted, one.first_seen, one.moves)):
            # It was never active, and nothing is said that it held anything.
            self._source.skipped += 1
            return
        begun, ended = one.created, one.deleted
        if begun is not None and ended is not None and ended.at < begun.at:
            yield Reject(one.line, f"instance {name} was deleted before it was created", name)
            ended = None
        # Where it stood when it was first heard of: its later moves say themselves where it went.
        seen = [spot for spot in (one.first_seen, ended) if spot is not None]
        first = begun or max(seen, key=_rank, default=None)
        moves = [one.moves[at] for at in sorted(one.moves)]
        known = first or moves[0]
        notice = Notice(
            key=fit_name(f"openstack:{name}") or "openstack",
            holder=_name(one.holder) or UNKNOWN,
            request=Request(known.amounts),
            tenant=self._options.tenant or _name(one.tenant) or "default",
            placements=first.placements() if first is not None and first.amounts else (),
            began_at=None if begun is None else begun.at,
            ended_at=None if ended is None else ended.at,
            seen_from=first.at if begun is None and first is not None else None,
            seen_until=one.last_seen,
            moves=tuple((spot.at, spot.placements()) for spot in moves),
            metadata=dict(one.metadata) or None,
        )
        yield Found(one.line, self._pool, notice)

    # --- hypervisors -----------------------------------------------------------------------------

    def hypervisors(self, number: int, listed: Any) -> Iterator[Item]:
        """The nodes of an inventory: all that there were on the day of the file's name."""
        if not isinstance(listed, list):
            raise BadRecord("has hypervisors that are no list")
        nodes: dict[str, NodeSpec] = {}
        for record in listed:
            name = _name(_text(record, "hypervisor_hostname")) if isinstance(record, dict) else None
            try:
                capacity = _amounts(record) if name is not None else {}
            except BadRecord as error:
                yield Reject(number, f"hypervisor {name} {error}", _shown(record))
                continue
            if name is None or not capacity:
                yield Reject(number, "is a hypervisor without a name or a size", _shown(record))
                continue
            nodes.setdefault(name, NodeSpec(name, capacity))
        if nodes:
            yield Inventory(
                self._pool, tuple(nodes.values()), date_in(self._source.name), complete=True
            )


def _rank(spot: Spot) -> tuple[int, tuple[Any, ...]]:
    """What makes one of two spots the first: its time, and at one instant what is greater."""
    return -spot.at, (spot.host, sorted(spot.amounts.items()))


def _sooner(spot: Spot, than: Spot | None) -> bool:
    return than is None or _rank(spot) > _rank(than)


def date_in(name: str) -> int | None:
    """The time that a file's name tells, such as ``hypervisors_2018-04-18.json`` (UTC); or None."""
    match = _DATE.search(name)
    while match is not None:
        try:
            parts = [int(part) for part in match.groups() if part is not None]
            return int(datetime(*parts, tzinfo=UTC).timestamp()) * 1_000_000_000  # type: ignore[misc,arg-type]
        except ValueError:
            match = _DATE.search(name, match.start() + 1)
    return None


def _text(record: Mapping[str, Any], key: str) -> str | None:
    """A value as text, None where it is missing or says so."""
    value = record.get(key)
    if value is None:
        return None
    text = str(value).strip()
    return None if text in _NOTHING else text


def _name(text: str | None) -> str | None:
    """A text made fit to be a name."""
    return None if text is None else fit_name(text)


def _generated(record: Mapping[str, Any], options: Options) -> int:
    text = _text(record, "generated")
    if text is None:
        raise BadRecord("does not say when it was generated")
    try:
        return moment(text, options.zone)
    except ValueError as error:
        raise BadRecord(f"was generated at a time that cannot be read: {error}") from None


def _host(record: Mapping[str, Any]) -> str:
    return _name(_text(record, "host")) or UNPLACED


def _amounts(record: Mapping[str, Any]) -> Amounts:
    amounts: Amounts = {}
    for key, resource, unit in (("vcpus", "cpu", 1000), ("memory_mb", "memory", MEBIBYTE)):
        text = _text(record, key)
        if text is None:
            continue
        if not (text.isascii() and text.isdigit() and len(text) <= 12):
            raise BadRecord(f"has {text[:40]!r} as {key}, which is no whole number")
        if int(text):
            amounts[resource] = int(text) * unit
    return amounts
