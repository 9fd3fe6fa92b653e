"""What the queue's machine draws from: small pools and short times, so that everything collides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ledger.identity import ProcessIdentity
from ledger.policy import STRATEGIES
from ledger.requests import PRIORITIES, Amounts, NodeSpec, Request
from tests.model.queue_state import Entry

PROCESS = ProcessIdentity("host", 100, 7, "boot", "4026531836")
NODES = ("n1", "n2", "n3", "n4")
TENANTS = ("ann", "bob", "cid")
MS = 1_000_000
EVER = 10**9 * MS

tenants = st.sampled_from(("ann", "ann", "bob", "cid"))
holders = st.sampled_from(("h1", "h1", "h2"))


def _ms(*numbers: int) -> SearchStrategy[int]:
    return st.sampled_from([number * MS for number in numbers])


steps = _ms(1, 1, 1, 2, 4, 9)
durations = _ms(100, 400, 40, 300, 15)
waits = _ms(60, 200, 500, 25, 8)
priorities = st.sampled_from(("normal",) * 3 + PRIORITIES)
numbers = st.integers(0, 63)
strategies = st.sampled_from(STRATEGIES)


@st.composite
def nodes(draw: st.DrawFn) -> tuple[NodeSpec, ...]:
    """One node to four, some with memory, cards and labels."""
    found = []
    for name in NODES[: draw(st.sampled_from((1, 2, 2, 3, 4)))]:
        capacity = {"cpu": draw(st.sampled_from((4, 2, 3, 6)))}
        if memory := draw(st.sampled_from((0, 4, 6))):
            capacity["memory"] = memory
        if cards := draw(st.sampled_from((0, 0, 1, 2))):
            capacity["gpu"] = cards * 1000
        zone = draw(st.sampled_from((None, "a", "b")))
        found.append(NodeSpec(name, capacity, None if zone is None else {"zone": zone}))
    return tuple(found)


rollouts = st.fixed_dictionaries(
    {
        "rollout_strategy": strategies,
        "rollout_permille": st.sampled_from((500, 300, 700, 1000, 0, 1)),
    }
)
no_rollout = st.just({"rollout_strategy": None, "rollout_permille": 0})
_policies = st.fixed_dictionaries(
    {
        "order": st.sampled_from(("fair", "fair", "fair", "fifo")),
        "ageing_ns": st.sampled_from((EVER, 10 * MS, 40 * MS)),
        "overtakes_max": st.sampled_from((2, 1, 3, 0, 8)),
        "claim_after_ns": st.sampled_from((EVER, 30 * MS, 100 * MS, 10 * MS)),
        "preemption": st.sampled_from(("never", "lower_priority")),
    },
    optional={
        "backfill_depth": st.sampled_from((500, 500, 2)),
        "grace_ns": _ms(5, 0, 20),
        "max_age_ns": st.sampled_from((None, 60 * MS)),
        "max_priority": st.sampled_from(("critical", "critical", "high")),
        "strategy": strategies,
    },
)
policies = st.builds(
    lambda policy, rollout: {**policy, **rollout},
    _policies,
    st.one_of(st.just({}), st.just({}), rollouts),
)
duplicates = st.sampled_from(("allow", "allow", "report", "refuse", "answer"))


@st.composite
def amounts(draw: st.DrawFn, specs: tuple[NodeSpec, ...] = ()) -> Amounts:
    """Of one resource or several; mostly what one of the nodes could take."""
    capacity = draw(st.sampled_from(specs)).capacity if specs else {"cpu": 6, "memory": 6}
    names = sorted(capacity)
    names = ["cpu", *names] if "cpu" in names else names
    which = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    found = {}
    for name in which:
        if name == "gpu":
            found[name] = draw(st.sampled_from((1000, 500, 300, capacity[name])))
        else:
            found[name] = draw(st.integers(1, max(1, capacity[name])))
    if draw(st.integers(0, 29)) == 29:
        found["cpu"] = 7
    return found


KINDS = ("plain",) * 5 + ("elastic", "elastic", "spread", "sticky")


@st.composite
def requests(
    draw: st.DrawFn, specs: tuple[NodeSpec, ...], kinds: tuple[str, ...] = KINDS
) -> Request:
    """A request, plain or elastic or spread, that waits or does not."""
    need = draw(amounts(specs))
    kind = draw(st.sampled_from(kinds))
    most, spread = None, None
    if kind == "elastic":
        more = draw(st.integers(1, 4))
        most = {
            r: a if r == "gpu" and a < 1000 else a + more * (1000 if r == "gpu" else 1)
            for r, a in need.items()
        }
    elif kind == "spread" and len(specs) > 1:
        spread = draw(st.sampled_from((2, 2, min(3, len(specs)), 0)))
        need = {"cpu": draw(st.integers(max(2, spread), 2 * len(specs)))}
    by_process = draw(st.sampled_from((False, False, False, True)))
    return Request(
        need,
        most=most,
        select=draw(st.sampled_from((None,) * 9 + ({"zone": "a"}, {"zone": "b"}))),
        priority=draw(priorities),
        strategy=draw(st.one_of(st.none(), st.none(), st.none(), strategies)),
        ttl_ns=None if by_process else draw(durations),
        process=PROCESS if by_process else None,
        max_age_ns=draw(st.sampled_from((None, None, None, 80 * MS))),
        wait_ns=draw(st.one_of(waits, waits, waits, st.none())),
        spread=spread,
        sticky="key" if kind == "sticky" else None,
        reserve_ns=draw(st.sampled_from((None,) * 6 + (5 * MS, 30 * MS))),
    )


@st.composite
def requests_of(draw: st.DrawFn, parent: Entry) -> Request:
    """A request for a part of what an allocation has, now and then for a little more than that."""
    there = tuple(
        NodeSpec(part.node, {r: a for r, a in part.amounts.items() if a})
        for part in parent.placements
    )
    kinds = ("plain", "elastic", "elastic", "spread", "sticky")
    request = draw(requests(there, kinds))
    ttl = None if request.ttl_ns is None else draw(_ms(400, 400, 100, 40))
    return replace(request, parent=parent.id, select=None, ttl_ns=ttl)


@st.composite
def gangs(draw: st.DrawFn, specs: tuple[NodeSpec, ...]) -> tuple[Request, ...]:
    """Requests to be granted all at once or not at all. They have one priority."""
    priority, wait = draw(priorities), draw(st.one_of(waits, waits, st.none()))
    count = draw(st.integers(2, 3))
    return tuple(
        Request(draw(amounts(specs)), priority=priority, ttl_ns=draw(durations), wait_ns=wait)
        for _ in range(count)
    )


budgets = st.fixed_dictionaries(
    {
        "refill": st.sampled_from(("reset", "add")),
        "refill_every_ns": _ms(20, 50),
        "refill_amounts": st.just({"tokens": 4}),
    }
)
_COUNTS = st.sampled_from((4, 2))
tokens = st.sampled_from((1, 2, 4, 7, 10))


def limits(cohort: str | None) -> SearchStrategy[dict[str, int]]:
    """A quota, or none. Within a cohort all are limited in the same."""
    cpu = st.fixed_dictionaries({"cpu": st.sampled_from((4, 2, 6, 3))})
    if cohort is not None:
        return cpu
    both = st.fixed_dictionaries({"cpu": st.sampled_from((4, 6)), "memory": _COUNTS})
    return st.one_of(st.just({}), cpu, both)


def options(**kinds: Any) -> SearchStrategy[dict[str, Any]]:
    """Some settings of a policy, changed."""
    return st.fixed_dictionaries({}, optional=kinds)


_changes = options(
    order=st.sampled_from(("fair", "fifo")),
    overtakes_max=st.sampled_from((0, 2, 8)),
    claim_after_ns=st.sampled_from((EVER, 20 * MS)),
    preemption=st.sampled_from(("lower_priority", "never")),
    grace_ns=_ms(5, 0),
    ageing_ns=st.sampled_from((EVER, 10 * MS)),
    strategy=strategies,
)
changes = st.one_of(_changes.filter(bool), _changes.filter(bool), rollouts, no_rollout)
