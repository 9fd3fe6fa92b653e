"""One test for each fault of the system that Leasebook replaces, so that none of them comes back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import leasebook
from leasebook.manager import ResourceManager
from ledger.clock import Reading, machine_clock
from ledger.errors import Reason, Refused

HOUR_NS = 3_600 * 10**9


class Later:
    """The machine's clocks, put forward by hand."""

    def __init__(self) -> None:
        self.by = 0
        self._read = machine_clock()

    def __call__(self) -> Reading:
        real = self._read()
        return real._replace(
            wall=real.wall + self.by, boot=real.boot + self.by, monotonic=real.monotonic + self.by
        )


@pytest.fixture
def clock() -> Later:
    return Later()


@pytest.fixture
def manager(tmp_path: Path, clock: Later) -> Iterator[ResourceManager]:
    with leasebook.open(tmp_path / "ledger.db", clock=clock) as made:
        yield made


# "First fit" that spread a request across nodes.


def test_first_fit_puts_a_request_on_one_node_and_never_spreads_it_over_several(
    manager: ResourceManager,
) -> None:
    manager.open_pool("fleet", nodes={"n1": {"cpu": 4}, "n2": {"cpu": 4}, "n3": {"cpu": 8}})
    handle = manager.allocate({"cpu": 6}, pool="fleet", strategy="first_fit")
    assert [p.node for p in handle.placements] == ["n3"]
    assert handle.placements[0].amounts == {"cpu": 6000}
    # Ten cores are free in all, and no node has six of them: that is a refusal, not a split.
    with pytest.raises(Refused) as caught:
        manager.allocate({"cpu": 6}, pool="fleet", strategy="first_fit")
    assert caught.value.reason == Reason.INSUFFICIENT_CAPACITY
    with pytest.raises(Refused) as caught:
        manager.allocate({"cpu": 9}, pool="fleet", strategy="first_fit")
    assert caught.value.reason == Reason.EXCEEDS_POOL
    for one in manager.list():
        assert len(one.placements) == 1


# More GPUs granted than a node has.


def test_a_node_never_grants_more_gpus_than_it_has_also_when_many_ask_at_once(
    manager: ResourceManager,
) -> None:
    manager.open_pool("gpus", nodes={"n1": {"gpu": 2}, "n2": {"gpu": 3}})
    with pytest.raises(Refused) as caught:
        manager.allocate({"gpu": 4}, pool="gpus")
    assert caught.value.reason == Reason.EXCEEDS_POOL

    def ask(number: int) -> None:
        for amount in ("1", "2", "500m", "1"):
            manager.try_allocate({"gpu": amount}, pool="gpus", holder=f"h{number}")

    threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    cards: dict[tuple[str, str], int] = {}
    for one in manager.list():
        for placement in one.placements:
            for card, amount in (placement.devices or {}).get("gpu", {}).items():
                cards[placement.node, card] = cards.get((placement.node, card), 0) + amount
    assert cards
    assert set(cards) <= {("n1", "0"), ("n1", "1"), ("n2", "0"), ("n2", "1"), ("n2", "2")}
    assert max(cards.values()) <= 1000
    for node in manager.pool("gpus")["nodes"]:
        used = node["base_units"]["in_use"]["gpu"]
        assert used <= node["base_units"]["capacity"]["gpu"]
        assert used == sum(a for (name, _), a in cards.items() if name == node["name"])


# A timeout that never ended an allocation.


def test_a_timeout_ends_an_allocation_at_its_time_though_nobody_sweeps(
    manager: ResourceManager, clock: Later
) -> None:
    manager.open_pool("box", capacity={"cpu": 4})
    handle = manager.allocate({"cpu": 4}, pool="box", holder="forgetful", ttl="5m")
    with pytest.raises(Refused):
        manager.allocate({"cpu": 1}, pool="box", holder="next")
    clock.by = 301 * 10**9
    # It counts as ended for every reader from that instant, and the next who asks gets it.
    assert handle.get().ended_by == "expired"
    assert manager.pool("box")["free"] == {"cpu": "4"}
    granted = manager.allocate({"cpu": 4}, pool="box", holder="next")
    assert granted.state == "active"
    expired = next(iter(manager.events(type="expired")))
    assert (expired.allocation, expired.at) == (handle.id, handle.expires_at_ns)
    # The forgetful holder cannot go on as if nothing had happened.
    with pytest.raises(Refused) as caught:
        handle.renew()
    assert caught.value.reason == Reason.ALREADY_ENDED
    assert granted.fencing_token > handle.fencing_token


def test_a_waits_timeout_ends_the_wait_too(manager: ResourceManager, clock: Later) -> None:
    manager.open_pool("box", capacity={"cpu": 4})
    held = manager.allocate({"cpu": 4}, pool="box", holder="a", ttl="1h")
    place = manager.allocate({"cpu": 4}, pool="box", holder="b", wait="5m", block=False)
    clock.by = 301 * 10**9
    held.release()
    assert (place.get().state, place.get().ended_by) == ("ended", "timed_out")
    assert manager.list() == []


# Efficiency above 1 from counting a node's use once for each of its allocations.


def test_the_use_of_each_allocation_counts_once_and_against_its_own_grant(
    manager: ResourceManager, clock: Later
) -> None:
    manager.open_pool("node", capacity={"cpu": 8})
    since = manager.ledger.writer.read(lambda book, now: now)
    handles = [
        manager.allocate({"cpu": 2}, pool="node", holder=f"h{n}", task="t", ttl="2h")
        for n in range(4)
    ]
    clock.by = HOUR_NS
    # The node was six eighths busy: each of the four used one and a half of its two cores.
    for handle in handles:
        manager.record_usage(
            handle.id,
            since=since,
            until=since + HOUR_NS,
            used={"cpu": 1500 * 3_600},
            peak={"cpu": 1500},
            basis={"cpu": "cputime"},
            samples=60,
            final=True,
        )
        handle.release()
    (row,) = manager.report("efficiency", by="task")
    assert row["allocations"] == 4
    assert row["used_seconds"] == {"cpu": 4 * 1500 * 3_600}
    assert row["efficiency"]["cpu"] == pytest.approx(0.75, abs=0.01)
    for each in manager.report("efficiency", by="holder"):
        assert each["efficiency"]["cpu"] == pytest.approx(0.75, abs=0.01)


# Success rates invented when nothing was counted.


def test_what_was_not_measured_is_unknown_and_not_a_number(
    manager: ResourceManager, clock: Later
) -> None:
    manager.open_pool("box", capacity={"cpu": 4, "memory": "8GiB"})
    handle = manager.allocate({"cpu": 2, "memory": "4GiB"}, pool="box", holder="h", task="t")
    clock.by = 60 * 10**9
    handle.release()
    (row,) = manager.report("efficiency", by="task")
    assert row["efficiency"] == {"cpu": None, "memory": None}
    assert row["used_seconds"] == {}
    assert row["idle_s"] is None
    assert row["coverage"] == 0
    assert row["ended_by"] == {"released": 1}
    # What was never asked for, granted or measured is in no report at all.
    assert manager.report("efficiency", since=row_end(manager)) == []
    assert manager.report("compare", since=row_end(manager)) == []


def row_end(manager: ResourceManager) -> int:
    """An instant after everything that has happened."""
    return manager.ledger.writer.log.head().recorded_at + 1


def test_a_measured_resource_does_not_vouch_for_another_that_was_not(
    manager: ResourceManager, clock: Later
) -> None:
    manager.open_pool("box", capacity={"cpu": 4, "memory": "8GiB"})
    since = manager.ledger.writer.read(lambda book, now: now)
    handle = manager.allocate({"cpu": 2, "memory": "4GiB"}, pool="box", holder="h", task="t")
    clock.by = 60 * 10**9
    manager.record_usage(
        handle.id,
        since=since,
        until=since + 60 * 10**9,
        used={"cpu": 60_000},
        peak={},
        samples=60,
        final=True,
    )
    handle.release()
    (row,) = manager.report("efficiency", by="task")
    assert row["efficiency"]["cpu"] == pytest.approx(0.5, abs=0.01)
    assert row["efficiency"]["memory"] is None


# Reservations not subtracted from what is free.


def test_what_is_reserved_is_not_free_for_anybody_else(
    manager: ResourceManager, clock: Later
) -> None:
    manager.open_pool("box", capacity={"cpu": 4})
    reserved = manager.allocate({"cpu": 3}, pool="box", holder="a", reserve="5m")
    assert reserved.state == "reserved"
    assert manager.pool("box")["free"] == {"cpu": "1"}
    with pytest.raises(Refused) as caught:
        manager.allocate({"cpu": 2}, pool="box", holder="b")
    assert caught.value.reason == Reason.INSUFFICIENT_CAPACITY
    assert caught.value.shortfall == {"box": {"cpu": 1000}}
    assert manager.allocate({"cpu": 1}, pool="box", holder="b").state == "active"
    # Confirmed, it is held as before; nothing is taken twice.
    assert manager.confirm(reserved.id, holder="a").state == "active"
    assert manager.pool("box")["free"] == {"cpu": "0"}


def test_a_reservation_that_is_not_confirmed_in_time_is_free_again(
    manager: ResourceManager, clock: Later
) -> None:
    manager.open_pool("box", capacity={"cpu": 4})
    reserved = manager.allocate({"cpu": 3}, pool="box", holder="a", reserve="5m")
    clock.by = 301 * 10**9
    assert manager.pool("box")["free"] == {"cpu": "4"}
    assert manager.allocate({"cpu": 4}, pool="box", holder="b").state == "active"
    with pytest.raises(Refused) as caught:
        manager.confirm(reserved.id, holder="a")
    assert caught.value.reason == Reason.ALREADY_ENDED


def test_a_reservation_counts_against_its_holders_quota(manager: ResourceManager) -> None:
    manager.open_pool("box", capacity={"cpu": 16})
    manager.set_quota({"cpu": 4})
    manager.allocate({"cpu": 3}, pool="box", holder="a", reserve="5m")
    with pytest.raises(Refused) as caught:
        manager.allocate({"cpu": 2}, pool="box", holder="b")
    assert caught.value.reason == Reason.QUOTA_EXCEEDED
