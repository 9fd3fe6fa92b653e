"""The awaited interface: the same as the blocking one, never blocking the loop; and being cancelled."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import leasebook
from leasebook import waiting as waiting_module
from leasebook.aio import AsyncResourceManager
from leasebook.manager import ResourceManager
from ledger.errors import LedgerUnavailable, Reason, Refused
from tests.ledgers import Slow, end, line_of, python, say_to

LONG_S = 60.0


@pytest.fixture(params=["memory", "file"])
async def manager(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[AsyncResourceManager]:
    where = ":memory:" if request.param == "memory" else tmp_path / "ledger.db"
    async with await leasebook.aopen(where) as made:
        await made.open_pool("box", capacity={"cpu": 4})
        yield made


async def types(manager: AsyncResourceManager) -> list[str]:
    return [event.type for event in await manager.events()]


async def until(check: Any) -> None:
    """Wait for something that another task brings about."""
    for _ in range(3_000):
        if await check():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came about")


async def test_the_same_methods_awaited(manager: AsyncResourceManager) -> None:
    handle = await manager.allocate({"cpu": 2}, pool="box", holder="me", task="t")
    assert handle.state == "active"
    assert (await manager.adjust(handle.id, {"cpu": 3}, holder="me")).amounts == {"cpu": "3"}
    assert (await manager.renew(handle.id, ttl="1h", holder="me")).state == "active"
    moved = await manager.transfer(handle.id, to="you", holder="me")
    assert (await manager.get(handle.id)).holder == "you"
    assert [h.id for h in await manager.list()] == [handle.id]
    assert (await manager.pool("box"))["free"] == {"cpu": "1"}
    with pytest.raises(Refused) as caught:
        await manager.allocate({"cpu": 2}, pool="box")
    assert caught.value.reason == Reason.INSUFFICIENT_CAPACITY
    released = await manager.release(handle.id, token=moved.fencing_token)
    assert released.outcome == "released"
    assert (await manager.verify()).ok
    assert (await types(manager))[-1] == "released"
    assert len(await manager.events(limit=2)) == 2


def test_the_two_managers_have_the_same_methods() -> None:
    def public(cls: type) -> set[str]:
        return {name for name in dir(cls) if not name.startswith("_")}

    assert public(ResourceManager) - public(AsyncResourceManager) <= {"result_of"}
    assert public(AsyncResourceManager) - public(ResourceManager) <= {"open"}


async def test_tasks_of_one_turn_share_a_commit(manager: AsyncResourceManager) -> None:
    handles = await asyncio.gather(
        *(manager.allocate({"cpu": "100m"}, pool="box", holder=f"h{n}") for n in range(20))
    )
    assert len({handle.id for handle in handles}) == 20
    instants = {e.recorded_at for e in await manager.events(type="allocated")}
    assert len(instants) == 1


async def test_a_batch_and_its_replay(manager: AsyncResourceManager) -> None:
    asked = [{"amounts": {"cpu": n}, "pool": "box"} for n in (3, 2, 1)]
    batch = await manager.allocate_batch(asked, command_id="b")
    assert [r.outcome for r in batch.results] == ["granted", "refused", "granted"]
    again = await manager.allocate_batch(asked, command_id="b")
    assert again.replayed
    assert again.outcome == batch.outcome == "partial"


async def test_the_loop_goes_on_while_a_commit_is_under_way(tmp_path: Path) -> None:
    async with await leasebook.aopen(tmp_path / "l.db") as manager:
        await manager.open_pool("box", capacity={"cpu": 4})
        handle = await manager.allocate({"cpu": 1}, pool="box", holder="me")
        log = manager.ledger.writer.log
        inside, go = threading.Event(), threading.Event()

        def hold() -> None:
            with log.transaction():
                inside.set()
                assert go.wait(30)

        holder = threading.Thread(target=hold, daemon=True)
        holder.start()
        await asyncio.to_thread(inside.wait, 30)
        # Each of these has to wait for the gate, or for one who waits for it; the loop does not.
        calls = [
            asyncio.create_task(act)
            for act in (
                manager.allocate({"cpu": 1}, pool="box", holder="me"),
                manager.renew(handle.id, holder="me"),
                manager.get(handle.id),
                manager.list(),
                manager.events(),
            )
        ]
        turns = 0
        end_at = time.monotonic() + 0.2
        while time.monotonic() < end_at:
            await asyncio.sleep(0)
            turns += 1
        assert turns > 20
        assert not calls[0].done()
        go.set()
        await asyncio.gather(*calls)
        holder.join(10)


# --- waiting -----------------------------------------------------------------------------------------


async def test_a_waiting_task_is_granted_when_another_releases(
    manager: AsyncResourceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_module, "LOOK_FOR_CRASHES_EVERY_S", LONG_S)
    held = await manager.allocate({"cpu": 4}, pool="box", holder="other")
    waiter = asyncio.create_task(manager.allocate({"cpu": 1}, pool="box", holder="me", wait=LONG_S))
    await until(lambda: manager.list(state="waiting"))
    await manager.release(held.id, token=held.fencing_token)
    granted = await asyncio.wait_for(waiter, 30)
    assert (granted.state, granted.holder) == ("active", "me")


_RELEASER = """
import sys
import leasebook
manager = leasebook.open(sys.argv[1])
handle = manager.allocate({"cpu": 4}, pool="box", holder="other")
print("held", flush=True)
sys.stdin.readline()
handle.release()
manager.close()
"""


async def test_a_waiting_task_is_woken_by_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_module, "LOOK_FOR_CRASHES_EVERY_S", LONG_S)
    path = tmp_path / "l.db"
    async with await leasebook.aopen(path) as manager:
        await manager.open_pool("box", capacity={"cpu": 4})
        process = python(_RELEASER, path)
        assert await asyncio.to_thread(line_of, process) == "held"
        waiters = [
            asyncio.create_task(
                manager.allocate({"cpu": 1}, pool="box", holder=f"w{n}", wait=LONG_S)
            )
            for n in range(3)
        ]

        async def all_wait() -> bool:
            return len(await manager.list(state="waiting")) == 3

        await until(all_wait)
        say_to(process)
        granted = await asyncio.wait_for(asyncio.gather(*waiters), 30)
        assert [handle.state for handle in granted] == ["active"] * 3
        assert await asyncio.to_thread(end, process) == 0


async def test_a_wait_that_is_over_is_refused(manager: AsyncResourceManager) -> None:
    await manager.allocate({"cpu": 4}, pool="box", holder="other")
    with pytest.raises(Refused) as caught:
        await manager.allocate({"cpu": 1}, pool="box", wait="150ms")
    assert caught.value.reason == Reason.WAIT_TIMED_OUT
    place = await manager.allocate({"cpu": 1}, pool="box", wait=LONG_S, block=False)
    assert (await manager.wait(place.id, timeout=0)).state == "waiting"
    assert (await manager.wait(place.id, timeout="30ms")).state == "waiting"


# --- being cancelled ---------------------------------------------------------------------------------


async def test_a_cancelled_wait_gives_its_place_up(manager: AsyncResourceManager) -> None:
    await manager.allocate({"cpu": 4}, pool="box", holder="other")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await manager.allocate({"cpu": 1}, pool="box", holder="me", wait=LONG_S)
    assert await manager.list(state="waiting") == []
    (withdrawn,) = await manager.events(type="withdrawn")
    assert withdrawn.body.cause == "withdrawn"


async def test_a_cancelled_wait_under_an_id_of_the_callers_own_can_be_gone_on_with(
    manager: AsyncResourceManager,
) -> None:
    held = await manager.allocate({"cpu": 4}, pool="box", holder="other")
    ask: dict[str, Any] = {"pool": "box", "holder": "me", "wait": LONG_S, "command_id": "mine"}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await manager.allocate({"cpu": 1}, **ask)
    (place,) = await manager.list(state="waiting")
    await manager.release(held.id, token=held.fencing_token)
    granted = await manager.allocate({"cpu": 1}, **ask)
    assert (granted.id, granted.state, granted.replayed) == (place.id, "active", True)


async def test_whenever_it_is_cancelled_an_allocate_leaves_nothing_behind(
    manager: AsyncResourceManager,
) -> None:
    for turns in range(12):
        task = asyncio.create_task(manager.allocate({"cpu": 4}, pool="box", holder="me"))
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns > 8:
            await asyncio.sleep(0.002 * (turns - 8))
        task.cancel()
        try:
            handle = await task
        except asyncio.CancelledError:
            pass
        else:
            await manager.release(handle.id, token=handle.fencing_token)
        assert await manager.list() == [], f"after {turns} turns"
    assert (await manager.verify()).ok


async def test_a_cancelled_caller_does_not_take_the_others_of_its_commit_along(
    manager: AsyncResourceManager,
) -> None:
    tasks = [
        asyncio.create_task(manager.allocate({"cpu": "500m"}, pool="box", holder=f"h{n}"))
        for n in range(4)
    ]
    await asyncio.sleep(0)
    tasks[1].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[1], asyncio.CancelledError)
    granted = [answers[n] for n in (0, 2, 3)]
    assert all(not isinstance(a, BaseException) and a.state == "active" for a in granted)
    assert len(await manager.list()) == 3


# --- lease() -----------------------------------------------------------------------------------------


@pytest.fixture
async def slow() -> AsyncIterator[AsyncResourceManager]:
    """A manager whose leases last twenty times longer than their renewals think."""
    async with await leasebook.aopen(":memory:", clock=Slow()) as made:
        await made.open_pool("box", capacity={"cpu": 4})
        yield made


async def test_a_lease_is_renewed_meanwhile_and_released_after(
    slow: AsyncResourceManager,
) -> None:
    manager = slow
    async with manager.lease({"cpu": 2}, pool="box", ttl="300ms", holder="me") as handle:

        async def renewed_thrice() -> bool:
            return (await types(manager)).count("renewed") >= 3

        await until(renewed_thrice)
        assert (await manager.get(handle.id)).state == "active"
    assert (await manager.get(handle.id)).ended_by == "released"


async def test_a_lease_is_released_when_its_block_is_cancelled_or_fails(
    manager: AsyncResourceManager,
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), manager.lease({"cpu": 4}, pool="box", holder="me"):
            await asyncio.sleep(LONG_S)
    with pytest.raises(ZeroDivisionError):
        async with manager.lease({"cpu": 4}, pool="box", holder="me"):
            raise ZeroDivisionError
    assert await manager.list() == []
    assert (await types(manager)).count("released") == 2


async def test_a_lease_that_is_lost_is_no_error_at_the_end(slow: AsyncResourceManager) -> None:
    manager = slow
    async with manager.lease({"cpu": 4}, pool="box", ttl="150ms", holder="me") as handle:
        await manager.reclaim(handle.id, reason="needed elsewhere")
        await asyncio.sleep(0.2)
        other = await manager.allocate({"cpu": 4}, pool="box", holder="you")
    assert (await manager.get(other.id)).state == "active"


# --- loops that come and go --------------------------------------------------------------------------


def test_one_ledger_serves_one_loop_after_another_and_threads_between(tmp_path: Path) -> None:
    with leasebook.open(tmp_path / "l.db") as blocking:
        blocking.open_pool("box", capacity={"cpu": 4})
        manager = AsyncResourceManager(blocking.ledger)
        for number in range(3):
            handle = asyncio.run(manager.allocate({"cpu": 1}, pool="box", holder=f"h{number}"))
            assert blocking.get(handle.id).state == "active"
        assert len(blocking.list()) == 3


def test_a_loop_that_ends_with_calls_under_way_leaves_the_ledger_usable(tmp_path: Path) -> None:
    with leasebook.open(tmp_path / "l.db") as blocking:
        blocking.open_pool("box", capacity={"cpu": 4})
        manager = AsyncResourceManager(blocking.ledger)

        async def leave() -> list[asyncio.Task[Any]]:
            tasks = [
                asyncio.create_task(manager.try_allocate({"cpu": 1}, pool="box", holder=f"h{n}"))
                for n in range(3)
            ]
            await asyncio.sleep(0)
            return tasks

        tasks = asyncio.run(leave())
        assert all(task.cancelled() for task in tasks)
        assert blocking.allocate({"cpu": "500m"}, pool="box").state == "active"
        assert blocking.verify().ok


async def test_a_closed_ledger_says_so(tmp_path: Path) -> None:
    manager = await leasebook.aopen(tmp_path / "l.db")
    await manager.open_pool("box", capacity={"cpu": 4})
    await manager.close()
    await manager.close()
    with pytest.raises(LedgerUnavailable, match="closed"):
        await manager.allocate({"cpu": 1}, pool="box")


async def test_monitoring_yields_until_it_is_left(manager: AsyncResourceManager) -> None:
    await manager.allocate({"cpu": 1}, pool="box")
    seen = []
    async for snapshot in manager.monitor(leasebook.MonitoringFilters(interval_s=0.01)):
        seen.append(snapshot)
        if len(seen) == 2:
            break
    assert [s.states for s in seen] == [{"active": 1}] * 2
