"""What happened elsewhere: how facts about one allocation become events, each said once.

All that is recorded under a fact's key is folded into a :class:`Life`. :func:`merge` says what a fact
adds to it: nothing where all is known. Records may say a part each (the start here, the end there),
in any order and any number of times, and come to the same life as if one had said it whole.

Where a record contradicts what is known, a ``corrected`` event says so; its ``facts`` are, by name,
what really was: ``requested_at``, ``granted_at``, ``ended_at`` (ns UTC), ``ended_by``, ``holder``,
``task``, ``amounts``, ``placements`` (at the start), and ``granted_before``: it held at this time
already, and when it began is not known. What was said once and then corrected is not news again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ledger.commands import Fact
from ledger.errors import Reason
from ledger.events import (
    Adjusted,
    Allocated,
    AnyBody,
    Corrected,
    Event,
    Expired,
    Queued,
    Reclaimed,
    Released,
    Renewed,
    UsageRecorded,
    Withdrawn,
)
from ledger.quick import dataclass
from ledger.requests import Amounts, Placement
from ledger.rules.validity import MAX_TIME_NS

IMPORT = "import"
"""Who recorded facts are by."""
UNKNOWN = "unknown"
"""The holder of a fact whose source does not name one: it claims nothing."""
TIME_MAX = 2**62 - 1
"""The latest time of a fact, its negative the earliest: what lies between two of them can be stored."""
NEVER_HELD = frozenset({"withdrawn", "timed_out"})
"""Ends of what never began."""
OTHERWISE = "another record of it says otherwise"
_BEFORE = "when it began is not in the record: it held at this time already"

Said = list[tuple[AnyBody, int | None]]
"""New bodies and when they happened (None: now), in order."""


@dataclass(frozen=True, slots=True)
class Notice(Fact):
    """A fact from a source that tells of one thing in many notices: see :mod:`ledger.rules.notices`.

    Its placements are those at ``began_at``, or else at ``seen_from``.
    """


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a fact. ``what``: ``new``, ``added``, ``corrected`` or ``known``.

    ``state`` is that of its allocation after it: ``waiting``, ``open`` or ``ended``. ``elsewhere``:
    it is recorded in another pool than the one that was named, and stays there.
    """

    what: str
    state: str
    elsewhere: bool = False


def frozen(placements: Iterable[Placement]) -> tuple[Any, ...]:
    """Placements as a value that can be compared and looked up, whatever their order."""
    return tuple(
        sorted(
            (
                p.node,
                tuple(sorted(p.amounts.items())),
                tuple(
                    sorted((r, *sorted(cards.items())) for r, cards in (p.devices or {}).items())
                ),
            )
            for p in placements
        )
    )


def amounts_of(placements: Sequence[Placement]) -> Amounts:
    """The sum of what is placed."""
    if len(placements) == 1:
        return placements[0].amounts
    total: Amounts = {}
    for placement in placements:
        for resource, amount in placement.amounts.items():
            total[resource] = total.get(resource, 0) + amount
    return total


class Life:
    """All that is recorded of one allocation of an observed pool, corrections included."""

    __slots__ = (
        "allocation",
        "amounts",
        "ended_at",
        "ended_by",
        "first",
        "granted_at",
        "held_until",
        "holder",
        "is_since_before",
        "moves",
        "placed_at",
        "placements",
        "pool",
        "requested_at",
        "said",
        "start",
        "task",
        "usages",
    )

    def __init__(self, events: Iterable[Event] = ()) -> None:
        """Fold the events of one allocation, in the order of their positions."""
        self.allocation: str = ""
        self.pool: str = ""
        self.holder: str = UNKNOWN
        self.task: str | None = None
        self.first = 0
        self.start = 0
        self.requested_at: int | None = None
        self.granted_at: int | None = None
        self.is_since_before = False
        self.held_until: int | None = None
        self.ended_at: int | None = None
        self.ended_by: str | None = None
        self.amounts: Amounts = {}
        self.placements: tuple[Placement, ...] = ()
        self.placed_at: int | None = None
        self.moves: dict[int, tuple[Placement, ...]] = {}
        self.usages: list[UsageRecorded] = []
        self.said: set[tuple[Any, ...]] = set()
        for event in events:
            self.apply(event)

    @property
    def state(self) -> str:
        """``waiting``, ``open`` or ``ended``."""
        if self.ended_at is not None:
            return "ended"
        return "waiting" if self.granted_at is None else "open"

    def timeline(self) -> list[tuple[int, tuple[Any, ...]]]:
        """From when on it had which placements (frozen), from its start on; repeats left out."""
        if self.granted_at is None:
            return []
        found = [(self.granted_at, frozen(self.placements))]
        for at in sorted(self.moves):
            placed = frozen(self.moves[at])
            if at <= found[0][0]:
                found = [(found[0][0], placed)]
            elif placed != found[-1][1]:
                found.append((at, placed))
        return found

    def amounts_before(self, at: int) -> Amounts:
        """What it held just before a time."""
        earlier = [moved for moved in self.moves if moved < at]
        return amounts_of(self.moves[max(earlier)]) if earlier else self.amounts

    def apply(self, event: Event) -> None:
        """Take one more event in."""
        body = event.body
        if not self.first:
            assert event.allocation is not None and event.pool is not None
            self.first, self.allocation, self.pool = event.position, event.allocation, event.pool
        if event.holder not in (None, UNKNOWN) and self.holder == UNKNOWN:
            self._say("holder", event.holder)
        if event.task is not None and self.task is None:
            self._say("task", event.task)
        if isinstance(body, Queued):
            self.amounts = body.request.amounts
            self._say("requested_at", event.at)
        elif isinstance(body, Allocated):
            self._start(event, body)
        elif isinstance(body, Adjusted):
            self.moves[event.at] = body.placements
            self.said.add(("move", event.at, frozen(body.placements)))
        elif isinstance(body, Renewed):
            self._hold_until(body.lease_until)
        elif isinstance(body, UsageRecorded):
            self.usages.append(body)
        elif isinstance(body, Corrected):
            self._correct(body.facts)
        elif isinstance(body, Released | Expired | Reclaimed | Withdrawn):
            self._say("ended_at", event.at)
            self._say("ended_by", _cause_of(body))

    def _start(self, event: Event, body: Allocated) -> None:
        self.start = event.position
        self.is_since_before = False
        self.ended_at = self.ended_by = None
        self.amounts = body.amounts
        self._say("granted_at", event.at)
        if body.queued_at is not None:
            self._say("requested_at", body.queued_at)
        elif self.requested_at is not None and self.requested_at > event.at:
            self.requested_at = None
        if body.placements:
            self._place(body.placements, event.at)
        self._hold_until(body.lease_until)

    def _say(self, name: str, value: Any) -> None:
        setattr(self, name, value)
        self.said.add((name, value))

    def _place(self, placements: tuple[Placement, ...], at: int | None) -> None:
        """It stood there at its start; ``at`` is when that was seen (None: as before)."""
        self.placements = placements
        self.placed_at = self.placed_at if at is None else at
        self.amounts = amounts_of(placements)
        self.said.add(("placements", frozen(placements)))

    def _hold_until(self, until: int | None) -> None:
        if until is not None and (self.held_until is None or until > self.held_until):
            self.held_until = until

    def _correct(self, facts: Mapping[str, Any]) -> None:
        before = facts.get("granted_before")
        for name, value in facts.items():
            if name == "granted_at":
                self.is_since_before = False
                self._say(name, value)
            elif name == "placements":
                seen = facts.get("granted_at") if before is None else before
                self._place(tuple([Placement(**one) for one in value]), seen)
            elif name == "amounts":
                self.amounts = value
                self.said.add(("amounts", tuple(sorted(value.items()))))
            elif name in ("requested_at", "ended_at", "ended_by", "holder", "task"):
                self._say(name, value)
        if before is not None:
            # A time at which it was seen is no claim of when it began.
            self.is_since_before = True
            self.said.discard(("granted_at", before))


def _cause_of(body: Released | Expired | Reclaimed | Withdrawn) -> str:
    if isinstance(body, Released):
        return "released"
    return "expired" if isinstance(body, Expired) else body.cause


def beginning(fact: Fact) -> int | None:
    """When a fact's allocation began, or else was first known to hold; None if it never held."""
    if fact.began_at is not None:
        return fact.began_at
    seen = [at for at in (fact.seen_from, fact.seen_until) if at is not None]
    seen += [at for at, _ in fact.moves]
    if fact.usage is not None:
        seen.append(fact.usage.since)
    if fact.ended_at is not None and fact.ended_by not in NEVER_HELD:
        seen.append(fact.ended_at)
    return min(seen) if seen else None


def _allocated(fact: Fact, queued_at: int | None, start: int, *, ended: bool) -> Allocated:
    placements = fact.placements
    return Allocated(
        fact.request,
        amounts_of(placements) if placements else fact.request.amounts,
        placements,
        None if ended else fact.seen_until,
        None,
        queued_at if queued_at is None or queued_at <= start else None,
    )


def _queued(fact: Fact, at: int) -> Queued:
    return Queued(fact.request, min(at + MAX_TIME_NS, TIME_MAX), Reason.OBSERVED_POOL.value)


def ended_as(fact: Fact, holder: str, at: int, cause: str) -> AnyBody:
    """The body of an end at a time (ns UTC) and by a cause."""
    if cause == "released":
        return Released(holder)
    if cause == "expired":
        return Expired(at)
    if cause in NEVER_HELD:
        return Withdrawn(cause, IMPORT)
    return Reclaimed(cause, {}, IMPORT)


def _since_before(position: int, at: int) -> Corrected:
    return Corrected(position, _BEFORE, IMPORT, {"granted_before": at})


def begin(fact: Fact, position: int) -> Said:
    """What a fact says whose key nothing is recorded under; its first event is at ``position``."""
    start = beginning(fact)
    ended = fact.ended_at
    if start is None:
        asked = fact.requested_at if fact.requested_at is not None else ended
        assert asked is not None, "a fact says at least one time"
        said: Said = [(_queued(fact, asked), asked)]
        if ended is not None:
            said.append((ended_as(fact, fact.holder, ended, fact.ended_by), ended))
        return said
    over = ended is not None and type(fact) is not Notice
    said = [(_allocated(fact, fact.requested_at, start, ended=over), start)]
    if fact.began_at is None:
        said.append((_since_before(position, start), None))
    if fact.moves:
        held = fact.placements
        for at, placed in sorted(fact.moves, key=time_of):
            said.append((moved(amounts_of(held), placed), at))
            held = placed
    if fact.usage is not None:
        said.append((fact.usage, fact.usage.until))
    if ended is not None:
        said.append((ended_as(fact, fact.holder, ended, fact.ended_by), ended))
    return said


def time_of(move: tuple[int, tuple[Placement, ...]]) -> int:
    """When a move was, to sort by."""
    return move[0]


def moved(previous: Amounts, placed: tuple[Placement, ...]) -> Adjusted:
    """The body of a move from where it had ``previous``."""
    return Adjusted(amounts_of(placed), previous, placed, IMPORT, "moved")


def merge(life: Life, fact: Fact, position: int) -> Said:
    """What a fact adds to what is recorded under its key; its first event would be at ``position``.

    Empty where all of it is known.
    """
    said: Said = []
    truth: dict[str, Any] = {}
    start = beginning(fact)
    grants = life.granted_at is None and start is not None
    if grants:
        assert start is not None
        asked = fact.requested_at if fact.requested_at is not None else life.requested_at
        ended = fact.ended_at is not None or life.ended_at is not None
        said.append((_allocated(fact, asked, start, ended=ended), start))
        if fact.began_at is None:
            said.append((_since_before(position, start), None))
    else:
        claim(life, truth, "requested_at", fact.requested_at)
        _claim_start(life, truth, fact, start)
    claim(life, truth, "holder", None if fact.holder == UNKNOWN else fact.holder)
    claim(life, truth, "task", fact.task)
    said += [
        (moved(life.amounts_before(at), placed), at)
        for at, placed in sorted(fact.moves, key=time_of)
        if ("move", at, frozen(placed)) not in life.said
    ]
    if fact.usage is not None and fact.usage not in life.usages:
        said.append((fact.usage, fact.usage.until))
    _add_end(life, truth, fact, said, grants=grants)
    if truth:
        said.append((Corrected(life.start or life.first, OTHERWISE, IMPORT, truth), None))
    return said


def claim(life: Life, truth: dict[str, Any], name: str, value: Any) -> None:
    """Note what a fact says otherwise, unless that has been said before."""
    if value is not None and value != getattr(life, name) and (name, value) not in life.said:
        truth[name] = value


def _claim_start(life: Life, truth: dict[str, Any], fact: Fact, start: int | None) -> None:
    """What a fact says of the start of what is known to have held."""
    if life.granted_at is None or start is None:
        return
    if fact.began_at is not None:
        if life.is_since_before:
            truth["granted_at"] = start
        else:
            claim(life, truth, "granted_at", start)
    elif life.is_since_before and start < life.granted_at:
        truth["granted_at"] = truth["granted_before"] = start
    says_where = fact.began_at is not None or fact.seen_from is not None or not life.placements
    if fact.placements and says_where:
        placed = frozen(fact.placements)
        if placed != frozen(life.placements) and ("placements", placed) not in life.said:
            truth["placements"] = [plain(one) for one in fact.placements]
    elif fact.began_at is not None and not life.placements and fact.request.amounts:
        asked = fact.request.amounts
        if asked != life.amounts and ("amounts", tuple(sorted(asked.items()))) not in life.said:
            truth["amounts"] = asked


def plain(placement: Placement) -> dict[str, Any]:
    """A placement as it stands in a correction: the arguments that make it again."""
    plain: dict[str, Any] = {
        "node": placement.node,
        "amounts": placement.amounts,
        "in_use": placement.in_use,
    }
    if placement.devices is not None:
        plain["devices"] = placement.devices
    return plain


def _add_end(life: Life, truth: dict[str, Any], fact: Fact, said: Said, *, grants: bool) -> None:
    """How long it held, and how it ended. ``grants``: only now it is known to have held at all."""
    ended, cause = fact.ended_at, fact.ended_by
    if grants and ended is None and life.ended_at is not None:
        # Its end was recorded before its start: it is the end of what begins here.
        ended, cause = life.ended_at, life.ended_by or cause
    if ended is not None:
        if life.ended_at is None or grants:
            holder = life.holder if fact.holder == UNKNOWN else fact.holder
            said.append((ended_as(fact, holder, ended, cause), ended))
        else:
            claim(life, truth, "ended_at", ended)
            claim(life, truth, "ended_by", cause)
        return
    seen = fact.seen_until
    if grants or life.ended_at is not None or seen is None or life.granted_at is None:
        return
    if seen > max(life.held_until or life.granted_at, life.granted_at):
        said.append((Renewed(seen), seen))
