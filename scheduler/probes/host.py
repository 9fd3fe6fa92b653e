"""The host probe: memory, processors and cards of this machine that others use, for one node."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ledger.requests import Amounts
from scheduler.probes.cards import cards_outside
from scheduler.probes.finding import Finding, Held
from scheduler.probes.holders import Processes
from scheduler.probes.load import LEAST_NS, Load
from scheduler.probes.memory import memory_outside
from scheduler.processes.procfs import LINUX


def look_at_host(
    capacity: Amounts,
    held: Sequence[Held],
    load: Load,
    *,
    doubtful: bool = False,
    processes: Processes | None = None,
) -> Finding:
    """What others use of this machine, of the resources in ``capacity`` that a host has.

    The load is told by comparing with the looks that ``load`` remembers. ``doubtful`` says that an
    earlier figure for it stands in the book, which may be long out of date: then a new ``load``
    takes a second look a tenth of a second later. Never raises for what the machine does not tell.
    """
    found: dict[str, tuple[int, str] | None] = {}
    if not LINUX:
        return Finding()
    if capacity.get("cpu"):
        if doubtful and load.is_new:
            load.look(capacity["cpu"], held, Processes())
            time.sleep(2 * LEAST_NS / 1e9)
        found["cpu"] = load.look(capacity["cpu"], held, processes or Processes())
    processes = processes or Processes()
    if capacity.get("memory"):
        found["memory"] = memory_outside(capacity["memory"], held, processes)
    if capacity.get("gpu"):
        found["gpu"] = cards_outside(capacity["gpu"], held, processes)
    known = {resource: seen for resource, seen in found.items() if seen is not None}
    return Finding(
        {resource: amount for resource, (amount, _) in known.items()},
        {resource: whose for resource, (amount, whose) in known.items() if amount and whose},
    )
