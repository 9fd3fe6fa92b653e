"""Mapping: what a replay came to, and how commands of the record are put to what is there instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ledger import commands as c
from ledger.book import Allocation

Ended = Callable[[str], Allocation | None]
"""Recorded allocation id → what the log knows of one that ended before the window."""


@dataclass(slots=True)
class Left:
    """What could not be decided again, or had nothing to be done to any more, counted."""

    unknown: int = 0
    pointless: int = 0
    retries: int = 0
    repeats: int = 0
    guessed: int = 0
    invalid: int = 0


@dataclass(slots=True)
class Replayed:
    """What a replay came to. ``ids``: recorded life → simulated allocation."""

    ids: dict[str, str] = field(default_factory=dict)
    left: Left = field(default_factory=Left)


def on_another(command: c.AnyCommand, name: str, shift: int) -> c.AnyCommand:
    """A command on one allocation, on another one; what it says of times is shifted."""
    if isinstance(command, c.RecordUsage):
        since, until = command.since + shift, command.until + shift
        return replace(command, allocation=name, since=since, until=until)
    if isinstance(command, c.Reclaim) and command.happened_at is not None:
        return replace(command, allocation=name, happened_at=command.happened_at + shift)
    assert isinstance(command, c.Targeted)
    return command if name == command.allocation else replace(command, allocation=name)


def need_of(command: c.Allocate) -> tuple[Any, ...]:
    """What makes a later request the same one asked again."""
    amounts = tuple(sorted(command.request.amounts.items()))
    return command.tenant, command.pool, command.holder, command.task, amounts
