"""What the state machine draws from: small domains, so that requests collide at almost every step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ledger.commands import Adjust, Allocate, Confirm, Reclaim, Release, Renew, Transfer, Withdraw
from ledger.identity import ProcessIdentity
from ledger.requests import PRIORITIES, Amounts, NodeSpec, Request
from tests.model.model import Held

TENANTS = ("acme", "zeta")
HOLDERS = ("ann", "bob", "cyd")
POOLS = ("box", "gpus")
VERBS = (Confirm, Renew, Release, Withdraw, Transfer, Reclaim, Adjust)
ACTS = (Allocate, Allocate, Allocate, Adjust, Renew, Release, Allocate, Adjust, *VERBS)
CLAIMS = ("holder",) * 20 + ("token", "operator", "token", "operator", "other", "stale", "foreign")
PROCESS = ProcessIdentity("host", 100, 7, "boot", "4026531836")

BOX = (
    NodeSpec("n2", {"cpu": 3, "memory": 4}, {"zone": "a"}),
    NodeSpec("n1", {"cpu": 2, "memory": 5}, {"zone": "b"}),
    NodeSpec("n3", {"cpu": 2, "memory": 2}),
)
GPUS = (
    NodeSpec("g1", {"cpu": 3, "gpu": 2000}, {"zone": "a"}),
    NodeSpec("g2", {"cpu": 2, "gpu": 1000}, {"zone": "b"}),
)
EXTRA = (NodeSpec("x1", {"cpu": 3}), NodeSpec("x2", {"memory": 4}, {"zone": "a"}))
NODES = ("n1", "n2", "n3", "g1", "g2", "x1", "x2", "n9")

tenants = st.sampled_from(("acme", "acme", "acme", "zeta"))
holders = st.sampled_from(HOLDERS)
pools = st.sampled_from(("box",) * 9 + ("gpus",) * 9 + ("extra", "seen", "none"))
nodes = st.sampled_from(NODES)
steps = st.sampled_from((1, 1, 1, 1, 2, 5, 20))
"""How much time passes before a command."""
durations = st.sampled_from((100, 50, 25, 10, 200, 3))
picks = st.integers(0, 63)
"""Which of the allocations that there are: see ``pick`` of the machine."""

_SMALL = {
    "cpu": st.sampled_from((1, 2, 1, 2, 3, 4)),
    "memory": st.sampled_from((2, 1, 3, 4, 6)),
    "gpu": st.sampled_from((500, 250, 1000, 700, 1000, 2000, 3000)),
}


def _some(resources: dict[str, SearchStrategy[int]]) -> SearchStrategy[Amounts]:
    return st.dictionaries(st.sampled_from(sorted(resources)), st.none(), min_size=1).flatmap(
        lambda chosen: st.fixed_dictionaries({name: resources[name] for name in chosen})
    )


box_amounts = _some({name: _SMALL[name] for name in ("cpu", "memory")})
gpu_amounts = _some({name: _SMALL[name] for name in ("cpu", "gpu")})


def amounts_for(pool: str) -> SearchStrategy[Amounts]:
    """Amounts that mostly suit a pool."""
    return gpu_amounts if pool == "gpus" else box_amounts


wanted = st.one_of(
    box_amounts,
    gpu_amounts,
    st.fixed_dictionaries({"cpu": st.integers(0, 5)}),
    st.fixed_dictionaries({"gpu": st.sampled_from((0, 250, 500, 700, 1000, 2000, 3000))}),
)
"""What an allocation shall hold after an adjustment; 0 gives a resource back."""


@st.composite
def requests(draw: st.DrawFn, pool: str, *, may_wait: bool = True) -> Request:
    """A request that a pool may grant, let wait or refuse."""
    by_process = draw(st.booleans())
    return Request(
        draw(amounts_for(pool)),
        select=draw(st.sampled_from((None,) * 8 + ({"zone": "a"}, {"zone": "b"}))),
        priority=draw(st.sampled_from(("normal",) * 6 + PRIORITIES)),
        strategy=draw(st.sampled_from((None, "first_fit", "best_fit", "best_fit"))),
        ttl_ns=None if by_process else draw(durations),
        process=PROCESS if by_process else None,
        max_age_ns=draw(st.sampled_from((None, None, None, 30, 80))),
        wait_ns=draw(st.one_of(durations, st.none())) if may_wait else None,
        reserve_ns=draw(st.sampled_from((None,) * 5 + (4, 30))),
    )


@st.composite
def requests_of(draw: st.DrawFn, parent: Held) -> Request:
    """A request for a part of what another allocation has, or for a little more than that."""
    request = draw(requests(parent.pool))
    amounts = {
        name: amount if draw(st.integers(0, 9)) == 9 else min(amount, parent.amounts[name])
        for name, amount in request.amounts.items()
        if name in parent.amounts
    }
    return replace(request, amounts=amounts or {"cpu": 1}, parent=parent.id, select=None)


nonsense = st.sampled_from(
    (
        Request({}, ttl_ns=5),
        Request({"cpu": 0}, ttl_ns=5),
        Request({"cpu": -1}, ttl_ns=5),
        Request({"cpu": 2**63}, ttl_ns=5),
        Request({"gpu": 1500}, ttl_ns=5),
        Request({"cpu": 1}),
        Request({"cpu": 1}, ttl_ns=0),
        Request({"cpu": 1}, ttl_ns=5, process=PROCESS),
        Request({"cpu": 1}, ttl_ns=5, wait_ns=0),
        Request({"cpu": 1}, ttl_ns=5, reserve_ns=-1),
        Request({"cpu": 1}, ttl_ns=5, max_age_ns=0),
        Request({"cpu": 1}, ttl_ns=5, priority="urgent"),
        Request({"cpu": 1}, ttl_ns=5, strategy="no_such_fit"),
    )
)
"""Requests that can never be right as they stand."""

limits = st.dictionaries(st.sampled_from(("cpu", "memory", "gpu")), st.none(), max_size=2).flatmap(
    lambda chosen: st.fixed_dictionaries(
        {
            name: st.sampled_from((1000, 500, 2000, 0) if name == "gpu" else (4, 3, 2, 6, 1, 0))
            for name in chosen
        }
    )
)
capacities = st.dictionaries(
    st.sampled_from(("cpu", "memory", "gpu")), st.none(), min_size=1, max_size=2
).flatmap(
    lambda chosen: st.fixed_dictionaries(
        {
            name: st.sampled_from((2000, 1000, 3000, 0) if name == "gpu" else (3, 2, 1, 4, 6, 0))
            for name in chosen
        }
    )
)
policies = st.fixed_dictionaries(
    {},
    optional={
        "strategy": st.sampled_from(("best_fit", "first_fit")),
        "queue_limit": st.sampled_from((100, 2, 1, 0)),
        "max_age_ns": st.sampled_from((None, 100, 40)),
        "max_priority": st.sampled_from(("critical", "high", "normal")),
    },
).filter(bool)


def details(verb: type, now: int) -> SearchStrategy[dict[str, Any]]:
    """What a command on an allocation says beside which one and by whom."""
    if verb is Renew:
        return st.fixed_dictionaries({"ttl_ns": st.one_of(durations, st.none())})
    if verb is Adjust:
        return st.fixed_dictionaries({"amounts": wanted})
    if verb is Transfer:
        bound = st.sampled_from(({}, {}, {"process": PROCESS}, {"ttl_ns": 20}, {"ttl_ns": 100}))
        return st.builds(lambda to, by: {"to_holder": to, **by}, holders, bound)
    if verb is Reclaim:
        return st.fixed_dictionaries(
            {
                "cause": st.sampled_from(("forced", "crashed", "preempted", "idle")),
                "process_alive": st.booleans(),
                "grace_ns": st.just(20),
                "happened_at": st.sampled_from((None, None, now, now - 3, now - 30)),
            }
        )
    return st.just({})
