"""The demands on the queue, each from the outside, through the Python interface."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import leasebook
from leasebook.manager import ResourceManager
from ledger.errors import Refused


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ResourceManager]:
    with leasebook.open(tmp_path / "ledger.db") as made:
        made.open_pool("box", capacity={"cpu": 4})
        yield made


def test_a_waiter_is_never_told_cancelled_while_it_is_handed_the_resource(
    manager: ResourceManager,
) -> None:
    for first in ("release", "withdraw"):
        held = manager.allocate({"cpu": 4}, pool="box", holder="other")
        place = manager.allocate({"cpu": 4}, pool="box", holder="me", wait="1h", block=False)
        if first == "release":
            held.release()
            with pytest.raises(Refused) as told:
                manager.withdraw(place.id, holder="me")
            assert "active" in told.value.message
            granted = manager.wait(place.id)
            assert granted.state == "active"
            granted.release()
        else:
            manager.withdraw(place.id, holder="me")
            held.release()
            with pytest.raises(Refused):
                manager.wait(place.id)
            types = [e.type for e in manager.events() if e.allocation == place.id]
            assert types == ["queued", "withdrawn"]
            assert manager.list() == []


def test_what_a_waiter_is_told_is_what_is_recorded_however_release_and_withdrawal_race(
    manager: ResourceManager,
) -> None:
    for _ in range(20):
        held = manager.allocate({"cpu": 4}, pool="box", holder="other")
        place = manager.allocate({"cpu": 4}, pool="box", holder="me", wait="1h", block=False)
        both = threading.Barrier(2)
        told: list[str] = []

        def give_up(place_id: str, both: threading.Barrier, told: list[str]) -> None:
            both.wait()
            try:
                manager.withdraw(place_id, holder="me")
                told.append("withdrawn")
            except Refused:
                told.append("allocated")

        other = threading.Thread(target=give_up, args=(place.id, both, told))
        other.start()
        both.wait()
        held.release()
        other.join()
        types = [e.type for e in manager.events() if e.allocation == place.id]
        assert [each for each in types if each in ("allocated", "withdrawn")] == told
        assert [each.id for each in manager.list()] == ([place.id] if told == ["allocated"] else [])
        for each in manager.list():
            each.release()


def test_prioritises_high_priority_requests(manager: ResourceManager) -> None:
    held = manager.allocate({"cpu": 4}, pool="box", holder="other")
    ask: dict[str, Any] = {"pool": "box", "wait": "1h", "block": False}
    order = [
        manager.allocate({"cpu": 4}, priority=priority, holder=priority, **ask)
        for priority in ("low", "normal", "critical", "high")
    ]
    served = []
    for _ in order:
        held.release()
        (held,) = manager.list(state="active")
        served.append(held.holder)
    assert served == ["critical", "high", "normal", "low"]


def test_high_priority_large_requests_are_not_starved_by_small_ones(
    manager: ResourceManager,
) -> None:
    small = [manager.allocate({"cpu": 1}, pool="box", holder="small") for _ in range(4)]
    large = manager.allocate(
        {"cpu": 4}, pool="box", holder="large", priority="high", wait="1h", block=False
    )
    passed = 0
    while manager.get(large.id).state == "waiting":
        small.pop(0).release()
        if manager.get(large.id).state != "waiting":
            break
        try:
            small.append(manager.allocate({"cpu": 1}, pool="box", holder="small"))
            passed += 1
        except Refused as refused:
            assert refused.reason == "reserved_for_waiting"
        assert passed <= 8
    assert manager.get(large.id).state == "active"
    assert passed == 8
