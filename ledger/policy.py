"""A pool's policy: what steers decisions beside capacity, put into the book by events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from ledger.requests import PRIORITIES

ORDERS = ("fair", "fifo")
STRATEGIES = (
    "first_fit",
    "best_fit",
    "worst_fit",
    "random",
    "fragmentation_aware",
    "adaptive",
    "frontier",
)
PREEMPTIONS = ("never", "lower_priority")
DUPLICATES = ("allow", "report", "refuse", "answer")
REFILLS = ("reset", "add")
PROBES = ("none", "host", "ports")
MINUTE_NS = 60 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings of one pool.

    Queue: ``order``; ``queue_limit``, the most requests that may wait; ``ageing_ns``, the wait that is
    worth one priority; ``overtakes_max`` and ``claim_after_ns``, after which a waiting request claims
    a node; ``backfill_depth``, how many waiting requests one pass looks at.
    Placing: ``strategy`` where a request names none; ``rollout_strategy`` for ``rollout_permille`` of
    the requests, chosen by their digest.
    Tenure: ``max_age_ns``, the longest that an allocation bound by a ttl is held however often it is
    renewed (None: no limit); ``max_priority``; ``preemption`` and ``grace_ns``; ``duplicates``, what
    happens to a second live request of the same holder, task and need.
    Unmanaged use: ``probe`` says what is looked at on ``probe_host`` to find what others use there
    outside the ledger.
    Budgets (consumable pools): ``refill`` every ``refill_every_ns`` since ``refill_from`` (None: since
    the pool was opened); ``refill_amounts`` is what ``add`` adds.
    """

    order: str = "fair"
    queue_limit: int = 10_000
    ageing_ns: int = 5 * MINUTE_NS
    overtakes_max: int = 8
    claim_after_ns: int = 10 * MINUTE_NS
    backfill_depth: int = 500
    strategy: str = "first_fit"
    rollout_strategy: str | None = None
    rollout_permille: int = 0
    max_age_ns: int | None = None
    max_priority: str = "critical"
    preemption: str = "never"
    grace_ns: int = 30_000_000_000
    duplicates: str = "allow"
    probe: str = "none"
    probe_host: str | None = None
    refill: str | None = None
    refill_every_ns: int | None = None
    refill_from: int | None = None
    refill_amounts: dict[str, int] | None = None

    def changed(self, settings: dict[str, Any]) -> Policy:
        """This policy with some settings replaced. Unknown names are ignored: see :func:`complaint`."""
        return replace(self, **{k: v for k, v in settings.items() if k in SETTINGS})


SETTINGS = frozenset(f.name for f in fields(Policy))

_CHOICES: dict[str, tuple[Any, ...]] = {
    "order": ORDERS,
    "strategy": STRATEGIES,
    "rollout_strategy": (*STRATEGIES, None),
    "max_priority": PRIORITIES,
    "preemption": PREEMPTIONS,
    "duplicates": DUPLICATES,
    "probe": PROBES,
    "refill": (*REFILLS, None),
}
_RANGES: dict[str, tuple[int, int]] = {
    "queue_limit": (0, 1_000_000),
    "ageing_ns": (1, 2**62),
    "overtakes_max": (0, 10_000),
    "claim_after_ns": (0, 2**62),
    "backfill_depth": (1, 100_000),
    "rollout_permille": (0, 1000),
    "grace_ns": (0, 86_400 * 1_000_000_000),
}
_OPTIONAL: dict[str, tuple[int, int]] = {
    "max_age_ns": (1, 2**62),
    "refill_every_ns": (1_000_000, 2**62),
    "refill_from": (0, 2**62),
}


def _number(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def complaint(settings: dict[str, Any], present: Policy | None = None) -> str | None:
    """What is wrong with these settings on top of ``present``, in one line, or None."""
    for name, value in settings.items():
        if name not in SETTINGS:
            return f"there is no policy setting {name!r}; there are {', '.join(sorted(SETTINGS))}"
        if name in _CHOICES and value not in _CHOICES[name]:
            shown = ", ".join(str(choice) for choice in _CHOICES[name])
            return f"policy {name} cannot be {value!r}; choose one of {shown}"
        bounds = _RANGES.get(name) or (_OPTIONAL.get(name) if value is not None else None)
        if bounds is not None and not _number(*bounds)(value):
            return (
                f"policy {name} takes a whole number from {bounds[0]} to {bounds[1]}, not {value!r}"
            )
        if name == "refill_amounts" and value is not None and not _amounts(value):
            return f"policy refill_amounts takes positive whole amounts, not {value!r}"
    return _contradiction((present or Policy()).changed(settings))


def _amounts(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(type(v) is int and 0 < v < 2**63 for v in value.values())
    )


def _contradiction(policy: Policy) -> str | None:
    if policy.rollout_permille and policy.rollout_strategy is None:
        return "policy rollout_permille needs a rollout_strategy to send requests through"
    if (policy.refill is None) != (policy.refill_every_ns is None):
        return "policy refill and refill_every_ns go together: how it is refilled, and how often"
    if policy.probe != "none" and policy.probe_host is None:
        return "policy probe needs a probe_host: the machine that is looked at"
    if policy.refill == "add" and policy.refill_amounts is None:
        return "policy refill 'add' needs refill_amounts: how much is added each time"
    return None
