"""Sweeps: bounded passes that find what time or a crash has made wrong, and write commands.

One job per file, each a plain function that may run twice, at once, anywhere, without a scheduler:
``expiring`` writes down what time has ended, ``crashes`` takes back what dead processes held,
``endings`` sees to it that what was asked to end does, and ``observing`` writes down what others use
without asking. :mod:`scheduler.jobs` runs them regularly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ledger.errors import InvalidInput
from ledger.writer import Writer
from scheduler.sweeps.crashes import crash
from scheduler.sweeps.endings import ending
from scheduler.sweeps.expiring import expire
from scheduler.sweeps.observing import observe
from scheduler.sweeps.reclaiming import SweepReport

__all__ = [
    "SWEEPS",
    "Sweep",
    "SweepReport",
    "crash",
    "ending",
    "expire",
    "observe",
    "run_sweeps",
    "sweep",
]

Sweep = Callable[..., SweepReport]
"""A sweep: ``(writer, *, limit=…, dry_run=False)`` → its report."""

SWEEPS: dict[str, Sweep] = {
    "expire": expire,
    "crash": crash,
    "ending": ending,
    "observe": observe,
}
"""Every sweep by its name, in the order in which they run."""


def sweep(name: str) -> Sweep:
    """The sweep of this name. Raises InvalidInput where there is none."""
    found = SWEEPS.get(name)
    if found is None:
        raise InvalidInput(f"there is no sweep {name!r}", f"there are: {', '.join(SWEEPS)}")
    return found


def run_sweeps(
    writer: Writer, names: Iterable[str] | None = None, dry_run: bool = False
) -> list[SweepReport]:
    """Run the sweeps of these names, or all, each once, and return their reports in that order.

    With ``dry_run`` nothing is written and nobody is signalled. Raises InvalidInput for a name
    that is not a sweep's, before any has run; an infrastructure failure ends the run and is raised.
    """
    chosen = [sweep(name) for name in (SWEEPS if names is None else dict.fromkeys(names))]
    return [one(writer, dry_run=dry_run) for one in chosen]
