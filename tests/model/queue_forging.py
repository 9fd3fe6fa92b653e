"""Logs that were changed on purpose, as a fault of the rules would have, for the tests of the judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ledger.events import Allocated, Event, Queued
from ledger.requests import Placement
from tests.model.queue_judge import Judge
from tests.model.queue_wrong import Wrong
from tests.scenario import SECOND, Scenario

LONG = 10**6


def box(nodes: int = 1, **policy: Any) -> Scenario:
    s = Scenario()
    capacity: dict[str, Any] = {f"n{i + 1}": {"cpu": 8} for i in range(nodes)}
    s.pool(policy=dict(policy), **capacity)
    return s


def numbered(events: list[Event]) -> list[Event]:
    """The events with positions without gaps, all names kept."""
    return [replace(event, position=number + 1) for number, event in enumerate(events)]


def rejected(events: list[Event], why: str) -> None:
    """The judge finds fault with a log, for this reason."""
    with pytest.raises(Wrong, match=why):
        Judge().all(numbered(events))


def accepted(s: Scenario) -> list[Event]:
    """The log as it is, which the judge accepts."""
    Judge().all(s.events)
    return list(s.events)


def without(events: list[Event], gone: Callable[[Event], bool]) -> list[Event]:
    return [event for event in events if not gone(event)]


def changed(events: list[Event], index: int, **fields: Any) -> list[Event]:
    """The log with other fields in the body of one event."""
    found = list(events)
    body: Any = found[index].body
    found[index] = replace(found[index], body=replace(body, **fields))
    return found


def last(events: list[Event], kind: type[Any]) -> int:
    return max(i for i, event in enumerate(events) if isinstance(event.body, kind))


def swapped(events: list[Event], granted: str, instead: Event) -> list[Event]:
    """The log in which not ``granted`` but another waiting request of the same size was served."""
    (index,) = [
        i
        for i, event in enumerate(events)
        if event.allocation == granted and isinstance(event.body, Allocated)
    ]
    old, asked = events[index].body, instead.body
    assert isinstance(old, Allocated) and isinstance(asked, Queued)
    found = list(events)
    found[index] = replace(
        events[index],
        allocation=instead.allocation,
        tenant=instead.tenant,
        holder=instead.holder,
        body=replace(old, request=asked.request, queued_at=instead.at),
    )
    return found


def grant_of(events: list[Event], in_use: int) -> Event:
    """One more small grant, as a fault would write it."""
    like = next(e for e in reversed(events) if isinstance(e.body, Allocated))
    assert isinstance(like.body, Allocated)
    part = Placement("n1", {"cpu": 1}, {"cpu": in_use})
    at = events[-1].at + SECOND
    position = len(events) + 1
    body = replace(like.body, placements=(part,))
    return replace(
        like, position=position, at=at, recorded_at=at, allocation=f"A{position}", body=body
    )


def forged(events: list[Event], like: Event, body: Any, **envelope: Any) -> list[Event]:
    """The log with one more event of the ledger's own about whom ``like`` is about."""
    at = events[-1].at + SECOND
    about = {"at": at, "recorded_at": at, "cause": None, **envelope}
    return [*events, replace(like, body=body, **about)]


def times_swapped(events: list[Event], one: int, other: int) -> list[Event]:
    """The log in which two things happened the other way round."""
    found = list(events)
    for here, there in ((one, other), (other, one)):
        at = events[there]
        found[there] = replace(events[here], at=at.at, recorded_at=at.recorded_at)
    return found
