"""The values that the Python interface takes and gives: requests, handles, results.

Frozen; everything that is written out is written by :mod:`leasebook.mapping`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from leasebook.mapping import allocation_out, result_out
from ledger.amounts import format_amounts
from ledger.book import Allocation
from ledger.errors import Reason, Refused
from ledger.receipts import Receipt
from ledger.requests import DEFAULT_PRIORITY, Placement

if TYPE_CHECKING:
    from leasebook.manager import ResourceManager

Amounts = Mapping[str, Any]
Duration = int | float | str


@dataclass(frozen=True, slots=True)
class AllocationRequest:
    """One request of a batch. Fields as the arguments of :meth:`ResourceManager.allocate`."""

    amounts: Amounts
    pool: str
    holder: str | None = None
    task: str | None = None
    ttl: Duration | None = None
    pid: int | None = None
    wait: Duration | None = None
    priority: str = DEFAULT_PRIORITY
    strategy: str | None = None
    select: Mapping[str, str] | None = None
    max_age: Duration | None = None
    parent: str | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class MemoryRequest:
    """Memory and nothing else: ``size`` such as ``"4GiB"``, or bytes."""

    size: int | str
    pool: str
    holder: str | None = None
    task: str | None = None
    ttl: Duration | None = None
    wait: Duration | None = None
    priority: str = DEFAULT_PRIORITY


class AllocationHandle:
    """An allocation as it was when this was given out, and what its holder can do with it.

    ``handle.get()`` reads it anew. Methods that change it need no claim: the handle has the token.
    """

    __slots__ = ("_allocation", "_manager", "metadata", "replayed")

    def __init__(
        self,
        manager: ResourceManager | None,
        allocation: Allocation,
        metadata: Mapping[str, Any] | None = None,
        replayed: bool = False,
    ) -> None:
        self._manager = manager
        self._allocation = allocation
        self.metadata = dict(metadata or {})
        self.replayed = replayed

    @property
    def id(self) -> str:
        """``A`` + the position of the request's first event."""
        return self._allocation.id

    @property
    def fencing_token(self) -> int:
        """The position of the event that last changed who holds it; 0 while it waits."""
        return self._allocation.token

    @property
    def state(self) -> str:
        """``waiting``, ``reserved``, ``active``, ``ending`` or ``ended``."""
        return self._allocation.state

    @property
    def outcome(self) -> str:
        """``granted`` or ``waiting``."""
        return "waiting" if self.state == "waiting" else "granted"

    @property
    def pool(self) -> str:
        """The pool's name."""
        return self._allocation.pool

    @property
    def tenant(self) -> str:
        """The tenant it belongs to."""
        return self._allocation.tenant

    @property
    def holder(self) -> str:
        """Who holds it."""
        return self._allocation.holder

    @property
    def task(self) -> str | None:
        """The task it is for."""
        return self._allocation.task

    @property
    def amounts(self) -> dict[str, str]:
        """Resource → canonical text, such as ``{"cpu": "2", "memory": "4Gi"}``."""
        return format_amounts(self._allocation.amounts)

    @property
    def base_units(self) -> dict[str, int]:
        """Resource → whole base units."""
        return dict(self._allocation.amounts)

    @property
    def placements(self) -> tuple[Placement, ...]:
        """Where it stands."""
        return self._allocation.placements

    @property
    def node(self) -> str | None:
        """The node it stands on; None while it waits or where it stands on several."""
        placed = self._allocation.placements
        return placed[0].node if len(placed) == 1 else None

    @property
    def expires_at_ns(self) -> int | None:
        """The lease's end, ns UTC; None where a process bounds it."""
        return self._allocation.lease_until

    @property
    def ended_by(self) -> str | None:
        """What ended it, or None while it lives."""
        return self._allocation.ended_by

    def to_json(self) -> dict[str, Any]:
        """The allocation as the contract shows it."""
        return allocation_out(self._allocation, metadata=self.metadata, replayed=self.replayed)

    def _bound(self) -> ResourceManager:
        if self._manager is None:
            raise TypeError("this handle belongs to no open ledger; call the manager's methods")
        return self._manager

    def get(self) -> AllocationHandle:
        """The allocation as it is now."""
        return self._bound().get(self.id)

    def renew(self, ttl: Duration | None = None) -> AllocationHandle:
        """Extend the lease; see :meth:`ResourceManager.renew`."""
        return self._bound().renew(self.id, ttl=ttl, token=self.fencing_token, tenant=self.tenant)

    def adjust(self, **amounts: Any) -> AllocationHandle:
        """Hold other amounts; see :meth:`ResourceManager.adjust`."""
        return self._bound().adjust(self.id, amounts, token=self.fencing_token, tenant=self.tenant)

    def release(self) -> ReleaseResult:
        """Give it back; see :meth:`ResourceManager.release`."""
        return self._bound().release(self.id, token=self.fencing_token, tenant=self.tenant)

    def __repr__(self) -> str:
        return (
            f"<AllocationHandle {self.id} {self.state} {self.amounts} in {self.pool}"
            f" by {self.holder}>"
        )


@dataclass(frozen=True, slots=True)
class AllocationResult:
    """The outcome of one request: ``granted``, ``waiting``, or ``refused`` with its reason.

    ``shortfall`` is node → resource → base units missing; ``fits_now`` resource → base units.
    """

    outcome: str
    allocation: AllocationHandle | None
    reason: Reason | None
    message: str
    hint: str
    positions: tuple[int, ...]
    replayed: bool
    refusal_id: str | None
    shortfall: dict[str, dict[str, int]]
    fits_now: dict[str, int]
    blockers: tuple[dict[str, Any], ...]
    receipt: Receipt = field(repr=False)

    @property
    def granted(self) -> bool:
        """Whether capacity is held."""
        return self.outcome == "granted"

    def to_json(self) -> dict[str, Any]:
        """The result as the contract shows it."""
        return result_out(self.receipt)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The outcome of a batch: ``granted``, ``waiting`` or ``refused`` (all), or ``partial``.

    There is one result per request, in order.

    An atomic batch that was refused has one result: the request that stopped it.
    """

    outcome: str
    results: tuple[AllocationResult, ...]
    replayed: bool
    receipt: Receipt = field(repr=False)

    @property
    def handles(self) -> list[AllocationHandle]:
        """What was granted or waits."""
        return [r.allocation for r in self.results if r.allocation is not None]

    def to_json(self) -> dict[str, Any]:
        """The result as the contract shows it."""
        return result_out(self.receipt)


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """What a release came to. ``outcome`` is the type of the event that ended the allocation."""

    outcome: str
    allocation: AllocationHandle
    positions: tuple[int, ...]
    replayed: bool
    receipt: Receipt = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """The result as the contract shows it."""
        return result_out(self.receipt)


@dataclass(frozen=True, slots=True)
class MonitoringFilters:
    """What to watch: all pools, or one; every ``interval_s`` seconds."""

    pool: str | None = None
    tenant: str | None = None
    interval_s: float = 1.0


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """The fleet at one moment: pools as the contract shows them, and counts by state."""

    at: str
    position: int
    pools: tuple[dict[str, Any], ...]
    states: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """As a JSON-ready dict."""
        return {
            "at": self.at,
            "position": self.position,
            "pools": list(self.pools),
            "states": self.states,
        }


def result_from(manager: ResourceManager | None, receipt: Receipt) -> AllocationResult:
    """An allocation result from a receipt."""
    refusal = receipt.refusal
    metadata = None if receipt.event is None else receipt.event.metadata
    handle = None
    if receipt.allocation is not None:
        handle = AllocationHandle(manager, receipt.allocation, metadata, receipt.replayed)
    return AllocationResult(
        receipt.outcome,
        handle,
        receipt.reason,
        receipt.message,
        receipt.hint,
        receipt.positions,
        receipt.replayed,
        receipt.refusal_id,
        {} if refusal is None else refusal.shortfall,
        {} if refusal is None else refusal.fits_now,
        () if refusal is None else refusal.blockers,
        receipt,
    )


def refused(receipt: Receipt) -> Refused:
    """The exception for a refusal."""
    refusal = receipt.refusal
    assert receipt.reason is not None
    return Refused(
        receipt.message,
        receipt.hint,
        reason=receipt.reason,
        refusal_id=receipt.refusal_id,
        shortfall=None if refusal is None else refusal.shortfall,
        blockers=() if refusal is None else refusal.blockers,
        result=result_out(receipt),
    )
