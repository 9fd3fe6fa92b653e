"""Efficiency in a few lines, in the manner of Slurm's ``seff``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ledger.amounts import BYTE_RESOURCES, format_amounts
from ledger.requests import Amounts
from reports.efficiency import Efficiency

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_WIDTH = 15


@dataclass(frozen=True, slots=True)
class Seff:
    """What there is to say of one run. Times are nanoseconds, amounts base units."""

    program: str
    allocation: str | None
    pool: str | None
    amounts: Amounts
    code: int
    signal: int | None
    wall_ns: int
    waited_ns: int
    efficiency: Efficiency
    group_memory_peak: int | None = None
    limits: str | None = None
    suggestion: Amounts = field(default_factory=dict)
    notes: Sequence[str] = ()


def bytes_text(amount: int) -> str:
    """``1.23 GiB``: three digits, for people."""
    value, unit = float(amount), 0
    while value >= 1024 and unit + 1 < len(_UNITS):
        value, unit = value / 1024, unit + 1
    digits = 0 if unit == 0 or value >= 100 else (1 if value >= 10 else 2)
    return f"{value:.{digits}f} {_UNITS[unit]}"


def duration_text(ns: int) -> str:
    """``0.8 s``, ``75 s``, ``2:05:07``."""
    seconds = ns / 1e9
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def percent_text(share: float | None) -> str:
    """``74 %``; ``not measured`` where it is not known."""
    return "not measured" if share is None else f"{share * 100:.0f} %"


def amounts_text(amounts: Amounts) -> str:
    """``cpu=2 memory=4Gi``, as it can be typed."""
    return " ".join(f"{r}={text}" for r, text in format_amounts(amounts).items())


def _line(label: str, text: str) -> str:
    return f"  {label + ':':<{_WIDTH}}{text}"


def seff_lines(seff: Seff) -> list[str]:
    """The lines of a run's summary, without an end of line."""
    where = "without an allocation"
    if seff.allocation is not None:
        where = f"as {seff.allocation}, {amounts_text(seff.amounts)} of {seff.pool}"
    how = f"exit code {seff.code}"
    if seff.signal is not None:
        how += f" (signal {seff.signal})"
    how += f" after {duration_text(seff.wall_ns)}"
    if seff.waited_ns:
        how += f", having waited {duration_text(seff.waited_ns)}"
    lines = [
        f"leasebook: {seff.program} ran {where}",
        _line("Ended", how),
        *use_lines(seff.efficiency, seff.group_memory_peak),
    ]
    if seff.limits is not None:
        lines.append(_line("Limits", seff.limits))
    if seff.suggestion:
        lines.append(_line("Next time", amounts_text(seff.suggestion)))
    lines += [_line("Note", note) for note in seff.notes]
    return lines


def use_lines(row: Efficiency, group_memory_peak: int | None = None) -> list[str]:
    """Processors, memory and the like: used, granted, and the share."""
    lines = [_line("CPU", _cpu_text(row))]
    for resource in sorted({"memory", *row.peak} & BYTE_RESOURCES):
        lines.append(_line(resource.capitalize(), _bytes_line(row, resource, group_memory_peak)))
    unmeasured_ns = row.held_ns - row.measured_ns
    if row.coverage is not None and row.coverage < 0.9 and unmeasured_ns > 1_000_000_000:
        lines.append(_line("Measured", f"{percent_text(row.coverage)} of the time held"))
    return lines


def _cpu_text(row: Efficiency) -> str:
    used = row.used_seconds.get("cpu")
    if used is None:
        return "not measured"
    text = f"{used / 1000:.2f} core-seconds"
    measured = row.measured_base_ns.get("cpu")
    if not measured:
        return f"{text}, none granted" if row.allocations else text
    return (
        f"{used / 1000:.2f} of {measured / 1e12:.2f} core-seconds,"
        f" {percent_text(row.efficiency['cpu'])}"
    )


def _bytes_line(row: Efficiency, resource: str, group_peak: int | None) -> str:
    peak = row.peak.get(resource)
    if peak is None:
        return "not measured"
    text = f"peak {bytes_text(peak)}"
    share = row.peak_efficiency.get(resource)
    if share:
        text += f" of {bytes_text(round(peak / share))}, {percent_text(share)}"
    how = row.bases.get(resource)
    details = [] if how is None else [how.upper() if how in ("pss", "rss") else how]
    if resource == "memory" and group_peak is not None and how != "cgroup":
        details.append(f"with page cache {bytes_text(group_peak)}")
    return f"{text} ({'; '.join(details)})" if details else text
