"""Every intention the ledger can be given. Commands are imperative; they may be refused.

A command's id comes from its caller and has one effect, for ever, within its tenant. Commands on an
allocation carry a :class:`Claim`: the holder's name or the fencing token, one of which must match.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar

from ledger.events import UsageRecorded
from ledger.identity import ProcessIdentity
from ledger.quick import dataclass
from ledger.requests import Amounts, NodeSpec, Placement, Request


@dataclass(frozen=True, slots=True)
class Claim:
    """By what right a command touches an allocation: as its holder, or with its fencing token.

    ``operator`` commands need neither; ``who`` is the name that goes into the record.
    """

    who: str
    token: int | None = None
    operator: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What all commands share. ``VERB`` is the word used in refusals and on the command line."""

    VERB: ClassVar[str]
    command_id: str
    tenant: str = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocate(Command):
    """Ask for capacity.

    ``asker`` is the process that blocks until a request which waits is granted, where nobody else
    could come back for it: when it dies, the place in the queue is given up. It is no part of what is
    asked, and items of a batch have none.
    """

    VERB: ClassVar[str] = "allocate"
    pool: str
    holder: str
    request: Request
    task: str | None = None
    metadata: dict[str, Any] | None = None
    asker: ProcessIdentity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocateBatch(Command):
    """Several requests under one command id; ``atomic`` grants all or none."""

    VERB: ClassVar[str] = "allocate_batch"
    items: tuple[Allocate, ...]
    atomic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Targeted(Command):
    """A command on one allocation."""

    allocation: str
    claim: Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirm(Targeted):
    """Turn a reservation into an allocation."""

    VERB: ClassVar[str] = "confirm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjust(Targeted):
    """Hold other amounts on the same nodes. Resources that are not named keep theirs."""

    VERB: ClassVar[str] = "adjust"
    amounts: Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew(Targeted):
    """Extend one lease: to now + ``ttl_ns`` (None: the ttl it was asked with)."""

    VERB: ClassVar[str] = "renew"
    ttl_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewHolder(Command):
    """Extend all leases of a holder, with one event."""

    VERB: ClassVar[str] = "renew"
    holder: str
    ttl_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(Targeted):
    """Give an allocation back; of consumable resources, ``consumed`` is what was really spent."""

    VERB: ClassVar[str] = "release"
    consumed: Amounts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Targeted):
    """Hand an allocation to another holder. The fencing token changes."""

    VERB: ClassVar[str] = "transfer"
    to_holder: str
    to_task: str | None = None
    process: ProcessIdentity | None = None
    ttl_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw(Targeted):
    """Give up a place in the queue, or a reservation."""

    VERB: ClassVar[str] = "withdraw"
    cause: str = "withdrawn"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Await(Targeted):
    """Somebody else waits for a request now: it keeps its place when the process that asked ends."""

    VERB: ClassVar[str] = "wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reclaim(Targeted):
    """Take capacity back: an operator by force, a sweep with evidence.

    While ``process_alive`` and an active allocation is bound to that process it becomes ``ending``
    first, until ``grace_ns`` is over; else it ends at once. ``happened_at`` is when the cause came
    about, where that is known (a crash seen later), but no earlier than what it ends began to be
    held. ``asker``: only where it still waits for that process.
    """

    VERB: ClassVar[str] = "reclaim"
    cause: str
    evidence: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    process_alive: bool = False
    enforced: bool = True
    grace_ns: int = 10_000_000_000
    happened_at: int | None = None
    asker: ProcessIdentity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTask(Command):
    """Say that a task begins."""

    VERB: ClassVar[str] = "task start"
    task: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishTask(Command):
    """Say that a task is over."""

    VERB: ClassVar[str] = "task finish"
    task: str
    by: str
    outcome: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeeHolder(Command):
    """Record which process a holder is."""

    VERB: ClassVar[str] = "see_holder"
    holder: str
    process: ProcessIdentity
    program: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordUsage(Command):
    """Record what an allocation really used; see :class:`ledger.events.UsageRecorded`."""

    VERB: ClassVar[str] = "record_usage"
    allocation: str
    since: int
    until: int
    used: Amounts
    peak: Amounts
    basis: dict[str, str] = field(default_factory=dict)
    samples: int = 0
    gaps_ns: int = 0
    final: bool = False
    exit_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """All that one source says of one allocation that happened elsewhere; see :class:`RecordFacts`.

    ``key`` is its identity in its source, such as ``sacct:phillips:4711``: what is recorded under it
    is recorded once. Times are ns UTC, None where the source does not say. ``moves`` are placements
    that it had from a time on. ``seen_until`` is when it was last known to hold; ``seen_from`` when
    it was first known to, where the source does not say when it began. ``ended_by`` is as an
    allocation's: ``withdrawn`` for what ended without ever having held. ``usage`` is what it really
    used, if that was measured. Records that each say a part of it may come in any order.
    """

    key: str
    holder: str
    request: Request
    tenant: str = "default"
    task: str | None = None
    placements: tuple[Placement, ...] = ()
    requested_at: int | None = None
    began_at: int | None = None
    ended_at: int | None = None
    ended_by: str = "released"
    seen_from: int | None = None
    seen_until: int | None = None
    moves: tuple[tuple[int, tuple[Placement, ...]], ...] = ()
    usage: UsageRecorded | None = None
    metadata: dict[str, Any] | None = None

    @property
    def times(self) -> tuple[int | None, ...]:
        """All times of its own that it may say."""
        return (
            self.requested_at,
            self.began_at,
            self.ended_at,
            self.seen_from,
            self.seen_until,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFacts(Command):
    """Record what happened elsewhere in an observed pool. Each fact has one effect under its key.

    The command itself needs no id. Known facts change nothing; what is new about a known one is
    added to it. ``nodes`` are those that the pool is known to have had from ``nodes_at`` on: all of
    them, if ``nodes_complete``.
    """

    VERB: ClassVar[str] = "import"
    pool: str
    facts: tuple[Fact, ...] = ()
    nodes: tuple[NodeSpec, ...] = ()
    nodes_at: int | None = None
    nodes_complete: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPool(Command):
    """Open a pool of one node or many. ``basis`` says where the numbers come from."""

    VERB: ClassVar[str] = "pool open"
    pool: str
    nodes: tuple[NodeSpec, ...]
    kind: str = "managed"
    consumable: bool = False
    policy: dict[str, Any] = field(default_factory=dict)
    basis: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizePool(Command):
    """Give nodes another capacity. Below what is in use, nothing is granted until it heals."""

    VERB: ClassVar[str] = "pool resize"
    pool: str
    nodes: tuple[NodeSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosePool(Command):
    """Grant nothing more from a pool."""

    VERB: ClassVar[str] = "pool close"
    pool: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinNode(Command):
    """Add a node to a pool."""

    VERB: ClassVar[str] = "pool join"
    pool: str
    node: NodeSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveNode(Command):
    """Remove an unused node from a pool."""

    VERB: ClassVar[str] = "pool leave"
    pool: str
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CordonNode(Command):
    """Let nothing new land on a node (``cordoned`` False lifts it)."""

    VERB: ClassVar[str] = "pool cordon"
    pool: str
    node: str
    cordoned: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetQuota(Command):
    """Limit what a tenant, or one holder of it, holds at once; empty ``limits`` lifts it.

    Tenants of one ``cohort`` lend each other what their quotas leave unused.
    """

    VERB: ClassVar[str] = "quota set"
    limits: Amounts
    holder: str | None = None
    pool: str | None = None
    cohort: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveCapacity(Command):
    """Record what others use of a node outside the ledger, as a probe saw it."""

    VERB: ClassVar[str] = "observe"
    pool: str
    node: str
    outside: Amounts
    basis: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPolicy(Command):
    """Change some keys of a pool's policy; see :class:`ledger.policy.Policy`."""

    VERB: ClassVar[str] = "policy set"
    pool: str
    policy: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RaiseAlert(Command):
    """Record something a person should look at; raising what is raised already changes nothing."""

    VERB: ClassVar[str] = "alert raise"
    alert: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearAlert(Command):
    """Say that an alert is over."""

    VERB: ClassVar[str] = "alert clear"
    alert: str
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendTime(Command):
    """Give leases the time back in which nobody could renew them."""

    VERB: ClassVar[str] = "extend_time"
    by_ns: int
    since: int
    until: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Correct(Command):
    """Say what was really so where the earlier event at position ``corrects`` was wrong.

    ``facts`` may hold ``ended_at`` (ns UTC) and ``ended_by``: when and how an allocation really ended.
    ``pool``, ``allocation``, ``holder`` and ``task`` are the corrected event's, as its ``tenant`` is.
    """

    VERB: ClassVar[str] = "correct"
    corrects: int
    reason: str
    by: str
    facts: dict[str, Any] = field(default_factory=dict)
    pool: str | None = None
    allocation: str | None = None
    holder: str | None = None
    task: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Redact(Command):
    """Erase one event's metadata. ``metadata_sha256`` is the hash that stays in the record."""

    VERB: ClassVar[str] = "redact"
    position: int
    metadata_sha256: str
    reason: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLedger(Command):
    """Begin a ledger, or a new epoch of it."""

    VERB: ClassVar[str] = "open"
    ledger_id: str
    epoch: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteDue(Command):
    """Write down what time has ended already, at most ``limit`` events of it."""

    VERB: ClassVar[str] = "write_due"
    limit: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeCheckpoint(Command):
    """Put a digest of the book into the log: ``digest``, where the caller has just made it."""

    VERB: ClassVar[str] = "checkpoint"
    digest: str = ""


AnyCommand = (
    Allocate
    | AllocateBatch
    | Confirm
    | Adjust
    | Renew
    | RenewHolder
    | Release
    | Transfer
    | Withdraw
    | Await
    | Reclaim
    | StartTask
    | FinishTask
    | SeeHolder
    | RecordUsage
    | RecordFacts
    | OpenPool
    | ResizePool
    | ClosePool
    | JoinNode
    | LeaveNode
    | CordonNode
    | SetQuota
    | SetPolicy
    | ObserveCapacity
    | RaiseAlert
    | ClearAlert
    | ExtendTime
    | Correct
    | Redact
    | OpenLedger
    | WriteDue
    | TakeCheckpoint
)
