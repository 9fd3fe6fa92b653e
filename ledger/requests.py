"""What is asked for and where it lands: the values that commands, events and the book share.

Amounts are dicts from resource to whole base units (see :mod:`ledger.amounts`). They are never
changed once they stand in one of these values.
"""

from __future__ import annotations

from ledger.amounts import CARD_RESOURCES
from ledger.identity import ProcessIdentity
from ledger.quick import dataclass

__all__ = [
    "CARD",
    "CARD_RESOURCES",
    "DEFAULT_PRIORITY",
    "PRIORITIES",
    "Amounts",
    "Devices",
    "NodeSpec",
    "Placement",
    "Request",
]

Amounts = dict[str, int]
Devices = dict[str, dict[str, int]]
"""Resource → card index (as text) → base units on that card."""

PRIORITIES = ("low", "normal", "high", "critical")
DEFAULT_PRIORITY = "normal"
CARD = 1000
"""Base units of one whole card."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, complete enough to be decided again.

    ``amounts`` is the least that will do; ``most`` (same keys) the most that is welcome, None where
    the two agree. ``select`` maps label to wanted value. ``strategy`` None leaves the choice to the
    pool's policy. A request is bound by ``ttl_ns`` or by ``process``, never by both. ``wait_ns`` is
    how long a place in the queue is kept: None does not wait. ``spread`` is a number of nodes.
    ``reserve_ns`` asks for a reservation to be confirmed within that time. ``parent`` is the
    allocation whose capacity this one draws on.
    """

    amounts: Amounts
    most: Amounts | None = None
    select: dict[str, str] | None = None
    priority: str = DEFAULT_PRIORITY
    strategy: str | None = None
    ttl_ns: int | None = None
    process: ProcessIdentity | None = None
    max_age_ns: int | None = None
    wait_ns: int | None = None
    spread: int | None = None
    sticky: str | None = None
    reserve_ns: int | None = None
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """A share of an allocation on one node.

    ``in_use`` is what the node has in use after this placement, for the resources placed: a fold
    that arrives at another number knows at once that it has parted from the record.
    """

    node: str
    amounts: Amounts
    in_use: Amounts
    devices: Devices | None = None


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node as it is announced: its name, capacity and labels.

    Card resources are announced in whole cards (a multiple of :data:`CARD`); the cards are numbered
    from 0.
    """

    name: str
    capacity: Amounts
    labels: dict[str, str] | None = None
