"""What the state machine draws from: small domains, so that requests collide at almost every step."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ledger.identity import ProcessIdentity
from ledger.requests import PRIORITIES, Amounts, NodeSpec, Request

TENANTS = ("acme", "zeta")
HOLDERS = ("ann", "bob", "cyd")
POOLS = ("box", "gpus")
PROCESS = ProcessIdentity("host", 100, 7, "boot", "4026531836")

BOX = (
    NodeSpec("n2", {"cpu": 4, "memory": 6}, {"zone": "a"}),
    NodeSpec("n1", {"cpu": 2, "memory": 8}, {"zone": "b"}),
    NodeSpec("n3", {"cpu": 4, "memory": 2}),
)
GPUS = (
    NodeSpec("g1", {"cpu": 3, "gpu": 2000}, {"zone": "a"}),
    NodeSpec("g2", {"cpu": 4, "gpu": 1000}, {"zone": "b"}),
)
EXTRA = (NodeSpec("x1", {"cpu": 3}), NodeSpec("x2", {"memory": 4}, {"zone": "a"}))
NODES = ("n1", "n2", "n3", "g1", "g2", "x1", "x2", "n9")

tenants = st.sampled_from(("acme", "acme", "acme", "zeta"))
holders = st.sampled_from(HOLDERS)
pools = st.sampled_from(("box", "box", "box", "gpus", "gpus", "gpus", "extra", "none"))
nodes = st.sampled_from(NODES)
steps = st.sampled_from((1, 1, 1, 2, 3, 7, 20, 60))
"""How much time passes before a command."""
durations = st.sampled_from((1, 2, 5, 10, 25, 50))
picks = st.integers(0, 63)
"""Which of the allocations that there are: see ``pick`` of the machine."""

_SMALL = {
    "cpu": st.integers(1, 4),
    "memory": st.integers(1, 5),
    "gpu": st.sampled_from((250, 500, 700, 1000, 2000)),
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
        select=draw(st.sampled_from((None, None, None, {"zone": "a"}, {"zone": "b"}))),
        priority=draw(st.sampled_from(("normal", "normal", "high", *PRIORITIES))),
        strategy=draw(st.sampled_from((None, "first_fit", "best_fit", "best_fit"))),
        ttl_ns=None if by_process else draw(durations),
        process=PROCESS if by_process else None,
        max_age_ns=draw(st.sampled_from((None, None, 5, 30))),
        wait_ns=draw(st.one_of(st.none(), durations)) if may_wait else None,
        reserve_ns=draw(st.sampled_from((None, None, None, 4, 20))),
    )


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
        Request({"cpu": 1}, ttl_ns=5, strategy="worst_fit"),
    )
)
"""Requests that can never be right as they stand."""

limits = st.dictionaries(
    st.sampled_from(("cpu", "memory", "gpu")), st.sampled_from((0, 1, 3, 500, 1000, 2000)), max_size=2
)
capacities = st.dictionaries(
    st.sampled_from(("cpu", "memory", "gpu")), st.none(), min_size=1, max_size=2
).flatmap(
    lambda chosen: st.fixed_dictionaries(
        {
            name: st.sampled_from((0, 1000, 2000, 3000)) if name == "gpu" else st.integers(0, 6)
            for name in chosen
        }
    )
)
policies = st.fixed_dictionaries(
    {},
    optional={
        "strategy": st.sampled_from(("first_fit", "best_fit")),
        "queue_limit": st.sampled_from((0, 1, 2, 100)),
        "max_age_ns": st.sampled_from((None, 10, 40)),
        "max_priority": st.sampled_from(("normal", "high", "critical")),
    },
).filter(bool)
