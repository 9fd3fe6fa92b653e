"""Telling a trail: under each allocation, day by day, what happened; at the end what it rests on."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from ledger.book import Allocation
from ledger.events import UsageRecorded
from ledger.times import rfc3339
from projections.wording import (
    amounts_text,
    lasting,
    many,
    moment_text,
    plain,
    some,
    where,
    words,
)
from reports.audit.entries import Entry, Trail

WIDTH = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HEADINGS = {"ledger": "The ledger", "holders": "Holders seen"}
_TIME = len("15:31:02.113")


def headline(trail: Trail) -> str:
    """The trail in one sentence."""
    entries = trail.entries
    subject = trail.asked.subject
    if subject is not None and subject in trail.allocations:
        return f"{subject}: {_summary_in(trail, trail.allocations[subject])}"
    if subject is not None and entries:
        linked = [
            link.text for e in entries for link in e.links if link.relation == "granted_later"
        ]
        row = entries[0].row
        since = linked or [f"{plain(row.holder)} has got nothing of {plain(row.pool)} since"]
        known = "; ".join(since) if row.pool is not None else ""
        return f"{subject}: {entries[0].text}" + (f"; {known}" if known else "")
    if not entries:
        return "nothing that was asked for is in the record"
    refused = sum(e.row.type == "refused" for e in entries)
    held = {e.row.allocation for e in entries if e.row.allocation and e.row.type != "refused"}
    holders = {(e.row.tenant, e.row.holder) for e in entries if e.row.holder is not None}
    about = [many(len(held), "allocation")] if held else []
    about += [many(refused, "refusal")] if refused else []
    about += [f"by {many(len(holders), 'holder')}"] if holders else []
    first, last = min(e.row.at for e in entries), max(e.row.at for e in entries)
    said = many(len(entries), "event") + (f": {', '.join(about)}" if about else "")
    return f"{said}, from {moment_text(first)} to {moment_text(last)} UTC"


def _summary_in(trail: Trail, a: Allocation) -> str:
    return summary_elsewhere(a) if a.pool in trail.observed else summary(a, trail.made_at)


def summary_elsewhere(a: Allocation) -> str:
    """The life of an allocation of an observed pool in one sentence, as far as it was recorded."""
    task = f" for task {plain(a.task)}" if a.task else ""
    what = f"{amounts_text(a.amounts)} of {plain(a.pool)}"
    who = f"{plain(a.holder)}{task}"
    if a.granted_at is None:
        ended = f"; ended: {words(a.ended_by)}" if a.ended_by is not None else ""
        return f"{who} asked for {what} and is not known to have got it{ended}"
    waited = _waited(a.granted_at - a.requested_at)
    if a.ended_at is not None:
        held = f"{who} held {what} for {lasting(a.ended_at - a.granted_at)}{waited}"
        return f"{held}; ended: {words(a.ended_by)}"
    known = a.lease_until
    seen = "" if known is None else f", last known to hold it at {moment_text(known)} UTC"
    since = f"since {moment_text(a.granted_at)} UTC"
    return f"{who} held {what} {since}{waited}{seen}; its end is not recorded"


def summary(a: Allocation, now: int) -> str:
    """An allocation's life in one sentence, as it stands at ``now``."""
    task = f" for task {plain(a.task)}" if a.task else ""
    who = f"{plain(a.holder)}{task}"
    what = f"{amounts_text(a.amounts)} of {plain(a.pool)}"
    over = a.due is not None and a.due <= now and a.state in ("active", "waiting", "reserved")
    until = a.ended_at if a.ended_at is not None else a.due if over else None
    ending = _ending(a, over)
    waited = "" if a.granted_at is None else _waited(a.granted_at - a.requested_at)
    if a.granted_at is None:
        if a.state == "reserved" and not over:
            return f"{what} is reserved for {who} and has not been confirmed"
        long = "" if until is None else f" for {lasting(until - a.requested_at)}"
        verb = "waits" if until is None else "waited"
        return f"{who} {verb}{long} for {what}{ending}"
    place = f" on {where(a.placements)}" if a.placements else ""
    if until is None:
        state = " and was asked to end" if a.state == "ending" else ""
        return f"{who} holds {what}{place} since {moment_text(a.granted_at)} UTC{waited}{state}"
    return f"{who} held {what}{place} for {lasting(until - a.granted_at)}{waited}{ending}"


def _waited(ns: int) -> str:
    return f", after waiting {lasting(ns)}" if ns > 0 else ""


def _ending(a: Allocation, over: bool) -> str:
    if a.ended_by is not None:
        return f"; ended: {words(a.ended_by)}" + ("" if a.enforced else ", but not enforced")
    if over and a.due is not None:
        return f"; its time was over at {moment_text(a.due)} UTC, which is not written down yet"
    return ""


def trail_text(trail: Trail) -> str:
    """The whole trail for a reader, in lines of about :data:`WIDTH` characters. Times are in UTC."""
    lines = [*_wrapped(headline(trail), "", "")]
    asked = ", ".join(
        plain(value) if name == "subject" else f"{name} {plain(value)}"
        for name, value in trail.asked.filters().items()
    )
    lines.append(f"Audit of {asked or 'everything'}. All times are UTC.")
    groups: dict[str, list[Entry]] = {}
    for entry in sorted(trail.entries, key=lambda e: (e.row.at, e.row.position)):
        groups.setdefault(entry.about, []).append(entry)
    for about, entries in groups.items():
        lines += ["", *_wrapped(_heading(about, entries, trail), "", "    ")]
        lines += _policies(entries)
        lines += _days(entries, trail)
    lines += ["", *_rests(trail)]
    return "\n".join(lines)


def _heading(about: str, entries: list[Entry], trail: Trail) -> str:
    state = trail.allocations.get(about)
    if state is not None:
        tenant = f" [tenant {plain(state.tenant)}]" if state.tenant != "default" else ""
        wrong = any(e.row.type == "corrected" or _is_corrected(e) for e in entries)
        corrected = "; some of this was corrected since, see below" if wrong else ""
        return f"{about}  {_summary_in(trail, state)}{corrected}{tenant}"
    row = entries[0].row
    if row.type == "refused" and row.allocation is None:
        of = f", pool {plain(row.pool)}" if row.pool else ""
        whom = "" if row.holder is None else f"  to {plain(row.holder)}"
        return f"Refused{whom}{of}"
    kind, _, name = about.partition(" ")
    if about in _HEADINGS:
        return _HEADINGS[about]
    return f"{kind.capitalize()}  {plain(name)}" if name else plain(about)


def _is_corrected(entry: Entry) -> bool:
    return any(link.relation == "corrected_by" for link in entry.links)


def _policies(entries: list[Entry]) -> Iterator[str]:
    """Under which rules it was decided: where those stand in the log."""
    decided = {(e.row.pool, e.policy) for e in entries if e.policy is not None}
    for pool, position in sorted(decided, key=lambda each: each[1]):
        yield f"  Decided under the policy of pool {plain(pool)} as event {position} left it."


def _days(entries: list[Entry], trail: Trail) -> Iterator[str]:
    """The entries under a heading for each day."""
    present = None
    width = max(len(str(e.row.position)) for e in entries)
    indent = " " * (4 + _TIME + 2 + 1 + width + 2)
    for entry in entries:
        day, _, clock = rfc3339(entry.row.at).partition("T")
        if day != present:
            present = day
            yield f"  {day}, {_weekday(entry.row.at)}" if clock else f"  {day}"
        mark = "" if entry.sound else " [NOT SOUND: see the end]"
        number = f"#{entry.row.position}".ljust(width + 1)
        head = f"    {clock[:_TIME].ljust(_TIME)}  {number}  "
        yield from _wrapped(entry.text + mark, head, indent)
        for said in (*_besides(entry), *_after_its_end(entry, trail)):
            yield from _wrapped(said, indent, indent + "  ")


def _weekday(at: int) -> str:
    return f"{_EPOCH + timedelta(seconds=at // 10**9):%A}"


def _besides(entry: Entry) -> Iterator[str]:
    """What else there is to say of an entry: sentences, the details on one line."""
    if entry.source is not None:
        recorded = f"recorded {moment_text(entry.row.recorded_at)}"
        yield f"It happened elsewhere; {recorded} from {plain(entry.source)}."
    elif entry.late_ns is not None:
        recorded = moment_text(entry.row.recorded_at)
        yield f"This was written down {lasting(entry.late_ns)} later, at {recorded}."
    if entry.details:
        yield ". ".join(entry.details) + "."
    if entry.row.metadata is not None and entry.row.metadata != "{}":
        yield f"Noted with it: {_short(plain(entry.row.metadata))}"
    for link in entry.links:
        if link.text:
            yield f"{link.text}."


def _after_its_end(entry: Entry, trail: Trail) -> Iterator[str]:
    """That something was used after it had ended."""
    state = trail.allocations.get(entry.about)
    body = None if entry.event is None else entry.event.body
    if state is None or state.ended_at is None or not isinstance(body, UsageRecorded):
        return
    over = body.until - max(body.since, state.ended_at)
    if over > 0:
        yield f"{lasting(over)} of this was after it had ended."


def _short(text: str, most: int = 300) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _rests(trail: Trail) -> Iterator[str]:
    rests = trail.rests
    yield "What this rests on"
    of = f"ledger {plain(rests.ledger_id)}" if rests.ledger_id else "a ledger without a name"
    span = f"events {rests.first} to {rests.last}" if rests.first is not None else "no event"
    head = f"whose record ends at event {rests.head}"
    yield from _wrapped(f"{span[:1].upper()}{span[1:]} of {of}, {head},", "  ", "  ")
    yield f"  hash {rests.head_hash.hex()}."
    for said in _checked(trail):
        yield from _wrapped(said, "  ", "    ")


def _checked(trail: Trail) -> Iterator[str]:
    rests = trail.rests
    if rests.unsound:
        which = some(rests.unsound)
        yield (
            f"NOT SOUND: the content or the hash of event {which} is not what was recorded. Run"
            " `leasebook verify`, keep the file as it is, and compare it with a backup."
        )
    elif rests.checked:
        yield (
            f"Checked: {many(rests.checked, 'event')} shown, each agrees with its digest and follows"
            " the hash of the event before it. `leasebook verify` proves the whole record."
        )
    if rests.redacted:
        erased = f"the metadata of {many(len(rests.redacted), 'event')} was erased"
        yield f"Redacted: {erased} ({some(rests.redacted)}); their proof still holds."
    else:
        yield "Nothing of it was redacted."
    if rests.unknown:
        count = many(len(rests.unknown), "event")
        yield (
            f"Not understood: {count} ({some(rests.unknown)}), shown as stored; a newer program"
            " may know what it means."
        )


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    ) or [first.rstrip()]
