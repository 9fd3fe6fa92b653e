"""A pool's policy: what steers decisions beside capacity, put into the book by events."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

ORDERS = ("fifo",)
STRATEGIES = ("first_fit", "best_fit")


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings of one pool.

    ``order`` is the queue's, ``strategy`` the placement used where a request names none,
    ``queue_limit`` the most requests that may wait, ``max_age_ns`` the longest that any allocation
    bound by a ttl may be held however often it is renewed (None: no limit), ``max_priority`` the
    highest priority anyone may ask for.
    """

    order: str = "fifo"
    strategy: str = "first_fit"
    queue_limit: int = 10_000
    max_age_ns: int | None = None
    max_priority: str = "critical"

    def changed(self, settings: dict[str, Any]) -> Policy:
        """This policy with some settings replaced. Unknown names are ignored: see :func:`check`."""
        return replace(self, **{k: v for k, v in settings.items() if k in SETTINGS})


SETTINGS = frozenset(f.name for f in fields(Policy))


def complaint(settings: dict[str, Any]) -> str | None:
    """What is wrong with these settings, in one line, or None."""
    from ledger.requests import PRIORITIES

    for name, value in settings.items():
        if name not in SETTINGS:
            return f"there is no policy setting {name!r}; there are {', '.join(sorted(SETTINGS))}"
        choices = {"order": ORDERS, "strategy": STRATEGIES, "max_priority": PRIORITIES}.get(name)
        if choices is not None and value not in choices:
            return f"policy {name} cannot be {value!r}; choose one of {', '.join(choices)}"
        if name == "queue_limit" and not (type(value) is int and 0 <= value <= 1_000_000):
            return f"policy queue_limit must be a whole number from 0 to 1000000, not {value!r}"
        if name == "max_age_ns" and not (value is None or (type(value) is int and value > 0)):
            return f"policy max_age_ns must be a positive number of nanoseconds, not {value!r}"
    return None
