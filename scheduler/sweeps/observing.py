"""The observe sweep: writes down what others use of this machine without asking the ledger.

It looks at every pool whose policy has a ``probe`` for this machine, and what that frees goes to those
who wait. Pools without a probe, or with one for another machine, are left alone.
"""

from __future__ import annotations

from typing import Any

from ledger.writer import Writer
from scheduler.probes.lookout import LIMIT, Seen, lookout_of
from scheduler.sweeps.reclaiming import SweepReport


def observe(writer: Writer, *, limit: int = LIMIT, dry_run: bool = False) -> SweepReport:
    """Record at most ``limit`` observations. Safe to run twice and at once.

    ``examined`` counts nodes, ``acted`` observations. Raises what
    :meth:`ledger.writer.Writer.execute` raises for failures of the infrastructure.
    """
    done = lookout_of(writer).look(force=True, limit=limit, dry_run=dry_run)
    details = [_detail(seen) for seen in done.recorded]
    return SweepReport("observe", done.examined, len(details), details, dry_run, done.more)


def _detail(seen: Seen) -> dict[str, Any]:
    detail: dict[str, Any] = {
        "pool": seen.pool,
        "node": seen.node,
        "cause": "observed",
        "outside": dict(seen.finding.outside),
        "basis": dict(seen.finding.basis),
    }
    if seen.positions:
        detail["positions"] = list(seen.positions)
    return detail
