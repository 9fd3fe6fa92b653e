"""One full example of every event type, for the tests of the storage form."""

from __future__ import annotations

from ledger import events as e
from ledger.identity import ProcessIdentity
from ledger.requests import NodeSpec, Placement, Request

PROCESS = ProcessIdentity("host", 42, 7, "boot", "4026531836")
PLAIN = Request({"cpu": 2000}, ttl_ns=900_000_000_000)
FULL = Request(
    {"cpu": 2000, "gpu": 1000},
    {"cpu": 8000, "gpu": 1000},
    {"model": "T4"},
    "high",
    "best_fit",
    None,
    PROCESS,
    10,
    20,
    2,
    "build",
    30,
    "A3",
)
PLACED = Placement(
    "n1", {"cpu": 2000, "gpu": 1000}, {"cpu": 3000, "gpu": 1000}, {"gpu": {"3": 1000}}
)
NODE = NodeSpec("n1", {"cpu": 64_000, "gpu": 2000}, {"model": "T4"})

BODIES: list[e.AnyBody] = [
    e.LedgerOpened("0197", 2, 1),
    e.Checkpointed(1, "ab" * 32),
    e.Redacted(3, "cd" * 32, "asked for", "ops"),
    e.TimeExtended(5, 1, 6, "the machine was suspended"),
    e.AlertRaised("clock_jumped", "it jumped", {"jump_ns": -5}),
    e.AlertCleared("clock_jumped", "ops", "seen"),
    e.Corrected(17, "it was alive", "ops", {"ended_by": "released"}),
    e.PoolOpened((NODE, NodeSpec("n2", {"cpu": 1})), "managed", True, {"order": "fifo"}, "host"),
    e.PoolResized((NodeSpec("n1", {"cpu": 0}),)),
    e.PoolClosed(),
    e.NodeJoined(NODE),
    e.NodeLeft("n1"),
    e.NodeCordoned("n1", "dust"),
    e.NodeUncordoned("n1"),
    e.QuotaSet({"cpu": 5}, {}),
    e.PolicySet({"strategy": "best_fit"}),
    e.Queued(PLAIN, 99, "insufficient_capacity", {"n1": {"cpu": 5}}, "A3"),
    e.Refused(
        "allocate",
        "insufficient_capacity",
        "no room",
        "wait",
        PLAIN,
        {"n1": {"cpu": 1}},
        {"cpu": 1},
        ({"amounts": {"cpu": 3}, "since": 8},),
        4,
        2,
    ),
    e.Allocated(PLAIN, {"cpu": 2000}, (PLACED,), 77, 88, 66, "first_fit", "A3"),
    e.Reserved(FULL, {"cpu": 2000}, (PLACED,), 77, 66, "first_fit", "A3"),
    e.Confirmed(5, 6),
    e.Adjusted({"cpu": 1}, {"cpu": 2}, (PLACED,), "h", "shrunk"),
    e.Renewed(5, ("A1", "A2"), (5, 6)),
    e.Ending("forced", 5, True, "ops", "maintenance"),
    e.Released("h", {"tokens": 5}),
    e.Expired(5, "max_age"),
    e.Reclaimed("crashed", {"pid": 42, "how": "gone"}, "sweep", "died", False),
    e.Withdrawn("timed_out", "ledger", "late"),
    e.Transferred("h1", "h1", PROCESS, 9),
    e.Shared(("h1", "h2"), "h"),
    e.HolderSeen(PROCESS, "python"),
    e.TaskStarted("h"),
    e.TaskFinished("h", "succeeded"),
    e.UsageRecorded(1, 2, {"cpu": 5}, {"memory": 6}, {"memory": "pss"}, 3, 4, True, 0),
    e.CapacityObserved("n1", {"cpu": 5}, {"cpu": "load"}),
    e.Replenished({"tokens": 5}, {"tokens": 1}),
]


def example(position: int, body: e.AnyBody) -> e.Event:
    """An event around a body, with every column of the envelope filled."""
    return e.Event(
        position,
        1_000 + position,
        2_000 + position,
        "default",
        "box",
        "A1",
        "h1",
        "t1",
        e.Cause("c1", "0" * 32, 1, 2),
        body,
        {"note": "übung"},
    )
