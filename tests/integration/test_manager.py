"""The blocking interface as its users meet it: handles, refusals, leases that are kept, and closing."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import leasebook
from leasebook import manager as manager_module
from leasebook.manager import RENEWALS_PER_TTL, TRIES_PER_RENEWAL, ResourceManager
from ledger.clock import Reading, machine_clock
from ledger.errors import (
    InvalidInput,
    LedgerReadOnly,
    LedgerUnavailable,
    NotALedger,
    Reason,
    Refused,
)
from tests.ledgers import Slow, end, line_of, python

GIB = 2**30


@pytest.fixture(params=["memory", "file"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return ":memory:" if request.param == "memory" else str(tmp_path / "ledger.db")


@pytest.fixture
def manager(where: str) -> Iterator[ResourceManager]:
    with leasebook.open(where) as made:
        made.open_pool("box", capacity={"cpu": 4, "memory": "8GiB"})
        yield made


def types(manager: ResourceManager) -> list[str]:
    return [event.type for event in manager.events()]


# --- granting and giving back ------------------------------------------------------------------------


def test_a_handle_says_what_was_granted_and_can_change_and_release_it(
    manager: ResourceManager,
) -> None:
    handle = manager.allocate(
        {"cpu": 2, "memory": "4GiB"}, pool="box", holder="me", task="t", metadata={"k": "v"}
    )
    assert (handle.state, handle.outcome, handle.node) == ("active", "granted", "box")
    assert handle.amounts == {"cpu": "2", "memory": "4Gi"}
    assert handle.base_units == {"cpu": 2000, "memory": 4 * GIB}
    assert (handle.holder, handle.task, handle.metadata) == ("me", "t", {"k": "v"})
    assert handle.id == f"A{handle.fencing_token}"
    grown = handle.adjust(cpu=3)
    assert grown.base_units == {"cpu": 3000, "memory": 4 * GIB}
    assert grown.fencing_token == handle.fencing_token
    later = handle.renew("1h")
    assert handle.expires_at_ns is not None
    assert later.expires_at_ns is not None
    assert later.expires_at_ns > handle.expires_at_ns
    # A handle is what it was; get() reads anew.
    assert handle.base_units["cpu"] == 2000
    assert handle.get().base_units["cpu"] == 3000
    result = handle.release()
    assert (result.outcome, result.allocation.state) == ("released", "ended")
    ended = handle.get()
    assert (ended.state, ended.ended_by, ended.metadata) == ("ended", "released", {"k": "v"})
    with pytest.raises(Refused) as caught:
        handle.release()
    assert caught.value.reason == Reason.ALREADY_ENDED


def test_a_refusal_is_an_exception_with_its_facts_and_a_value_where_asked_for(
    manager: ResourceManager,
) -> None:
    held = manager.allocate({"cpu": 3}, pool="box", holder="other")
    with pytest.raises(Refused) as caught:
        manager.allocate({"cpu": 2}, pool="box")
    error = caught.value
    assert error.reason == Reason.INSUFFICIENT_CAPACITY
    assert error.shortfall == {"box": {"cpu": 1000}}
    assert [b["allocation"] for b in error.blockers] == [held.id]
    assert error.result["fits_now"] == {"cpu": "1"}
    result = manager.try_allocate({"cpu": 2}, pool="box")
    assert (result.outcome, result.granted, result.allocation) == ("refused", False, None)
    assert result.refusal_id == error.refusal_id
    assert manager.why(error.refusal_id or "") is not None


def test_a_stale_token_cannot_release_what_has_changed_hands(manager: ResourceManager) -> None:
    handle = manager.allocate({"cpu": 1}, pool="box", holder="me")
    moved = manager.transfer(handle.id, to="you", holder="me")
    assert moved.fencing_token > handle.fencing_token
    for act in (handle.release, handle.renew, lambda: handle.adjust(cpu=2)):
        with pytest.raises(Refused) as caught:
            act()
        assert caught.value.reason == Reason.STALE_TOKEN
    assert moved.release().outcome == "released"


def test_asking_twice_under_one_id_is_one_allocation(manager: ResourceManager) -> None:
    first = manager.allocate({"cpu": 1}, pool="box", command_id="mine")
    again = manager.allocate({"cpu": 1}, pool="box", command_id="mine")
    assert (again.id, again.replayed, first.replayed) == (first.id, True, False)
    assert len(manager.list()) == 1
    with pytest.raises(Refused) as caught:
        manager.allocate({"cpu": 2}, pool="box", command_id="mine")
    assert caught.value.reason == Reason.COMMAND_ID_REUSED
    assert first.release().replayed is False
    assert manager.allocate({"cpu": 1}, pool="box", command_id="mine").state == "ended"


def test_a_forced_reclaim_of_a_processs_allocation_can_be_repeated_under_its_id(
    manager: ResourceManager,
) -> None:
    handle = manager.allocate({"cpu": 1}, pool="box", pid=os.getpid())
    first = manager.reclaim(handle.id, reason="maintenance", command_id="r", by="op")
    again = manager.reclaim(handle.id, reason="maintenance", command_id="r", by="op")
    assert (first.state, again.state, again.replayed) == ("ending", "ending", True)
    assert types(manager).count("ending") == 1


def test_a_batch_gives_one_result_for_each_request(manager: ResourceManager) -> None:
    batch = manager.allocate_batch(
        [
            {"amounts": {"cpu": 3}, "pool": "box"},
            leasebook.AllocationRequest({"cpu": 3}, pool="box"),
            {"amounts": {"cpu": 1}, "pool": "box"},
        ],
        command_id="b",
    )
    assert batch.outcome == "partial"
    assert [r.outcome for r in batch.results] == ["granted", "refused", "granted"]
    assert len(batch.handles) == 2
    again = manager.allocate_batch(
        [
            {"amounts": {"cpu": 3}, "pool": "box"},
            {"amounts": {"cpu": 3}, "pool": "box"},
            {"amounts": {"cpu": 1}, "pool": "box"},
        ],
        command_id="b",
    )
    assert again.replayed
    assert [r.outcome for r in again.results] == ["granted", "refused", "granted"]


@pytest.mark.parametrize(
    ("amounts", "options"),
    [
        ({"cpu": -1}, {}),
        ({"cpu": 0}, {}),
        ({}, {}),
        ({"cpu": "0.0001"}, {}),
        ({"cpu": 2**80}, {}),
        ({"memory": "4 parsecs"}, {}),
        ({"cpu": float("nan")}, {}),
        ({"cpu": True}, {}),
        ({"c p u": 1}, {}),
        ({"cpu": 1}, {"holder": ""}),
        ({"cpu": 1}, {"holder": "x" * 201}),
        ({"cpu": 1}, {"holder": "a\nb"}),
        ({"cpu": 1}, {"task": "\ud800"}),
        ({"cpu": 1}, {"command_id": ""}),
        ({"cpu": 1}, {"command_id": "\ud800"}),
        ({"cpu": 1}, {"tenant": "\ud800"}),
        ({"cpu": 1}, {"ttl": -5}),
        ({"cpu": 1}, {"ttl": "eleven years"}),
        ({"cpu": 1}, {"ttl": 5, "pid": os.getpid()}),
        ({"cpu": 1}, {"pid": 2**22 + 5}),
        ({"cpu": 1}, {"priority": "urgent"}),
        ({"cpu": 1}, {"strategy": "by feel"}),
        ({"cpu": 1}, {"metadata": {"a": object()}}),
        ({"cpu": 1}, {"select": {"model": ""}}),
    ],
    ids=map(str, range(24)),
)
def test_bad_input_is_one_clear_line_and_nothing_is_recorded(
    manager: ResourceManager, amounts: dict[str, Any], options: dict[str, Any]
) -> None:
    before = types(manager)
    with pytest.raises(InvalidInput) as caught:
        manager.allocate(amounts, pool="box", **options)
    assert "\n" not in caught.value.message
    assert types(manager) == before
    assert manager.allocate({"cpu": 1}, pool="box").state == "active"


@pytest.mark.parametrize("name", ["", "A\ud800", "A1\n", "x" * 40])
def test_what_cannot_be_an_id_is_bad_input_to_commands_and_no_such_thing_to_questions(
    manager: ResourceManager, name: str
) -> None:
    for act in (manager.release, manager.renew, manager.withdraw, manager.confirm):
        with pytest.raises(InvalidInput):
            act(name)
    for ask in (manager.get, manager.story):
        with pytest.raises(Refused) as caught:
            ask(name)
        assert caught.value.reason == Reason.NO_SUCH_ALLOCATION


# --- reading -----------------------------------------------------------------------------------------


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


def test_every_answer_counts_a_lapsed_lease_as_ended_though_nobody_has_written_it_down(
    where: str,
) -> None:
    clock = Later()
    with leasebook.open(where, clock=clock) as manager:
        manager.open_pool("box", capacity={"cpu": 4})
        handle = manager.allocate({"cpu": 3}, pool="box", ttl=60)
        place = manager.allocate({"cpu": 4}, pool="box", wait=30, block=False)
        drawn = manager.allocate({"cpu": 1}, pool="box", parent=handle.id)
        before = types(manager)
        clock.by = 61 * 10**9
        assert manager.list() == []
        assert (handle.get().state, handle.get().ended_by) == ("ended", "expired")
        assert handle.get().to_json()["ended_at"] == handle.to_json()["expires_at"]
        assert (place.get().state, place.get().ended_by) == ("ended", "timed_out")
        assert (drawn.get().state, drawn.get().ended_by) == ("ended", "leaked")
        pool = manager.pool("box")
        assert (pool["free"], pool["waiting"]) == ({"cpu": "4"}, 0)
        assert manager.snapshot().states == {}
        assert types(manager) == before
        with pytest.raises(Refused) as caught:
            handle.renew()
        assert caught.value.reason == Reason.ALREADY_ENDED


def test_a_handle_read_while_it_is_released_is_never_told_as_expired(
    manager: ResourceManager,
) -> None:
    stop = threading.Event()
    seen: set[str | None] = set()
    current: list[str] = []

    def read() -> None:
        while not stop.is_set():
            if current:
                seen.add(manager.get(current[-1]).ended_by)

    readers = [threading.Thread(target=read, daemon=True) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(60):
        handle = manager.allocate({"cpu": 1}, pool="box")
        current.append(handle.id)
        handle.release()
    stop.set()
    for reader in readers:
        reader.join(20)
    assert seen <= {None, "released"}


def test_metadata_is_redacted_with_proof_and_gone_from_every_answer(
    manager: ResourceManager,
) -> None:
    handle = manager.allocate({"cpu": 1}, pool="box", metadata={"secret": "xyzzy"}, command_id="m")
    position = int(handle.id[1:])
    assert manager.redact(position, "asked to forget").outcome == "redacted"
    assert handle.get().metadata == {}
    assert manager.verify().ok
    with pytest.raises(InvalidInput, match="no metadata"):
        manager.redact(position, "again")
    # The command is still the same command.
    again = manager.allocate({"cpu": 1}, pool="box", metadata={"secret": "xyzzy"}, command_id="m")
    assert again.replayed
    assert "xyzzy" not in str(list(manager.events()))


# --- lease() -----------------------------------------------------------------------------------------


@pytest.fixture
def slow(where: str) -> Iterator[ResourceManager]:
    """A manager whose leases last twenty times longer than their renewals think."""
    with leasebook.open(where, clock=Slow()) as made:
        made.open_pool("box", capacity={"cpu": 4})
        yield made


def test_a_lease_is_renewed_while_the_block_runs_and_released_after_it(
    slow: ResourceManager,
) -> None:
    manager = slow
    with manager.lease({"cpu": 2}, pool="box", ttl="300ms", holder="me") as handle:
        end_at = time.monotonic() + 20
        while types(manager).count("renewed") < 3 and time.monotonic() < end_at:
            time.sleep(0.02)
        assert handle.get().state == "active"
    assert types(manager).count("renewed") >= 3
    assert handle.get().ended_by == "released"
    after = types(manager)
    time.sleep(0.3)
    assert types(manager) == after


def test_a_lease_is_released_when_the_block_fails(manager: ResourceManager) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        manager.lease({"cpu": 2}, pool="box", holder="me") as handle,
    ):
        raise ZeroDivisionError
    assert handle.get().ended_by == "released"


def test_a_lease_that_is_lost_meanwhile_is_no_error_at_the_end_of_the_block(
    slow: ResourceManager,
) -> None:
    manager = slow
    with manager.lease({"cpu": 2}, pool="box", ttl="150ms", holder="me") as handle:
        manager.reclaim(handle.id, reason="needed elsewhere")
        time.sleep(0.2)
        assert handle.get().ended_by == "forced"
        other = manager.allocate({"cpu": 4}, pool="box", holder="you")
    # Nothing of the new holder's was released by the end of the block.
    assert other.get().state == "active"


def test_a_renewal_that_fails_is_tried_again_sooner_than_the_next_would_be(
    slow: ResourceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew = ResourceManager.renew
    failures = iter([LedgerUnavailable("busy")] * 2)
    tried = threading.Semaphore(0)
    pauses: list[float | None] = []

    class Noting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout)
            return super().wait(timeout)

    def flaky(self: ResourceManager, *args: Any, **options: Any) -> Any:
        tried.release()
        for error in failures:
            raise error
        return renew(self, *args, **options)

    monkeypatch.setattr(ResourceManager, "renew", flaky)
    with monkeypatch.context() as patch:
        patch.setattr(
            manager_module, "threading", SimpleNamespace(Event=Noting, Thread=threading.Thread)
        )
        with slow.lease({"cpu": 1}, pool="box", ttl="600ms") as handle:
            for _ in range(4):
                assert tried.acquire(timeout=20)
            assert handle.get().state == "active"
    assert "renewed" in types(slow)
    whole = 0.6 / RENEWALS_PER_TTL
    assert pauses[0] == pauses[3] == pytest.approx(whole)
    assert pauses[1] == pauses[2] == pytest.approx(whole / TRIES_PER_RENEWAL)


def test_a_lease_that_is_refused_never_enters_its_block(manager: ResourceManager) -> None:
    entered = False
    with pytest.raises(Refused), manager.lease({"cpu": 40}, pool="box"):
        entered = True
    assert not entered


# --- opening and closing -----------------------------------------------------------------------------


def test_what_is_held_stays_held_after_the_ledger_was_closed(tmp_path: Path) -> None:
    with leasebook.open(tmp_path / "l.db") as manager:
        manager.open_pool("box", capacity={"cpu": 1})
        handle = manager.allocate({"cpu": 1}, pool="box", command_id="c")
    with leasebook.open(tmp_path / "l.db") as manager:
        assert [h.id for h in manager.list()] == [handle.id]
        assert manager.allocate({"cpu": 1}, pool="box", command_id="c").replayed
    manager.close()


def test_a_closed_ledger_says_so_and_can_be_closed_twice(tmp_path: Path) -> None:
    manager = leasebook.open(tmp_path / "l.db")
    manager.open_pool("box", capacity={"cpu": 1})
    manager.close()
    manager.close()
    for act in (lambda: manager.allocate({"cpu": 1}, pool="box"), manager.list):
        with pytest.raises(LedgerUnavailable, match="closed"):
            act()


@pytest.mark.parametrize("content", [b"hello", b"SQLite format 3\x00" + bytes(500)])
def test_a_file_that_is_something_else_is_not_opened_and_not_touched(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "l.db"
    path.write_bytes(content)
    with pytest.raises((NotALedger, leasebook.LeasebookError)):
        leasebook.open(path)
    assert path.read_bytes() == content


def test_a_ledger_that_is_not_there_is_not_made_by_looking(tmp_path: Path) -> None:
    for options in ({"create": False}, {"read_only": True}):
        with pytest.raises(LedgerUnavailable, match="no ledger"):
            leasebook.open(tmp_path / "none.db", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_opened_for_reading_answers_and_refuses_to_write(tmp_path: Path) -> None:
    with leasebook.open(tmp_path / "l.db") as manager:
        manager.open_pool("box", capacity={"cpu": 1})
        handle = manager.allocate({"cpu": 1}, pool="box")
    with leasebook.open(tmp_path / "l.db", read_only=True) as reader:
        assert reader.get(handle.id).state == "active"
        assert reader.pool("box")["free"] == {"cpu": "0"}
        assert reader.verify().ok
        for act in (
            lambda: reader.release(handle.id),
            lambda: reader.allocate({"cpu": 1}, pool="box"),
            lambda: reader.open_pool("new", capacity={"cpu": 1}),
        ):
            with pytest.raises(LedgerReadOnly) as caught:
                act()
            assert caught.value.hint


def test_threads_share_a_manager_and_each_gets_its_own(manager: ResourceManager) -> None:
    got: list[str] = []

    def work(number: int) -> None:
        for turn in range(10):
            handle = manager.allocate({"cpu": "100m"}, pool="box", holder=f"h{number}")
            got.append(handle.id)
            if turn % 2:
                handle.release()

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(got)) == 60
    assert len(manager.list()) == 30
    assert manager.verify().ok


# --- forks -------------------------------------------------------------------------------------------


def test_a_forked_child_uses_the_manager_and_so_does_its_parent(tmp_path: Path) -> None:
    with leasebook.open(tmp_path / "l.db") as manager:
        manager.open_pool("box", capacity={"cpu": 4})
        mine = manager.allocate({"cpu": 1}, pool="box", holder="parent")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                manager.allocate({"cpu": 2}, pool="box", holder="child")
                with manager.lease({"cpu": 1}, pool="box", holder="child", ttl=5):
                    pass
                assert mine.get().state == "active"
                manager.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert {h.holder: h.amounts for h in manager.list()} == {
            "parent": {"cpu": "1"},
            "child": {"cpu": "2"},
        }
        assert mine.release().outcome == "released"
        assert manager.verify().ok


_WORKERS = """
import multiprocessing, sys
import leasebook
manager = leasebook.open(sys.argv[1])
manager.open_pool("box", capacity={"cpu": 4})
def work(number):
    with manager.lease({"cpu": 1}, pool="box", holder=f"w{number}", wait=30):
        return number
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(4) as pool:
        print(sorted(pool.map(work, range(12))), flush=True)
    print(len(manager.list()), manager.verify().ok, flush=True)
    manager.close()
"""


def test_a_pool_of_forked_workers_shares_a_manager_that_was_opened_before(tmp_path: Path) -> None:
    process = python(_WORKERS, tmp_path / "l.db")
    assert line_of(process) == str(list(range(12)))
    assert line_of(process) == "0 True"
    assert end(process) == 0


def test_why_tells_what_holds_a_request_up_at_present(tmp_path: Path) -> None:
    with leasebook.open(tmp_path / "ledger.db") as book:
        book.open_pool("box", capacity={"cpu": 1, "memory": 1})
        book.allocate({"cpu": 1}, pool="box", holder="first")
        waiting = book.allocate({"cpu": 1}, pool="box", holder="me", wait="1h", block=False)
        assert "first (A3) holds cpu=1" in book.why(waiting.id).answer
        book.set_quota({"cpu": "500m"}, holder="me")
        assert "may hold" in book.why(waiting.id).answer
        assert "holds cpu=1" not in book.why(waiting.id).answer
