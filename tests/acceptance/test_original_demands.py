"""The demands that Leasebook was made for, each from the outside, through its Python interface."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import leasebook
from leasebook.manager import ResourceManager
from ledger.errors import LeasebookError, LedgerUnavailable, Reason, Refused
from tests.integration.processes_children import eventually
from tests.ledgers import end, line_of, python


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def manager(path: Path) -> Iterator[ResourceManager]:
    with leasebook.open(path) as made:
        yield made


def story(manager: ResourceManager, allocation: str) -> list[str]:
    return [event.type for event in manager.events() if event.allocation == allocation]


def test_allocates_with_first_fit(manager: ResourceManager) -> None:
    manager.open_pool(
        "fleet", nodes={"small": {"cpu": 2}, "large": {"cpu": 8}, "spare": {"cpu": 8}}
    )
    wanted = [(2, "small"), (4, "large"), (1, "large"), (3, "large"), (3, "spare"), (5, "spare")]
    for cpu, node in wanted:
        handle = manager.allocate({"cpu": cpu}, pool="fleet", strategy="first_fit")
        assert (handle.node, handle.base_units) == (node, {"cpu": cpu * 1000})
    # What the first node gives back is the first to be taken again.
    (first, *_) = manager.list()
    first.release()
    assert manager.allocate({"cpu": 1}, pool="fleet").node == "small"


def test_handles_allocation_failures_gracefully(manager: ResourceManager) -> None:
    manager.open_pool("box", capacity={"cpu": 4})
    held = manager.allocate({"cpu": 3}, pool="box", holder="agent-1", task="indexing")
    failures = {
        "more than is free": ({"cpu": 2}, {}, Reason.INSUFFICIENT_CAPACITY),
        "more than there is": ({"cpu": 5}, {}, Reason.EXCEEDS_POOL),
        "what nobody has": ({"gpu": 1}, {}, Reason.EXCEEDS_POOL),
        "a pool that is not there": ({"cpu": 1}, {"pool": "bx"}, Reason.NO_SUCH_POOL),
    }
    for name, (amounts, options, reason) in failures.items():
        with pytest.raises(Refused) as caught:
            manager.allocate(amounts, **{"pool": "box", "holder": "agent-2", **options})  # type: ignore[arg-type]
        error = caught.value
        assert error.reason == reason, name
        assert error.message
        assert "\n" not in error.message
        # The refusal is a fact on record, and explains itself later.
        assert error.refusal_id is not None
        assert manager.why(error.refusal_id) is not None
    # Nothing was changed by all that, and whoever fits still gets in.
    assert [h.id for h in manager.list()] == [held.id]
    assert manager.allocate({"cpu": 1}, pool="box").state == "active"
    assert manager.verify().ok


def test_an_allocation_failure_says_what_was_short_who_was_in_the_way_and_what_would_have_fitted(
    manager: ResourceManager,
) -> None:
    manager.open_pool("box", capacity={"cpu": 4})
    held = manager.allocate({"cpu": 3}, pool="box", holder="agent-1", task="indexing")
    result = manager.try_allocate({"cpu": 2}, pool="box", holder="agent-2")
    assert not result.granted
    assert result.shortfall == {"box": {"cpu": 1000}}
    assert result.fits_now == {"cpu": 1000}
    (blocker,) = result.blockers
    assert (blocker["allocation"], blocker["holder"], blocker["task"]) == (
        held.id,
        "agent-1",
        "indexing",
    )
    assert manager.allocate({"cpu": "1"}, pool="box").state == "active"


def test_an_infrastructure_failure_never_looks_like_a_refusal(tmp_path: Path) -> None:
    manager = leasebook.open(tmp_path / "l.db")
    manager.open_pool("box", capacity={"cpu": 1})
    manager.close()
    with pytest.raises(LeasebookError) as caught:
        manager.allocate({"cpu": 1}, pool="box")
    assert isinstance(caught.value, LedgerUnavailable)
    assert not isinstance(caught.value, Refused)


def test_respects_limits_and_quotas(manager: ResourceManager) -> None:
    manager.open_pool("box", capacity={"cpu": 16, "memory": "64GiB"})
    manager.set_quota({"cpu": 6}, tenant="team")
    manager.set_quota({"cpu": 3}, tenant="team", holder="greedy")
    mine = {"pool": "box", "tenant": "team", "holder": "greedy"}
    first = manager.allocate({"cpu": 2}, **mine)
    with pytest.raises(Refused) as caught:
        manager.allocate({"cpu": 2}, **mine)
    assert caught.value.reason == Reason.QUOTA_EXCEEDED
    manager.allocate({"cpu": 1}, **mine)
    others = {"pool": "box", "tenant": "team", "holder": "modest"}
    manager.allocate({"cpu": 3}, **others)
    with pytest.raises(Refused) as caught:
        manager.allocate({"cpu": "1m"}, **others)
    assert caught.value.reason == Reason.QUOTA_EXCEEDED
    # Another tenant is not bound by it; a limit is no reservation; what is given back counts again.
    assert manager.allocate({"cpu": 8}, pool="box", tenant="else").state == "active"
    first.release()
    assert manager.allocate({"cpu": 2}, **others).state == "active"
    # A limit holds for growing too, also from several threads at once.
    (grown, *_) = manager.list(holder="modest")
    with pytest.raises(Refused):
        grown.adjust(cpu=16)
    held = sum(h.base_units["cpu"] for h in manager.list(tenant="team"))
    assert held == 6000


def test_a_limit_holds_when_many_ask_at_once(manager: ResourceManager) -> None:
    manager.open_pool("box", capacity={"cpu": 100})
    manager.set_quota({"cpu": 7})
    outcomes: list[str] = []

    def ask() -> None:
        for _ in range(5):
            outcomes.append(manager.try_allocate({"cpu": 1}, pool="box").outcome)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["granted"] * 7 + ["refused"] * 33


def test_complete_allocation_cycle(manager: ResourceManager) -> None:
    manager.open_pool("box", capacity={"cpu": 4, "memory": "8GiB"})
    manager.start_task("build", by="agent-1")
    handle = manager.allocate(
        {"cpu": 2, "memory": "4GiB"}, pool="box", holder="agent-1", task="build", ttl="10m"
    )
    assert manager.pool("box")["free"] == {"cpu": "2", "memory": "4Gi"}
    handle.renew("20m")
    handle.adjust(memory="2GiB")
    moved = manager.transfer(handle.id, to="agent-2", token=handle.fencing_token)
    now = int(1e9)
    manager.record_usage(
        handle.id, since=now, until=2 * now, used={"cpu": 1500}, peak={"memory": 2**30}, final=True
    )
    moved.release()
    manager.finish_task("build", by="agent-2")
    assert story(manager, handle.id) == [
        "allocated",
        "renewed",
        "adjusted",
        "transferred",
        "usage_recorded",
        "released",
    ]
    assert manager.pool("box")["free"] == {"cpu": "4", "memory": "8Gi"}
    assert manager.list() == []
    ended = manager.get(handle.id)
    assert (ended.state, ended.ended_by, ended.holder) == ("ended", "released", "agent-2")
    assert manager.verify().ok


def test_resource_exhaustion_handling(manager: ResourceManager) -> None:
    manager.open_pool("box", capacity={"cpu": 4})
    held = [manager.allocate({"cpu": 1}, pool="box", holder=f"a{n}") for n in range(4)]
    assert manager.pool("box")["free"] == {"cpu": "0"}
    # Who does not wait is told at once; who waits gets a place; nobody is lost.
    for _ in range(10):
        assert manager.try_allocate({"cpu": 1}, pool="box", holder="b").outcome == "refused"
    places = [
        manager.allocate({"cpu": 1}, pool="box", holder=f"w{n}", wait="10m", block=False)
        for n in range(3)
    ]
    assert [p.state for p in places] == ["waiting"] * 3
    # Ten refusals in a moment are one fact and a count, not ten.
    assert len(list(manager.events(type="refused"))) <= 3
    for number, handle in enumerate(held[:3]):
        handle.release()
        assert places[number].get().state == "active"
    assert manager.pool("box")["free"] == {"cpu": "0"}
    assert manager.verify().ok


def test_exhaustion_of_the_queue_itself_is_a_clear_refusal(manager: ResourceManager) -> None:
    manager.open_pool("box", capacity={"cpu": 1}, policy={"queue_limit": 2})
    manager.allocate({"cpu": 1}, pool="box", holder="a")
    for number in range(2):
        manager.allocate({"cpu": 1}, pool="box", holder=f"w{number}", wait="10m", block=False)
    with pytest.raises(Refused) as caught:
        manager.allocate({"cpu": 1}, pool="box", holder="late", wait="10m")
    assert caught.value.reason == Reason.QUEUE_FULL


_AGENT = """
import os, sys
import leasebook
manager = leasebook.open(sys.argv[1])
kept = manager.allocate({"cpu": 2}, pool="box", holder="agent", task="job", pid=os.getpid())
mine = {"pool": "box", "holder": "agent", "pid": os.getpid()}
waits = manager.allocate({"cpu": 4}, wait="10m", block=False, **mine)
print(kept.id, waits.id, flush=True)
sys.stdin.readline()
"""


def test_agent_failure_cleanup(path: Path, manager: ResourceManager) -> None:
    manager.open_pool("box", capacity={"cpu": 4})
    agent = python(_AGENT, path)
    kept, place = line_of(agent).split()
    assert (manager.get(kept).state, manager.get(place).state) == ("active", "waiting")
    os.kill(agent.pid, signal.SIGKILL)
    # Somebody who waits is all it takes: no daemon, no sweep that anyone runs.
    granted = manager.allocate({"cpu": 4}, pool="box", holder="next", wait="50s")
    assert granted.state == "active"
    crashed, withdrawn = manager.get(kept), manager.get(place)
    assert (crashed.state, crashed.ended_by) == ("ended", "crashed")
    assert withdrawn.state == "ended"
    assert not withdrawn.fencing_token
    (reclaimed,) = [e for e in manager.events(type="reclaimed") if e.allocation == kept]
    assert reclaimed.body.evidence["pid"] == agent.pid
    assert reclaimed.body.evidence["boot_id"]
    end(agent)
    assert manager.verify().ok


def test_an_agent_that_lives_keeps_what_it_holds_however_long(
    path: Path, manager: ResourceManager
) -> None:
    manager.open_pool("box", capacity={"cpu": 4})
    agent = python(_AGENT, path)
    kept, _ = line_of(agent).split()
    from scheduler.sweeps import run_sweeps

    for _ in range(3):
        run_sweeps(manager.ledger.writer)
    assert manager.get(kept).state == "active"
    end(agent, kill=True)
    assert eventually(
        lambda: (run_sweeps(manager.ledger.writer), manager.get(kept).ended_by == "crashed")[1]
    )
