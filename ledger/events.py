"""Every fact the ledger knows: one frozen class per event type, and the envelope around them.

The class attribute ``TYPE`` is the stable name in the log; field names are the keys in ``data``.
Both are the storage format: add and upcast, never edit. Fields that hold their default are left out
of the storage form. Times and durations are integers in nanoseconds (UTC), amounts are base units.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar

from ledger.identity import ProcessIdentity
from ledger.quick import dataclass, maker
from ledger.requests import Amounts, NodeSpec, Placement, Request

Blockers = tuple[dict[str, Any], ...]


class Body:
    """The common root of all event bodies; ``SCHEMA`` grows when a body's meaning of data grows."""

    __slots__ = ()
    TYPE: ClassVar[str]
    SCHEMA: ClassVar[int] = 1


# --- the ledger itself ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LedgerOpened(Body):
    """Event 1 of every ledger, and again after a restore, with a higher epoch."""

    TYPE: ClassVar[str] = "ledger_opened"
    ledger_id: str
    epoch: int = 1
    rules: int = 1


@dataclass(frozen=True, slots=True)
class Checkpointed(Body):
    """A digest of the book before this event, over the numbered field list ``fields``."""

    TYPE: ClassVar[str] = "checkpointed"
    fields: int
    book: str


@dataclass(frozen=True, slots=True)
class Redacted(Body):
    """The metadata of the event at ``position`` was erased; its hash stays, so the proof holds."""

    TYPE: ClassVar[str] = "redacted"
    position: int
    metadata_sha256: str
    reason: str
    by: str


@dataclass(frozen=True, slots=True)
class TimeExtended(Body):
    """Nobody could renew from ``since`` to ``until``: what ends after ``since`` gains ``by_ns``."""

    TYPE: ClassVar[str] = "time_extended"
    by_ns: int
    since: int
    until: int
    why: str


@dataclass(frozen=True, slots=True)
class AlertRaised(Body):
    """Something a person should look at. ``alert`` names it until it is cleared."""

    TYPE: ClassVar[str] = "alert_raised"
    alert: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AlertCleared(Body):
    """An alert is over: ``by`` whom, or by the ledger itself."""

    TYPE: ClassVar[str] = "alert_cleared"
    alert: str
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Corrected(Body):
    """An earlier event was wrong. The record stays; this says what was really so."""

    TYPE: ClassVar[str] = "corrected"
    corrects: int
    reason: str
    by: str
    facts: dict[str, Any] = field(default_factory=dict)


# --- pools, nodes, rules -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PoolOpened(Body):
    """A pool exists from here on. ``kind``: ``managed`` or ``observed``."""

    TYPE: ClassVar[str] = "pool_opened"
    nodes: tuple[NodeSpec, ...]
    kind: str = "managed"
    consumable: bool = False
    policy: dict[str, Any] = field(default_factory=dict)
    basis: str = ""


@dataclass(frozen=True, slots=True)
class PoolResized(Body):
    """Nodes have another capacity from here on (what is not named keeps its own)."""

    TYPE: ClassVar[str] = "pool_resized"
    nodes: tuple[NodeSpec, ...]


@dataclass(frozen=True, slots=True)
class PoolClosed(Body):
    """The pool grants nothing any more; what is held may be held to its end."""

    TYPE: ClassVar[str] = "pool_closed"


@dataclass(frozen=True, slots=True)
class NodeJoined(Body):
    """A node was added to a pool."""

    TYPE: ClassVar[str] = "node_joined"
    node: NodeSpec


@dataclass(frozen=True, slots=True)
class NodeLeft(Body):
    """A node without allocations left its pool."""

    TYPE: ClassVar[str] = "node_left"
    node: str


@dataclass(frozen=True, slots=True)
class NodeCordoned(Body):
    """Nothing new lands on the node until it is uncordoned."""

    TYPE: ClassVar[str] = "node_cordoned"
    node: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NodeUncordoned(Body):
    """The node takes allocations again."""

    TYPE: ClassVar[str] = "node_uncordoned"
    node: str


@dataclass(frozen=True, slots=True)
class QuotaSet(Body):
    """A hard limit for a tenant, or for one holder of it, in one pool or in all.

    The envelope's ``pool`` and ``holder`` say where and for whom (None: all pools, whole tenant).
    ``limits`` replaces what stood there; empty lifts the quota.
    """

    TYPE: ClassVar[str] = "quota_set"
    limits: Amounts
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicySet(Body):
    """A pool's policy (or the ledger's, where the envelope names no pool) from here on."""

    TYPE: ClassVar[str] = "policy_set"
    policy: dict[str, Any]


# --- requests and their outcomes -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Queued(Body):
    """A request waits for its turn, until ``until``.

    Again for the same allocation: it waits on, the nodes of ``shortfall`` are kept for it from here on,
    and ``asker`` is the process that alone waits for it, if any (see :class:`ledger.commands.Allocate`).
    """

    TYPE: ClassVar[str] = "queued"
    request: Request
    until: int
    reason: str
    shortfall: dict[str, Amounts] = field(default_factory=dict)
    gang: str | None = None
    asker: ProcessIdentity | None = None


@dataclass(frozen=True, slots=True)
class Refused(Body):
    """A command was not granted. ``verb`` is the command's; ``repeats`` counts unrecorded twins.

    ``shortfall`` is node → resource → missing; ``fits_now`` what the nearest node would have taken.
    """

    TYPE: ClassVar[str] = "refused"
    verb: str
    reason: str
    message: str
    hint: str = ""
    request: Request | None = None
    shortfall: dict[str, Amounts] = field(default_factory=dict)
    fits_now: Amounts = field(default_factory=dict)
    blockers: Blockers = ()
    repeats: int = 0
    repeats_of: int | None = None


@dataclass(frozen=True, slots=True)
class Allocated(Body):
    """Capacity was granted. ``lease_until`` is None where a process bounds the allocation."""

    TYPE: ClassVar[str] = "allocated"
    request: Request
    amounts: Amounts
    placements: tuple[Placement, ...]
    lease_until: int | None = None
    max_age_until: int | None = None
    queued_at: int | None = None
    strategy: str | None = None
    gang: str | None = None


@dataclass(frozen=True, slots=True)
class Reserved(Body):
    """Capacity is set aside until ``until``, to be confirmed."""

    TYPE: ClassVar[str] = "reserved"
    request: Request
    amounts: Amounts
    placements: tuple[Placement, ...]
    until: int
    queued_at: int | None = None
    strategy: str | None = None
    gang: str | None = None


@dataclass(frozen=True, slots=True)
class Confirmed(Body):
    """A reservation became an allocation."""

    TYPE: ClassVar[str] = "confirmed"
    lease_until: int | None = None
    max_age_until: int | None = None


@dataclass(frozen=True, slots=True)
class Adjusted(Body):
    """An allocation has other amounts from here on; ``previous`` is what it had."""

    TYPE: ClassVar[str] = "adjusted"
    amounts: Amounts
    previous: Amounts
    placements: tuple[Placement, ...]
    by: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Renewed(Body):
    """Leases were extended: one (the envelope's), or those of a holder in ``allocations``.

    ``lease_until`` is the end of the one; for a holder, ends come with ``ends``, in order.
    """

    TYPE: ClassVar[str] = "renewed"
    lease_until: int | None = None
    allocations: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Ending(Body):
    """The holder was asked to go; its capacity returns when its process tree is gone."""

    TYPE: ClassVar[str] = "ending"
    cause: str
    deadline: int
    enforced: bool
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Released(Body):
    """The holder gave the allocation back. ``consumed`` settles consumable resources."""

    TYPE: ClassVar[str] = "released"
    by: str
    consumed: Amounts | None = None


@dataclass(frozen=True, slots=True)
class Expired(Body):
    """The lease ended at ``lease_until``, which is also the event's ``at``."""

    TYPE: ClassVar[str] = "expired"
    lease_until: int
    why: str = "ttl"


@dataclass(frozen=True, slots=True)
class Reclaimed(Body):
    """The ledger took the capacity back. ``cause`` as ``ended_by``; ``evidence`` says why so.

    ``consumed`` settles consumable resources, where the holder gave back what it was asked to.
    """

    TYPE: ClassVar[str] = "reclaimed"
    cause: str
    evidence: dict[str, Any]
    by: str
    reason: str = ""
    enforced: bool = True
    consumed: Amounts | None = None


@dataclass(frozen=True, slots=True)
class Withdrawn(Body):
    """A waiting request or a reservation ended without a grant. ``cause`` as ``ended_by``."""

    TYPE: ClassVar[str] = "withdrawn"
    cause: str
    by: str
    reason: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Transferred(Body):
    """Another holder (the envelope's) holds the allocation from here on.

    ``max_age_until`` is set where it gets a ttl, and with it a maximum age, for the first time.
    """

    TYPE: ClassVar[str] = "transferred"
    from_holder: str
    by: str
    process: ProcessIdentity | None = None
    lease_until: int | None = None
    max_age_until: int | None = None


@dataclass(frozen=True, slots=True)
class Shared(Body):
    """Others may use the allocation beside its holder."""

    TYPE: ClassVar[str] = "shared"
    with_holders: tuple[str, ...]
    by: str


# --- what is known of holders, tasks and use -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class HolderSeen(Body):
    """A holder's process as it was seen; ``program`` is a program's name, never a command line."""

    TYPE: ClassVar[str] = "holder_seen"
    process: ProcessIdentity
    program: str = ""


@dataclass(frozen=True, slots=True)
class TaskStarted(Body):
    """A task began (the envelope's ``task``)."""

    TYPE: ClassVar[str] = "task_started"
    by: str


@dataclass(frozen=True, slots=True)
class TaskFinished(Body):
    """A task ended, with an outcome such as ``succeeded`` or ``failed``."""

    TYPE: ClassVar[str] = "task_finished"
    by: str
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class UsageRecorded(Body):
    """What an allocation really used between two instants.

    ``used`` is resource → base units × seconds; ``peak`` resource → base units; ``basis`` names how
    a resource was measured (``pss``, ``rss``, ``cgroup``, ``nvml``). ``gaps_ns`` was not watched.
    What was not measured is missing, never 0.
    """

    TYPE: ClassVar[str] = "usage_recorded"
    since: int
    until: int
    used: Amounts
    peak: Amounts
    basis: dict[str, str] = field(default_factory=dict)
    samples: int = 0
    gaps_ns: int = 0
    final: bool = False
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class CapacityObserved(Body):
    """What others use of a node outside the ledger, as a probe saw it."""

    TYPE: ClassVar[str] = "capacity_observed"
    node: str
    outside: Amounts
    basis: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Replenished(Body):
    """A consumable pool was refilled; ``available`` is what there is after it."""

    TYPE: ClassVar[str] = "replenished"
    available: Amounts
    overdraft: Amounts = field(default_factory=dict)


AnyBody = (
    LedgerOpened
    | Checkpointed
    | Redacted
    | TimeExtended
    | AlertRaised
    | AlertCleared
    | Corrected
    | PoolOpened
    | PoolResized
    | PoolClosed
    | NodeJoined
    | NodeLeft
    | NodeCordoned
    | NodeUncordoned
    | QuotaSet
    | PolicySet
    | Queued
    | Refused
    | Allocated
    | Reserved
    | Confirmed
    | Adjusted
    | Renewed
    | Ending
    | Released
    | Expired
    | Reclaimed
    | Withdrawn
    | Transferred
    | Shared
    | HolderSeen
    | TaskStarted
    | TaskFinished
    | UsageRecorded
    | CapacityObserved
    | Replenished
)


@dataclass(frozen=True, slots=True)
class Cause:
    """The command that an event is the direct effect of, and the digest of its content.

    ``item`` and ``items`` number the requests of a batch from 0.
    """

    command_id: str
    digest: str
    item: int | None = None
    items: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One fact: the envelope that every event has, and its body.

    ``at`` is when it happened, ``recorded_at`` when it was written; in managed pools they differ
    only where a lease's end or a crash was written down later.
    """

    position: int
    at: int
    recorded_at: int
    tenant: str
    pool: str | None
    allocation: str | None
    holder: str | None
    task: str | None
    cause: Cause | None
    body: AnyBody
    metadata: dict[str, Any] | None = None

    @property
    def type(self) -> str:
        """The stable name of the event's type."""
        return self.body.TYPE


make_cause = maker(Cause)
"""As :class:`Cause`, for each event that is read."""

make_event = maker(Event)
"""As :class:`Event`, for each event that is read or drafted."""
