"""How the judge of the queue says that something may not be."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from ledger.events import Event


class Wrong(AssertionError):
    """An event, or what is so after a step, that the rules do not allow."""


def wrong_unless(fine: bool, event: Event | None, why: str) -> None:
    """Raise :class:`Wrong` about an event unless all is fine."""
    if not fine:
        about = "at the start" if event is None else f"{event.position} {event.type}"
        whom = "" if event is None or event.allocation is None else f" of {event.allocation}"
        raise Wrong(f"{about}{whom}: {why}")


def told(value: Any) -> str:
    """A value in few words: of a dataclass only what is not as it is by default."""
    if is_dataclass(value) and not isinstance(value, type):
        shown = [
            f"{each.name}={told(getattr(value, each.name))}"
            for each in fields(value)
            if getattr(value, each.name) not in (None, "", {}, (), each.default)
            and each.name not in ("command_id", "hint", "message", "blockers", "claim", "basis")
        ]
        return f"{type(value).__name__}({', '.join(shown)})"
    if isinstance(value, tuple):
        return f"[{', '.join(told(each) for each in value)}]"
    return str(value)
