"""What an audit is made of: what was asked, the trail's entries, and what they rest on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from ledger.book import Allocation
from ledger.codec import UnknownEvent, from_row
from ledger.errors import InvalidInput, LedgerCorrupt
from ledger.events import Event
from ledger.log import Row
from projections.details import details
from projections.elsewhere import observed_sentence
from projections.sentences import sentence
from projections.wording import plain, words

EVENTS_MAX: Final = 100_000
"""How many events one trail holds at most; a longer one is for an export, or for a shorter time."""
LATE_NS: Final = 1_000_000_000
"""What is written down so long after it happened is said with both times."""

ENDS: Final = frozenset({"released", "expired", "reclaimed", "withdrawn"})
"""Types that end an allocation or its place in the queue."""
BEGINS: Final = frozenset({"queued", "allocated", "reserved"})
"""Types that an allocation can begin with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a trail is wanted of. ``subject`` is an allocation or a refusal (``A17``, ``R19``).

    ``since`` and ``until`` bound when a thing happened (``at``, ns UTC, until exclusive); ``after`` and
    ``upto`` bound positions. Everything that is given narrows it.
    """

    subject: str | None = None
    holder: str | None = None
    task: str | None = None
    tenant: str | None = None
    pool: str | None = None
    type: str | None = None
    since: int | None = None
    until: int | None = None
    after: int = 0
    upto: int | None = None

    def filters(self) -> dict[str, str]:
        """What narrows it besides time: name → wanted value."""
        names = ("subject", "holder", "task", "tenant", "pool", "type")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}

    def within(self, row: Row) -> bool:
        """Whether a row lies in the time and the positions that are wanted."""
        return (
            row.position > self.after
            and (self.upto is None or row.position <= self.upto)
            and (self.since is None or row.at >= self.since)
            and (self.until is None or row.at < self.until)
        )


@dataclass(frozen=True, slots=True)
class Link:
    """What an entry has to do with another event: how, which one, and in words.

    ``relation``: ``granted_later``, ``refused_before``, ``freed_for``, ``freed_by``, ``made_way_for``,
    ``corrects``, ``corrected_by``, ``redacts``, ``redacted_by``.
    """

    relation: str
    position: int | None
    allocation: str | None
    text: str


@dataclass(slots=True)
class Entry:
    """One event of a trail. ``event`` is None where this program cannot read it.

    ``source`` is an imported event's key where it came from; ``sound`` whether its content agrees with
    its digest and its hash follows the one before. ``about`` is the heading it stands under;
    ``policy`` the position of the event that last set the policy under which it was decided.
    """

    row: Row
    event: Event | None
    text: str
    details: tuple[str, ...]
    about: str
    sound: bool
    source: str | None = None
    policy: int | None = None
    links: list[Link] = field(default_factory=list)

    @property
    def late_ns(self) -> int | None:
        """How long after it happened it was written down, where that is worth saying."""
        late = self.row.recorded_at - self.row.at
        return late if late >= LATE_NS else None


@dataclass(frozen=True, slots=True)
class Rests:
    """What a trail rests on: the log up to ``head``, and what was checked of it.

    ``checked`` entries were compared with their digests and their predecessors' hashes; ``unsound``
    are the positions where that failed, ``unknown`` those that this program cannot read.
    ``redacted`` are positions whose metadata was erased.
    """

    ledger_id: str
    head: int
    head_hash: bytes
    first: int | None
    last: int | None
    checked: int
    unsound: tuple[int, ...]
    unknown: tuple[int, ...]
    redacted: tuple[int, ...]

    @property
    def ok(self) -> bool:
        """Whether everything that was checked is sound."""
        return not self.unsound


@dataclass(frozen=True, slots=True)
class Trail:
    """A trail: its entries by position, the allocations they are about, and what it rests on.

    ``observed`` are the pools that record what happened elsewhere; ``made_at`` is when it was asked
    for (ns UTC).
    """

    asked: Asked
    entries: tuple[Entry, ...]
    allocations: dict[str, Allocation]
    observed: frozenset[str]
    rests: Rests
    made_at: int


def data_of(row: Row) -> dict[str, Any]:
    """A row's ``data`` as it is stored; empty where it is no JSON object."""
    try:
        data = orjson.loads(row.data)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def read_event(row: Row) -> Event | None:
    """The event of a row, or None where this program cannot read it."""
    try:
        return from_row(row)
    except (UnknownEvent, LedgerCorrupt):
        return None


def told(row: Row, event: Event | None, *, observed: bool) -> tuple[str, tuple[str, ...]]:
    """(sentence, details) of an event, ``observed`` where it happened elsewhere.

    A row that cannot be read is shown as it is stored.
    """
    try:
        if event is not None:
            said = observed_sentence(event) if observed else sentence(event)
            return said, details(event)
    except (ValueError, TypeError, AttributeError, KeyError, ArithmeticError, InvalidInput):
        # Values that no writer of ours would record. What stands there is shown all the same.
        pass
    raw = plain(row.data)
    shown = raw if len(raw) <= 400 else raw[:400] + "…"
    name = f"{words(row.type)}, which this program cannot read"
    return f"an event of type {name}: {shown}", ()
