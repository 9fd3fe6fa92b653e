"""The reasons for a refusal, and the exceptions: one enum, one root."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """Why a command was not granted. The values are part of the contract and never change."""

    INSUFFICIENT_CAPACITY = "insufficient_capacity"
    EXCEEDS_POOL = "exceeds_pool"
    QUOTA_EXCEEDED = "quota_exceeded"
    UNMANAGED_USE = "unmanaged_use"
    RESERVED_FOR_WAITING = "reserved_for_waiting"
    NO_SUCH_POOL = "no_such_pool"
    NO_SUCH_ALLOCATION = "no_such_allocation"
    NOT_HOLDER = "not_holder"
    STALE_TOKEN = "stale_token"
    ALREADY_ENDED = "already_ended"
    ALREADY_EXISTS = "already_exists"
    QUEUE_FULL = "queue_full"
    WAIT_TIMED_OUT = "wait_timed_out"
    MAX_AGE_REACHED = "max_age_reached"
    COMMAND_ID_REUSED = "command_id_reused"
    DUPLICATE_REQUEST = "duplicate_request"
    PRIORITY_NOT_ALLOWED = "priority_not_allowed"
    OBSERVED_POOL = "observed_pool"
    INVALID = "invalid"
    FORBIDDEN = "forbidden"
    LIMIT_EXCEEDED = "limit_exceeded"


class LeasebookError(Exception):
    """The root of everything Leasebook raises. ``message`` is one line; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidInput(LeasebookError):
    """The input can never be right as it stands: a bad amount, name, option or file."""


class Refused(LeasebookError):
    """The ledger said no, and recorded why.

    ``reason`` is a :class:`Reason`; ``shortfall`` maps node to resource to missing base units;
    ``blockers`` are the allocations in the way; ``result`` is the whole receipt as JSON-ready dict.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        reason: Reason,
        refusal_id: str | None = None,
        shortfall: Mapping[str, Mapping[str, int]] | None = None,
        blockers: Sequence[Mapping[str, Any]] = (),
        result: Any = None,
    ) -> None:
        super().__init__(message, hint)
        self.reason = reason
        self.refusal_id = refusal_id
        self.shortfall = dict(shortfall or {})
        self.blockers = list(blockers)
        self.result = result


class LedgerUnavailable(LeasebookError):
    """The infrastructure failed (disk, lock, permission). Nothing was decided or changed."""


class LedgerReadOnly(LedgerUnavailable):
    """The ledger can be read but not written here: newer format, unknown events, no permission."""


class LedgerCorrupt(LeasebookError):
    """The record is damaged or contradicts itself. ``position`` is where, when it is known."""

    def __init__(self, message: str, hint: str = "", *, position: int | None = None) -> None:
        super().__init__(message, hint)
        self.position = position


class NotALedger(LeasebookError):
    """The file is something else than a ledger."""


class LimitExceeded(LeasebookError):
    """Something grew past the limit that is set on it. Nothing was decided or changed."""
