"""What every call is made of: a command on its way, and what becomes of its receipt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from leasebook.settings import default_holder
from leasebook.values import (
    AllocationHandle,
    AllocationResult,
    BatchResult,
    ReleaseResult,
    refused,
    result_from,
)
from ledger import commands as c
from ledger.errors import InvalidInput
from ledger.identity import ProcessIdentity
from ledger.receipts import Receipt
from ledger.writer import Writer

if TYPE_CHECKING:
    from leasebook.manager import ResourceManager

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A command on its way, and how its receipt becomes what the caller gets."""

    command: c.AnyCommand
    convert: Callable[[Receipt], T]


def new_command_id() -> str:
    """A fresh command id: a UUID of version 7. It identifies; it never orders."""
    import uuid_utils

    return str(uuid_utils.uuid7())


def id_or_new(command_id: str | None) -> str:
    """The id as given, or a fresh one."""
    # An empty id is not "none": it comes from an unset variable, and would lose the one effect.
    return new_command_id() if command_id is None else command_id


def holder_or_own(holder: str | None) -> str:
    """The holder as given, or who calls."""
    return default_holder() if holder is None else holder


def process_of(pid: int | None) -> ProcessIdentity | None:
    """The identity of a running process. Raises InvalidInput where there is none."""
    if pid is None:
        return None
    from scheduler.processes.identity import identify

    try:
        return identify(pid)
    except (ProcessLookupError, ValueError, OverflowError):
        raise InvalidInput(
            f"there is no process {pid} to bind to", "give the pid of a running process"
        ) from None


class Calling:
    """What both halves of the writing interface share."""

    def __init__(self, writer: Writer, manager: ResourceManager | None) -> None:
        self._writer = writer
        self._manager = manager

    # --- conversions -----------------------------------------------------------------------------

    def _handle(self, receipt: Receipt) -> AllocationHandle:
        if receipt.outcome == "refused":
            raise refused(receipt)
        assert receipt.allocation is not None
        metadata = None if receipt.event is None else receipt.event.metadata
        return AllocationHandle(self._manager, receipt.allocation, metadata, receipt.replayed)

    def _released(self, receipt: Receipt) -> ReleaseResult:
        handle = self._handle(receipt)
        return ReleaseResult(receipt.outcome, handle, receipt.positions, receipt.replayed, receipt)

    def _receipt(self, receipt: Receipt) -> Receipt:
        if receipt.outcome == "refused":
            raise refused(receipt)
        return receipt

    def _batch(self, receipt: Receipt) -> BatchResult:
        results = tuple(result_from(self._manager, r) for r in receipt.results)
        return BatchResult(receipt.outcome, results, receipt.replayed, receipt)

    def _result(self, receipt: Receipt) -> AllocationResult:
        return result_from(self._manager, receipt)

    def _target(
        self,
        allocation: str,
        holder: str | None,
        token: int | None,
        operator: bool,
        tenant: str | None,
        command_id: str | None,
    ) -> dict[str, Any]:
        """What every command on one allocation needs; the tenant is the allocation's own."""
        if not allocation or len(allocation) > 32 or not allocation.isprintable():
            raise InvalidInput(
                f"{str(allocation)[:40]!r} is not an allocation's id", "ids look like A17"
            )
        if tenant is None:
            present = self._writer.present(allocation)
            tenant = "default" if present is None else present.tenant
        return {
            "allocation": allocation,
            "claim": c.Claim(holder_or_own(holder), token, operator),
            "tenant": tenant,
            "command_id": id_or_new(command_id),
        }
