"""What is said later about earlier events: metadata is erased, and what was wrong is put right.

The events themselves stay; both are events of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leasebook.settings import default_holder
from leasebook.values import refused
from ledger.codec import from_row
from ledger.commands import Correct, Redact
from ledger.errors import InvalidInput
from ledger.log import Row
from ledger.receipts import Receipt
from ledger.writer import Writer

if TYPE_CHECKING:
    from ledger.book import Allocation

REASON_CHARACTERS_MAX = 2_000


def redact(writer: Writer, position: int, reason: str, by: str | None) -> Receipt:
    """As :meth:`leasebook.questions.Questions.redact`."""
    from ledger.chain import metadata_hash

    row = _row(writer, position, reason, "redaction")
    if row.metadata is None:
        raise InvalidInput(f"event {position} carries no metadata", "there is nothing to erase")
    digest = metadata_hash(row.metadata).hex()
    command = Redact(
        command_id=f"redact-{position}-{digest[:16]}",
        tenant=row.tenant or "default",
        position=position,
        metadata_sha256=digest,
        reason=reason,
        by=by or default_holder(),
    )
    return _done(writer.execute(command))


def correct(
    writer: Writer,
    position: int,
    reason: str,
    ended_at: int | None,
    ended_by: str | None,
    by: str | None,
    command_id: str | None,
) -> Receipt:
    """As :meth:`leasebook.questions.Questions.correct`; ``ended_at`` in ns UTC."""
    row = _row(writer, position, reason, "correction")
    if ended_by is not None and ended_at is None:
        raise InvalidInput("how it ended needs when", "give the time of its end too")
    facts: dict[str, Any] = {}
    if ended_at is not None:
        _check_end(writer, row, ended_at)
        facts["ended_at"] = ended_at
    if ended_by is not None:
        facts["ended_by"] = ended_by
    command = Correct(
        command_id=command_id or _id_of(position, reason, facts),
        tenant=row.tenant or "default",
        corrects=position,
        reason=reason,
        by=by or default_holder(),
        facts=facts,
        pool=row.pool,
        allocation=row.allocation,
        holder=row.holder,
        task=row.task,
    )
    return _done(writer.execute(command))


def _done(receipt: Receipt) -> Receipt:
    """The receipt; raises Refused where it is a refusal."""
    if receipt.outcome == "refused":
        raise refused(receipt)
    return receipt


def _id_of(position: int, reason: str, facts: dict[str, Any]) -> str:
    """So that the same, said twice, is recorded once."""
    from hashlib import sha256

    from ledger.canonical import canonical_json

    digest = sha256(canonical_json([reason, facts])).hexdigest()
    return f"correct-{position}-{digest[:16]}"


def _row(writer: Writer, position: int, reason: str, what: str) -> Row:
    """The event to speak of. Raises InvalidInput."""
    if not reason.strip():
        raise InvalidInput(f"a {what} needs a reason", "say why, for the record")
    if len(reason) > REASON_CHARACTERS_MAX:
        raise InvalidInput(
            f"the reason has {len(reason)} characters", f"give at most {REASON_CHARACTERS_MAX}"
        )
    row = next(iter(writer.log.read(position - 1, position)), None)
    if row is None:
        raise InvalidInput(f"there is no event {position}", "see `leasebook events`")
    return row


def _check_end(writer: Writer, row: Row, ended_at: int) -> None:
    """Raise InvalidInput for an end that an allocation cannot have had."""
    from leasebook.when import rfc3339
    from ledger.receipts import fold_allocation

    if row.allocation is None:
        raise InvalidInput(
            f"event {row.position} is about no allocation", "only what was held has an end"
        )
    past: Allocation | None = fold_allocation(
        [from_row(one) for one in writer.log.rows_of_allocation(row.allocation)]
    )
    kind = writer.read(lambda book, now: book.pools[row.pool].kind if row.pool else "managed")
    if kind == "observed":
        raise InvalidInput(
            f"{row.allocation} stands in an observed pool",
            "import what its source says now; the record of it is corrected by that",
        )
    if past is None or past.granted_at is None:
        raise InvalidInput(f"{row.allocation} was never held", "only what was held has an end")
    if ended_at < past.granted_at:
        raise InvalidInput(
            f"{row.allocation} was granted at {rfc3339(past.granted_at)}, after that end",
            "give a later one",
        )
    if past.ended_at is None:
        raise InvalidInput(
            f"{row.allocation} is held still",
            "release or reclaim it, then say when it really ended",
        )
    if ended_at > past.ended_at:
        raise InvalidInput(
            f"{row.allocation} ended at {rfc3339(past.ended_at)}: what the pool gave to others"
            " from then on stays given",
            "give an earlier end, or tell in the reason alone how it was",
        )
