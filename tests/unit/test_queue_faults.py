"""Where the rules once parted from their statement in ``docs/queue.md``, as given / when / then.

Found by the state machine in ``tests/integration/test_queue_machine.py``.
"""

from __future__ import annotations

from ledger.commands import SetQuota
from tests.scenario import PROCESS, SECOND, Scenario

LONG = 10**6


def test_a_claimant_that_sends_others_away_waits_no_longer_than_its_first_claim_promised() -> None:
    s = Scenario()
    policy = {"overtakes_max": 0, "preemption": "lower_priority", "grace_ns": 10 * SECOND}
    s.pool(policy=policy, n1={"cpu": 4}, n2={"cpu": 4})
    s.got({"cpu": 1}, holder="short", ttl=60)
    pad = s.got({"cpu": 3}, holder="pad", ttl=LONG)
    high = s.got({"cpu": 2}, holder="high", priority="high", ttl=LONG)
    s.release(pad, who="pad")
    waiting = s.waits({"cpu": 4}, holder="large", wait=LONG)
    assert s.book.pools["box"].space.claims == {"n1": waiting}
    # The other node is not kept: somebody of a lower priority may land there.
    s.got({"cpu": 2}, holder="low", priority="low", process=PROCESS)
    s.release(high, who="high")
    # What is bound to a process goes when it likes; until then nothing else may take the first node.
    s.ask({"cpu": 1}, holder="newcomer", ttl=LONG)
    s.later(61)
    s.settle()
    folded = s.fold(waiting)
    assert folded is not None and folded.state == "active"


def test_a_tenant_that_borrows_is_not_limited_in_what_only_others_are_limited_in() -> None:
    s = Scenario()
    s.pool(n1={"cpu": 12, "memory": 12})
    for tenant, limits in (("ann", {"cpu": 4}), ("bob", {"cpu": 4, "memory": 2})):
        s.when(SetQuota(command_id=tenant, tenant=tenant, limits=limits, cohort="kin"))
    s.got({"cpu": 3, "memory": 3}, tenant="ann", ttl=LONG)
    assert s.got({"cpu": 2, "memory": 3}, tenant="ann", ttl=LONG)
