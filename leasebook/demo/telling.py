"""What the demo says: a line for each event as it comes, and tables at the end.

Every figure is read from the ledger's log; a program (``--json``) and a person are told the same.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from leasebook.cli.text import amounts_text, span_text, table
from leasebook.mapping import allocation_out
from leasebook.when import rfc3339
from ledger.amounts import format_amounts
from ledger.book import Allocation
from ledger.events import Event, Expired, HolderSeen, PoolOpened, Reclaimed, Refused, UsageRecorded
from projections.stories import sentence, story_of_refusal
from reports.efficiency import Efficiency, efficiency_by

if TYPE_CHECKING:
    from leasebook.manager import ResourceManager

Json = dict[str, Any]

ENDS: Final = ("released", "expired", "reclaimed")


def moment(at_ns: int) -> str:
    """A time in the reader's zone, to the millisecond: ``12:30:05.123``."""
    return (
        time.strftime("%H:%M:%S", time.localtime(at_ns // 10**9)) + f".{at_ns // 10**6 % 1000:03}"
    )


class Telling:
    """Says what happens, line by line, on one stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def event(self, event: Event) -> None:
        """One event of the log. What was used is left to the tables: there is too much of it."""
        if isinstance(event.body, UsageRecorded):
            return
        holder = event.holder or ""
        text = in_words(event).removeprefix(f"{holder} ")
        place = f"#{event.position}"
        self._say(f"{moment(event.at)}  {place:<6} {event.allocation or '':<5} {holder:<10} {text}")

    def note(self, text: str) -> None:
        """Something that was done to the fleet, or is known about it."""
        self._say(f"{moment(time.time_ns())}  {'':<6} {'':<5} {'':<10} {text}")

    def still(self, manager: ResourceManager, pool: str) -> None:
        """How things stand, where nothing has happened for a while."""
        there = manager.pool(pool)["base_units"]
        shares = [
            f"{amount / there['capacity'][resource]:.0%} of {resource}"
            for resource, amount in there["in_use"].items()
            if there["capacity"][resource]
        ]
        by_state: dict[str, list[str]] = {}
        for handle in manager.list(pool=pool):
            by_state.setdefault(handle.state, []).append(handle.holder)
        names = [f"{state}: {', '.join(holders)}" for state, holders in by_state.items()]
        self.note(
            "; ".join([*(names or ["nobody holds anything"]), f"in use: {', '.join(shares)}"])
        )

    def plain(self, text: str) -> None:
        """A line or table without a time."""
        self._say(text)

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def in_words(event: Event) -> str:
    """One event as a short sentence."""
    body = event.body
    match body:
        case PoolOpened():
            sizes = "; ".join(amounts_text(format_amounts(n.capacity)) for n in body.nodes)
            return f"pool {event.pool} was opened: {sizes} ({body.basis})"
        case HolderSeen():
            return f"is process {body.process.pid} and has opened the ledger"
        case Expired():
            return f"its lease ended at {moment(body.lease_until)} and was not renewed"
        case Reclaimed():
            return f"{body.by} took it back: {body.cause}; {evidence_text(body)}"
        case Refused():
            return f"{body.verb} was refused ({body.reason}): {body.message}"
        case _:
            return sentence(event)


def evidence_text(body: Reclaimed) -> str:
    """What was seen of the holder's process, as the record has it."""
    seen = body.evidence
    if "pid" not in seen:
        return body.reason
    return f"{seen['detail']} (started at {seen['start_time']}, seen on {seen['host']})"


def place_of(manager: ResourceManager) -> Path:
    """Where the ledger lies, from wherever it is looked for."""
    assert manager.ledger.path is not None
    return manager.ledger.path.absolute()


# --- the end -------------------------------------------------------------------------------------


def facts(manager: ResourceManager, pool: str, after: int) -> Json:
    """All that the closing tables show, JSON-ready, read from the ledger's log anew."""
    events = list(manager.events(after=after, pool=pool))
    names = dict.fromkeys(e.allocation for e in events if e.allocation is not None)
    now = manager.ledger.writer.read(lambda book, now: now)
    return {
        "ledger": str(place_of(manager)),
        "pool": manager.pool(pool),
        "allocations": [_held(manager, name, events) for name in names],
        "efficiency": [_row(row) for row in efficiency_by(events, "task", now=now)],
        "taken_back": [_taken_back(event, events) for event in events if _was_taken_back(event)],
        "refused": [_refused(event) for event in events if event.type == "refused"],
        "verify": manager.verify().as_json(),
        "commands": commands(manager, pool, events),
    }


def _row(row: Efficiency) -> Json:
    """A row of the efficiency report, with what its efficiency is made of."""
    return row.to_json() | {
        "counted_seconds": dict(row.counted_seconds),
        "measured_seconds": row.measured_seconds,
        "peak_base_units": dict(row.peak),
        "bases": dict(row.bases),
    }


def _held(manager: ResourceManager, name: str, events: Sequence[Event]) -> Json:
    """One allocation as the contract shows it, with how long it waited, and for what, and held."""
    allocation = manager.story(name).allocation
    assert allocation is not None
    granted_at, ended_at = allocation.granted_at, allocation.ended_at
    assert granted_at is not None
    assert ended_at is not None
    return allocation_out(allocation) | {
        "wait_s": (granted_at - allocation.requested_at) / 1e9,
        "granted_after": _freed_by(allocation, events),
        "held_s": (ended_at - granted_at) / 1e9,
    }


def _freed_by(allocation: Allocation, events: Sequence[Event]) -> Json | None:
    """What ended last in the commit in which a request was granted; None if it was not waited for."""
    grant = next(e for e in events if e.allocation == allocation.id and e.type == "allocated")
    ends = [
        event
        for event in events
        if event.type in ENDS
        and event.recorded_at == grant.recorded_at
        and event.position < grant.position
    ]
    if grant.position == allocation.position or not ends:
        return None
    return {
        "position": ends[-1].position,
        "type": ends[-1].type,
        "allocation": ends[-1].allocation,
        "holder": ends[-1].holder,
    }


def _was_taken_back(event: Event) -> bool:
    return event.type in ("expired", "reclaimed")


def _taken_back(event: Event, events: Sequence[Event]) -> Json:
    """One ending that was not its holder's doing: the cause, the evidence, and who was told no."""
    body = event.body
    row: Json = {
        "allocation": event.allocation,
        "holder": event.holder,
        "position": event.position,
        "ended_by": "expired",
        "at": rfc3339(event.at),
        "recorded_at": rfc3339(event.recorded_at),
        "why": in_words(event),
        "evidence": {},
    }
    if isinstance(body, Reclaimed):
        row |= {"ended_by": body.cause, "why": evidence_text(body), "evidence": body.evidence}
    later = [e for e in events if e.type == "refused" and e.allocation == event.allocation]
    return row | {"refused_later": [f"R{e.position}" for e in later]}


def _refused(event: Event) -> Json:
    """One refusal: of whom, why, short by how much, who was in the way."""
    story = story_of_refusal(event)
    return {"id": story.subject, "holder": event.holder, "answer": story.answer, **story.facts}


def tables(found: Json) -> str:
    """The closing tables for a person."""
    verified = found["verify"]
    proof = (
        f"{verified['events']} events, every hash and link as it was written, head"
        f" {verified['head'][:16]}"
        if verified["ok"]
        else f"the log is damaged at position {verified['first_bad']}: {verified['reason']}"
    )
    parts = [
        ("Who held what", _who_held_what(found["allocations"])),
        ("Measured efficiency per task", _efficiency_table(found["efficiency"])),
        ("Taken back, and why", _taken_back_table(found["taken_back"])),
        ("Refused", "\n".join(f"{r['id']} {r['holder']}: {r['answer']}" for r in found["refused"])),
        ("Verify passed" if verified["ok"] else "Verify FAILED", proof),
        ("The ledger", found["ledger"]),
        ("To look around", "\n".join(found["commands"])),
    ]
    return "\n\n".join(f"{head}\n{_indented(text)}" for head, text in parts)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _who_held_what(rows: Iterable[Json]) -> str:
    head = ("HOLDER", "ID", "AMOUNTS", "WAITED", "UNTIL", "HELD", "ENDED BY")
    return table(
        head,
        (
            (
                row["holder"],
                row["id"],
                amounts_text(row["amounts"]),
                span_text(row["wait_s"]) if row["wait_s"] else None,
                _after_text(row["granted_after"]),
                span_text(row["held_s"]),
                row["ended_by"],
            )
            for row in rows
        ),
    )


def _efficiency_table(rows: Iterable[Json]) -> str:
    head = (
        "TASK",
        "CPU USED",
        "EFFICIENCY",
        "MEMORY PEAK",
        "EFFICIENCY",
        "MEASURED",
        "AFTER ITS END",
        "WOULD HAVE DONE",
    )
    return table(head, (_efficiency_row(row) for row in rows))


def _efficiency_row(row: Json) -> tuple[str | None, ...]:
    counted, granted = row["counted_seconds"].get("cpu"), row["measured_seconds"].get("cpu")
    after = row["used_seconds"].get("cpu", 0) - (counted or 0)
    measured = (
        None if row["coverage"] is None else f"{row['coverage']:.0%} of {row['held_s']:.1f} s"
    )
    peak = row["peak_base_units"].get("memory")
    return (
        row["task"],
        None if counted is None or granted is None else f"{_core_s(counted)} of {_core_s(granted)}",
        _percent(row["efficiency"].get("cpu")),
        None if peak is None else f"{peak / 2**20:.1f} MiB ({row['bases']['memory']})",
        _percent(row["peak_efficiency"].get("memory")),
        measured,
        _core_s(after) if after else None,
        amounts_text(row["suggestion"]),
    )


def _core_s(amount: int) -> str:
    """Thousandths of a core × seconds as core-seconds."""
    return f"{amount / 1000:.2f} core-s"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.0%}"


def _after_text(after: Json | None) -> str | None:
    return None if after is None else f"{after['holder']} {after['type']}, #{after['position']}"


def _taken_back_table(rows: Iterable[Json]) -> str:
    head = ("ID", "HOLDER", "ENDED BY", "WHY")
    lines = []
    for row in rows:
        why = row["why"]
        for refusal in row["refused_later"]:
            why += f"; what it asked later was refused ({refusal})"
        lines.append((row["allocation"], row["holder"], row["ended_by"], why))
    return table(head, lines)


def commands(manager: ResourceManager, pool: str, events: Sequence[Event]) -> list[str]:
    """Three commands that show more, ready to be pasted."""
    taken = next(event for event in events if event.type == "reclaimed")
    ledger = ["--ledger", str(place_of(manager))]
    return [
        shlex.join([*program(), *words, *ledger])
        for words in (["why", str(taken.allocation)], ["events", "--pool", pool], ["verify"])
    ]


def program() -> list[str]:
    """How this very installation of Leasebook is called from a shell."""
    beside = Path(sys.executable).parent / "leasebook"
    on_path = shutil.which("leasebook")
    if on_path is not None and Path(on_path) == beside:
        return ["leasebook"]
    if beside.is_file():
        return [str(beside)]
    return [sys.executable, "-m", "leasebook"]
