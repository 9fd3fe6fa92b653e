"""What the queue's machine draws from: small pools and short times, so that everything collides."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ledger.identity import ProcessIdentity
from ledger.requests import PRIORITIES, Amounts, NodeSpec, Request

PROCESS = ProcessIdentity("host", 100, 7, "boot", "4026531836")
NODES = ("n1", "n2", "n3", "n4")
TENANTS = ("ann", "bob", "cid")
EVER = 10**9

tenants = st.sampled_from(("ann", "ann", "bob", "cid"))
holders = st.sampled_from(("h1", "h1", "h2"))
steps = st.sampled_from((1, 1, 1, 2, 4, 9))
durations = st.sampled_from((100, 40, 15, 300, 6))
waits = st.sampled_from((60, 25, 200, 500, 8))
priorities = st.sampled_from(("normal",) * 4 + PRIORITIES)
numbers = st.integers(0, 63)


@st.composite
def nodes(draw: st.DrawFn) -> tuple[NodeSpec, ...]:
    """One node to four, some with memory, cards and labels."""
    found = []
    for name in NODES[: draw(st.sampled_from((1, 2, 2, 3, 4)))]:
        capacity = {"cpu": draw(st.integers(2, 6))}
        if memory := draw(st.sampled_from((0, 4, 6))):
            capacity["memory"] = memory
        if cards := draw(st.sampled_from((0, 0, 1, 2))):
            capacity["gpu"] = cards * 1000
        zone = draw(st.sampled_from((None, "a", "b")))
        found.append(NodeSpec(name, capacity, None if zone is None else {"zone": zone}))
    return tuple(found)


policies = st.fixed_dictionaries(
    {
        "order": st.sampled_from(("fair", "fair", "fair", "fifo")),
        "ageing_ns": st.sampled_from((EVER, 10, 40)),
        "overtakes_max": st.sampled_from((2, 1, 3, 0, 8)),
        "claim_after_ns": st.sampled_from((EVER, 30, 100, 10)),
    },
    optional={
        "backfill_depth": st.sampled_from((500, 500, 2)),
        "preemption": st.sampled_from(("lower_priority", "never")),
        "grace_ns": st.sampled_from((5, 0, 20)),
        "max_age_ns": st.sampled_from((None, 60)),
        "max_priority": st.sampled_from(("critical", "critical", "high")),
        "strategy": st.sampled_from(
            ("first_fit", "best_fit", "worst_fit", "random", "fragmentation_aware", "adaptive")
        ),
    },
)
duplicates = st.sampled_from(("allow", "allow", "report", "refuse", "answer"))


@st.composite
def amounts(draw: st.DrawFn) -> Amounts:
    """Of one resource or several, as pools have them."""
    found = {}
    which = draw(st.sampled_from(("c", "c", "c", "cm", "m", "g", "cg")))
    if "c" in which:
        found["cpu"] = draw(st.sampled_from((1, 2, 3, 4, 6)))
    if "m" in which:
        found["memory"] = draw(st.sampled_from((1, 2, 4, 6)))
    if "g" in which:
        found["gpu"] = draw(st.sampled_from((500, 1000, 300, 2000)))
    return found


@st.composite
def requests(draw: st.DrawFn, *, may_spread: bool = True) -> Request:
    """A request, plain or elastic or spread, that waits or does not."""
    need = draw(amounts())
    kind = draw(st.sampled_from(("plain",) * 5 + ("elastic", "elastic", "spread", "sticky")))
    most, spread = None, None
    if kind == "elastic":
        more = draw(st.integers(1, 4))
        most = {
            r: a if r == "gpu" and a < 1000 else a + more * (1000 if r == "gpu" else 1)
            for r, a in need.items()
        }
    elif kind == "spread" and may_spread:
        spread = draw(st.sampled_from((2, 2, 3, 0)))
        need = {"cpu": draw(st.sampled_from((4, 6, 3, 7)))}
    by_process = draw(st.sampled_from((False, False, False, True)))
    return Request(
        need,
        most=most,
        select=draw(st.sampled_from((None,) * 6 + ({"zone": "a"}, {"zone": "b"}))),
        priority=draw(priorities),
        ttl_ns=None if by_process else draw(durations),
        process=PROCESS if by_process else None,
        max_age_ns=draw(st.sampled_from((None, None, None, 80))),
        wait_ns=draw(st.one_of(waits, waits, waits, st.none())),
        spread=spread,
        sticky="key" if kind == "sticky" else None,
        reserve_ns=draw(st.sampled_from((None,) * 6 + (5, 30))),
    )


@st.composite
def gangs(draw: st.DrawFn) -> tuple[Request, ...]:
    """Requests to be granted all at once or not at all. They have one priority."""
    priority, wait = draw(priorities), draw(st.one_of(waits, waits, st.none()))
    count = draw(st.integers(2, 3))
    return tuple(
        Request(draw(amounts()), priority=priority, ttl_ns=draw(durations), wait_ns=wait)
        for _ in range(count)
    )


budgets = st.fixed_dictionaries(
    {
        "refill": st.sampled_from(("reset", "add")),
        "refill_every_ns": st.sampled_from((20_000_000, 50_000_000)),
        "refill_amounts": st.just({"tokens": 4}),
    }
)
tokens = st.sampled_from((1, 2, 4, 7, 10))


def limits(pool_cards: bool = False) -> SearchStrategy[dict[str, int]]:
    """A quota, or none."""
    return st.one_of(
        st.just({}),
        st.fixed_dictionaries({"cpu": st.sampled_from((4, 2, 6, 3))}),
        st.fixed_dictionaries({"cpu": st.sampled_from((4, 6)), "memory": st.sampled_from((4, 2))}),
    )


def options(**kinds: Any) -> SearchStrategy[dict[str, Any]]:
    """Some settings of a policy, changed."""
    return st.fixed_dictionaries({}, optional=kinds)


changes = options(
    order=st.sampled_from(("fair", "fifo")),
    overtakes_max=st.sampled_from((0, 2, 8)),
    claim_after_ns=st.sampled_from((EVER, 20)),
    preemption=st.sampled_from(("lower_priority", "never")),
    grace_ns=st.sampled_from((5, 0)),
    ageing_ns=st.sampled_from((EVER, 10)),
    strategy=st.sampled_from(("first_fit", "best_fit", "worst_fit")),
).filter(bool)
