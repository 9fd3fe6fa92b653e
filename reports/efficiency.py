"""Efficiency: what allocations were granted against what they really used.

Use is the allocation's own, as ``usage_recorded`` events tell it, never a node's: counted once for
each of the allocations on a node, a node's use gives efficiencies above 1 that mean nothing. What
was not measured is missing (None), never 0.

Formulas, for one resource of one or more allocations (``seff`` of Slurm has the same shape)::

    granted_seconds  = sum over time held of amount granted, in base units × seconds
    efficiency       = used_seconds / (granted_seconds of the time that was measured)
    peak_efficiency  = largest peak / amount granted, of the allocation where that is largest
    coverage         = time measured / time held
    suggestion       = peak × 1.2 (memory), processor time per second × 1.2 (cpu), rounded up

Processor time is a counter and complete across gaps; everything else was measured only outside of
them. An allocation that draws on another's capacity lies within that one's grant and use, so it is
not counted again beside it.

Allocations of observed pools are counted as they are known by now, corrections included; one that
never ended, until it was last known to hold. There a record of use covers the time from its ``since``
to its ``until``, and records of the same stretch, or of a part of it, are not added up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ledger.amounts import BYTE_RESOURCES, format_amounts
from ledger.events import Event, UsageRecorded
from ledger.requests import Amounts
from reports.efficiency_uses import Use, begun_within, outermost, uses_of

__all__ = [
    "COUNTERS",
    "IDLE_BELOW_PERCENT",
    "KEYS",
    "Efficiency",
    "Use",
    "combine",
    "efficiency_by",
    "efficiency_of",
    "efficiency_of_task",
    "measure",
    "outermost",
    "rounded_bytes",
    "rows_of",
    "uses_of",
]

NS_PER_S: Final = 1_000_000_000
COUNTERS: Final = frozenset({"cpu"})
"""Resources whose use is read from a counter, which no gap interrupts."""
IDLE_BELOW_PERCENT: Final = 1
"""A recorded stretch in which less of the granted processors was used counts as idle."""
KEYS: Final = ("task", "holder", "tenant", "pool", "strategy", "allocation")

_MIB: Final = 1 << 20


@dataclass(slots=True)
class Efficiency:
    """A row of the efficiency report: one allocation, or a group of them.

    ``granted_seconds`` and ``used_seconds`` are resource → base units × seconds; ``peak`` is the
    largest of any one allocation, in base units. Times are nanoseconds; ``idle_ns`` is None where
    no processor time was measured. ``measured_base_ns`` is what was granted while it was measured
    (base units × ns), and ``counted_seconds`` the use that stands against it.
    """

    key: dict[str, str | None]
    allocations: int = 0
    granted_base_ns: Amounts = field(default_factory=dict)
    measured_base_ns: Amounts = field(default_factory=dict)
    counted_seconds: Amounts = field(default_factory=dict)
    used_seconds: Amounts = field(default_factory=dict)
    peak: Amounts = field(default_factory=dict)
    peak_efficiency: dict[str, float | None] = field(default_factory=dict)
    held_ns: int = 0
    wait_ns: int = 0
    idle_ns: int | None = None
    measured_ns: int = 0
    limited_held_ns: int = 0
    limit_ns: int = 0
    ended_by: dict[str, int] = field(default_factory=dict)
    suggestion: Amounts = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)
    """How each resource was measured, such as ``pss``; ``mixed`` where in more than one way."""

    @property
    def granted_seconds(self) -> Amounts:
        """Resource → base units × whole seconds, all of the time held."""
        return {r: amount // NS_PER_S for r, amount in self.granted_base_ns.items()}

    @property
    def measured_seconds(self) -> Amounts:
        """The part of ``granted_seconds`` that was measured."""
        return {r: amount // NS_PER_S for r, amount in self.measured_base_ns.items()}

    @property
    def efficiency(self) -> dict[str, float | None]:
        """Resource → used / granted while measured; None where nothing was measured."""
        return {
            resource: self.counted_seconds[resource] * NS_PER_S / measured
            if (measured := self.measured_base_ns.get(resource))
            and resource in self.counted_seconds
            else None
            for resource in self.granted_base_ns
        }

    @property
    def coverage(self) -> float | None:
        """Time measured / time held, 0 to 1; None where nothing was held."""
        return min(1.0, self.measured_ns / self.held_ns) if self.held_ns else None

    @property
    def time_limit_accuracy(self) -> float | None:
        """Time held / time asked for, of those that asked for a maximum age; else None."""
        return self.limited_held_ns / self.limit_ns if self.limit_ns else None

    def to_json(self) -> dict[str, Any]:
        """The row as the contract shows it."""
        return {
            **self.key,
            "allocations": self.allocations,
            "granted_seconds": self.granted_seconds,
            "used_seconds": dict(self.used_seconds),
            "efficiency": self.efficiency,
            "peak": format_amounts(self.peak),
            "peak_efficiency": dict(self.peak_efficiency),
            "held_s": self.held_ns / 1e9,
            "idle_s": None if self.idle_ns is None else self.idle_ns / 1e9,
            "wait_s": self.wait_ns / 1e9,
            "time_limit_accuracy": self.time_limit_accuracy,
            "coverage": self.coverage,
            "ended_by": dict(self.ended_by),
            "suggestion": format_amounts(self.suggestion),
        }


def measure(use: Use, *, now: int, key: Mapping[str, str | None] | None = None) -> Efficiency:
    """The row of one allocation; one of which nobody knows until when counts up to ``now`` (ns)."""
    row = Efficiency(dict(key or {"allocation": use.allocation}))
    if use.granted_at is not None:
        row.allocations = 1
        row.held_ns = use.held_ns(now)
        if use.requested_at is not None:
            row.wait_ns = max(0, use.granted_at - use.requested_at)
        # What was observed is not bound to this ledger's present.
        last = now if use.ended_at is None or not use.observed else use.ended_at
        for length, amounts in use.pieces(use.granted_at, last):
            _add(row.granted_base_ns, {r: a * length for r, a in amounts.items()})
        if use.time_limit_ns:
            row.limited_held_ns, row.limit_ns = row.held_ns, use.time_limit_ns
    if use.ended_by is not None:
        row.ended_by = {use.ended_by: 1}
    for usage in use.usages:
        _take_usage(row, use, usage)
    if use.observed:
        row.measured_ns = use.watched_ns()
    row.peak_efficiency = {r: _peak_share(row, use, r) for r in row.granted_base_ns}
    row.suggestion = _suggestion(row, use)
    return row


def _take_usage(row: Efficiency, use: Use, usage: UsageRecorded) -> None:
    """Set one recorded stretch of use against what was held in it."""
    _add(row.used_seconds, usage.used)
    for resource, amount in usage.peak.items():
        row.peak[resource] = max(row.peak.get(resource, 0), amount)
    _note_bases(row, usage.basis)
    length = usage.until - usage.since
    covered = max(0, length - usage.gaps_ns)
    held: Amounts = {}
    overlap = 0
    for part, amounts in use.pieces(usage.since, usage.until):
        overlap += part
        _add(held, {r: a * part for r, a in amounts.items()})
    if usage.samples:
        row.measured_ns += overlap * covered // length if length else 0
    for resource, used in usage.used.items():
        if resource in held:
            share = held[resource]
            if resource not in COUNTERS and length:
                share = share * covered // length
            _add(row.measured_base_ns, {resource: share})
            _add(row.counted_seconds, {resource: used})
    if "cpu" in usage.used and held.get("cpu"):
        idle = usage.used["cpu"] * NS_PER_S * 100 < held["cpu"] * IDLE_BELOW_PERCENT
        row.idle_ns = (row.idle_ns or 0) + (overlap if idle else 0)


def _note_bases(row: Efficiency, basis: Mapping[str, str]) -> None:
    for resource, how in basis.items():
        row.bases[resource] = how if row.bases.get(resource, how) == how else "mixed"


def _peak_share(row: Efficiency, use: Use, resource: str) -> float | None:
    """The peak against the most that was granted at any time."""
    granted = max((amounts.get(resource, 0) for _, amounts in use.spans), default=0)
    return row.peak[resource] / granted if granted and resource in row.peak else None


def _suggestion(row: Efficiency, use: Use) -> Amounts:
    """What would have done, with a fifth more; only of what was measured, and for long enough."""
    wanted: Amounts = {}
    elapsed = sum(u.until - u.since for u in use.usages if "cpu" in u.used)
    if "cpu" in row.used_seconds and elapsed >= NS_PER_S:
        average = row.used_seconds["cpu"] * NS_PER_S * 6 // (elapsed * 5)
        step = 100 if average < 1000 else 1000
        wanted["cpu"] = max(100, -(-average // step) * step)
    for resource, peak in row.peak.items():
        if resource in BYTE_RESOURCES and peak:
            wanted[resource] = rounded_bytes(peak * 6 // 5)
    return wanted


def rounded_bytes(amount: int) -> int:
    """Bytes rounded up to a sixteenth of their power of two, and at least to 16 MiB."""
    step = max(16 * _MIB, 1 << max(0, amount.bit_length() - 5))
    return max(1, -(-amount // step)) * step


def _add(total: Amounts, more: Mapping[str, int]) -> None:
    for resource, amount in more.items():
        total[resource] = total.get(resource, 0) + amount


def combine(rows: Iterable[Efficiency], key: Mapping[str, str | None]) -> Efficiency:
    """Several rows as one. Times and amounts add up; peaks and suggestions are the largest."""
    total = Efficiency(dict(key))
    for row in rows:
        total.allocations += row.allocations
        for name in ("granted_base_ns", "measured_base_ns", "counted_seconds", "used_seconds"):
            _add(getattr(total, name), getattr(row, name))
        for name in ("held_ns", "wait_ns", "measured_ns", "limited_held_ns", "limit_ns"):
            setattr(total, name, getattr(total, name) + getattr(row, name))
        if row.idle_ns is not None:
            total.idle_ns = (total.idle_ns or 0) + row.idle_ns
        _add(total.ended_by, row.ended_by)
        _note_bases(total, row.bases)
        for largest, one in ((total.peak, row.peak), (total.suggestion, row.suggestion)):
            for resource, amount in one.items():
                largest[resource] = max(largest.get(resource, 0), amount)
        for resource, share in row.peak_efficiency.items():
            shares = [s for s in (share, total.peak_efficiency.get(resource)) if s is not None]
            total.peak_efficiency[resource] = max(shares, default=None)
    return total


def efficiency_of(events: Iterable[Event], *, now: int) -> Efficiency | None:
    """The row of one allocation from its events; None where they tell of none."""
    use = next(iter(uses_of(events).values()), None)
    return None if use is None else measure(use, now=now)


def efficiency_by(
    events: Iterable[Event],
    by: str = "task",
    *,
    now: int,
    name: str | None = None,
    since: int | None = None,
    until: int | None = None,
) -> list[Efficiency]:
    """One row for each task, holder, tenant, pool, strategy or allocation, in order of name.

    ``name`` keeps one group only. ``since`` and ``until`` (ns UTC) are of observed pools alone: see
    :func:`reports.efficiency_uses.begun_within`. Allocations without a task (or the like) have a row
    of their own, whose key is None. Raises ValueError for another ``by``.
    """
    if by not in KEYS:
        raise ValueError(f"efficiency goes by {', '.join(KEYS)}, not by {by!r}")
    uses = begun_within(uses_of(events).values(), since, until)
    return rows_of([use for use in uses if name is None or use.key(by) == name], by, now=now)


def rows_of(uses: Iterable[Use], by: str, *, now: int) -> list[Efficiency]:
    """One row for each group of allocations that held anything, in order of name."""
    groups: dict[str | None, list[Use]] = {}
    for use in uses:
        groups.setdefault(use.key(by), []).append(use)
    return [
        combine((measure(use, now=now) for use in outermost(some)), {by: group})
        for group, some in sorted(groups.items(), key=lambda item: (item[0] is None, item[0] or ""))
    ]


def efficiency_of_task(events: Iterable[Event], task: str, *, now: int) -> Efficiency | None:
    """The row of one task; None where it held nothing in these events."""
    rows = efficiency_by(events, "task", now=now, name=task)
    return rows[0] if rows else None
