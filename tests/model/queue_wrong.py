"""How the judge of the queue says that something may not be."""

from __future__ import annotations

from ledger.events import Event


class Wrong(AssertionError):
    """An event, or what is so after a step, that the rules do not allow."""


def wrong_unless(fine: bool, event: Event | None, why: str) -> None:
    """Raise :class:`Wrong` about an event unless all is fine."""
    if not fine:
        about = "at the start" if event is None else f"{event.position} {event.type}"
        whom = "" if event is None or event.allocation is None else f" of {event.allocation}"
        raise Wrong(f"{about}{whom}: {why}")
