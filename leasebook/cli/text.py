"""Answers for people: short lines and plain tables, made from the JSON documents of the contract.

So a person and a program are told the same. Times are shown in the reader's own zone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]

BLOCKERS_SHOWN = 3


def amounts_text(amounts: Mapping[str, str]) -> str:
    """``cpu=2 memory=4Gi``."""
    return " ".join(f"{resource}={amount}" for resource, amount in amounts.items())


def seconds_of(moment: str) -> float:
    """An RFC 3339 time of ours as seconds since 1970."""
    from datetime import datetime

    return datetime.fromisoformat(moment).timestamp()


def clock_text(moment: str) -> str:
    """A time in the reader's zone, with the date unless it is today's: ``12:30:05``."""
    then = time.localtime(seconds_of(moment))
    today = then[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", then)


def span_text(seconds: float) -> str:
    """A duration, roughly: ``45 s``, ``15 min``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < 10 and seconds != int(seconds):
        return f"{max(0.0, seconds):.2g} s"
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def bound_text(a: Json) -> str:
    """What bounds an allocation: its lease, its process, or the time it may wait."""
    expires = a["expires_at"]
    if a["state"] == "ended":
        return f"ended {clock_text(a['ended_at'])} ({a['ended_by']})"
    if expires is not None:
        left = span_text(seconds_of(expires) - time.time())
        what = {"waiting": "waits until", "reserved": "to be confirmed by"}.get(a["state"], "until")
        return f"{what} {clock_text(expires)} ({left})"
    process = a.get("process")
    if process is not None:
        return f"as long as process {process['pid']} lives"
    return str(a["state"])


def place_text(a: Json) -> str:
    """Where it stands: nodes, and cards where it has some."""
    parts = []
    for placed in a["placements"]:
        cards = [
            f"{resource} {','.join(shares)}"
            for resource, shares in (placed.get("devices") or {}).items()
        ]
        parts.append(placed["node"] + (f" ({'; '.join(cards)})" if cards else ""))
    return ", ".join(parts)


def allocation_text(a: Json) -> str:
    """One allocation on one line: ``A17  cpu=2 memory=4Gi on box, until 12:30:05 (15 min)``."""
    what = amounts_text(a["amounts"])
    place = place_text(a)
    where = f"on {place}" if place else f"of {a['pool']}"
    if place and place.partition(" ")[0] != a["pool"]:
        where += f" of {a['pool']}"
    state = "" if a["state"] in ("active", "waiting", "ended") else f" [{a['state']}]"
    return f"{a['id']}  {what} {where}, {bound_text(a)}{state}"


def waiting_text(result: Json) -> str:
    """A request that waits, on one line."""
    ahead = result["ahead"]
    before = "nobody is ahead" if not ahead else f"{ahead} ahead"
    eta = result["eta_s"]
    soon = "" if eta is None else f"; in about {span_text(eta)}, going by {result['eta_basis']}"
    short = _short_text(result["shortfall"])
    return f"{allocation_text(result['allocation'])}; {before}{short}{soon}"


def _short_text(shortfall: Mapping[str, Mapping[str, str]]) -> str:
    return "".join(f"; short by {amounts_text(s)} on {node}" for node, s in shortfall.items() if s)


def refusal_text(result: Json, *, hint: bool = True) -> str:
    """A refusal on one line: why, short by what, who is in the way, what fits now, what to do."""
    name = f" [{result['id']}]" if result.get("id") else ""
    line = f"refused ({result['reason']}){name}: {result['message']}"
    line += _short_text(result.get("shortfall") or {})
    blockers: Sequence[Json] = result.get("blockers") or ()
    line += "".join(f"; {_blocker_text(b)}" for b in blockers[:BLOCKERS_SHOWN])
    if len(blockers) > BLOCKERS_SHOWN:
        line += f"; {len(blockers) - BLOCKERS_SHOWN} more in the way"
    if result.get("fits_now"):
        line += f"; {amounts_text(result['fits_now'])} fits now"
    return line + (f"; {result['hint']}" if hint and result.get("hint") else "")


def _blocker_text(blocker: Json) -> str:
    nodes = blocker.get("nodes") or ()
    kept = f", and {', '.join(nodes[:BLOCKERS_SHOWN])} is kept for it" if nodes else ""
    if "allocation" not in blocker:
        does = "waits for" if blocker.get("state") == "waiting" else "holds"
        return f"another tenant {does} {amounts_text(blocker['amounts'])}"
    task = f" for {blocker['task']}" if blocker.get("task") else ""
    until = f" until {clock_text(blocker['expires_at'])}" if blocker.get("expires_at") else ""
    who = f"{blocker['holder']} ({blocker['allocation']}{task})"
    if blocker.get("state") == "waiting":
        return f"{who} waits for {amounts_text(blocker['amounts'])}{kept}"
    return f"{who} holds {amounts_text(blocker['amounts'])}{until}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows under a head, columns aligned, without trailing spaces."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def _cell(value: Any) -> str:
    return "-" if value is None or value == "" else str(value)


def facts_text(facts: Iterable[tuple[str, Any]]) -> str:
    """Names and values, one per line, aligned; what is None is left out."""
    known = [(name, str(value)) for name, value in facts if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in known)


def steps_text(steps: Iterable[Json]) -> str:
    """A story's steps, one per line: when, at which position, what."""
    return "\n".join(
        f"  {clock_text(step['at'])}  #{step['position']}  {step['text']}" for step in steps
    )
