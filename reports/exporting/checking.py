"""Checking rows as they are exported: what was tampered with must not leave as if it were the record.

What cannot be seen from the rows alone (a record cut off at its end, or written anew as a whole) takes
a checkpoint that was kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ledger.errors import LedgerCorrupt
from ledger.log import Row
from ledger.proving import Fault, Proof, Rows

HINT = (
    "run `leasebook verify`, keep the file as it is, and compare it with a backup; --until and --after"
    " export what lies before and behind it"
)


def checked(log: Rows, rows: Iterable[Row], after: int, before: bytes) -> Iterator[Row]:
    """Rows in order after a position, each proven before it is passed on.

    ``before`` is the hash of the event at ``after``. Raises LedgerCorrupt, whose ``position`` is the
    first at fault.
    """
    proof = Proof(log, after, before)
    fault: Fault | None = None
    damage: LedgerCorrupt | None = None
    try:
        for row in rows:
            proof.take(row)
            yield row
    except Fault as found:
        fault = found
    except LedgerCorrupt as error:
        damage = error
    fault = proof.first_fault(fault, log.read(proof.position), proof.hash)
    if fault is not None:
        raise LedgerCorrupt(f"the export ends: {fault.reason}", HINT, position=fault.position)
    if damage is not None:
        raise damage
