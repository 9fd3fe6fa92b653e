"""What the dead hold is in nobody's way: whoever asks and finds no room looks once whether they live."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import leasebook
from ledger.errors import InvalidInput, Refused
from tests.command_line import CommandLine


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A ledger of one core, which a process holds that has been killed."""
    where = tmp_path / "ledger.db"
    with leasebook.open(where) as book:
        book.open_pool("box", capacity={"cpu": 1})
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        book.allocate({"cpu": 1}, pool="box", holder="agent", pid=child.pid)
        child.kill()
        child.wait()
        yield where


def test_who_does_not_wait_gets_what_the_dead_held(path: Path) -> None:
    with leasebook.open(path) as book:
        mine = book.allocate({"cpu": 1}, pool="box", holder="me")
        assert mine.state == "active"
        story = book.story("A3")
        assert "crashed" in story.steps[-1].text
        with pytest.raises(Refused) as refused:
            book.allocate({"cpu": 1}, pool="box", holder="other")
        assert [each["holder"] for each in refused.value.blockers] == ["me"]


def test_who_only_wants_a_place_in_the_queue_has_what_the_dead_held(path: Path) -> None:
    with leasebook.open(path) as book:
        result = book.try_allocate({"cpu": 1}, pool="box", holder="me", wait="1h")
        assert (result.outcome, result.replayed) == ("granted", False)
        waits = book.try_allocate({"cpu": 1}, pool="box", holder="other", wait="1h")
        assert waits.outcome == "waiting"


def test_an_atomic_batch_looks_as_well(path: Path) -> None:
    item = {"pool": "box", "holder": "me", "amounts": {"cpu": "500m"}}
    with leasebook.open(path) as book:
        batch = book.allocate_batch([item, item], atomic=True)
        assert [each.outcome for each in batch.results] == ["granted", "granted"]
        assert not any(each.replayed for each in batch.results)


def test_an_awaited_manager_looks_as_well(path: Path) -> None:
    async def ask() -> str:
        async with leasebook.aopen(path) as book:
            return str((await book.allocate({"cpu": 1}, pool="box", holder="me")).state)

    assert asyncio.run(ask()) == "active"


@pytest.mark.parametrize("verb", ["run", "allocate"])
def test_the_command_line_looks_as_well(
    verb: str,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LEASEBOOK_LEDGER", str(path))
    lb = CommandLine(path, capsys)
    if verb == "allocate":
        assert lb.ok("allocate", "box", "cpu=1")["outcome"] == "granted"
        return
    process = lb.process("run", "--pool", "box", "--wait", "0", "cpu=1", "--", "echo", "ran")
    assert process.communicate()[0] == "ran\n"
    assert process.returncode == 0


def test_what_was_asked_again_is_answered_as_before(path: Path) -> None:
    with leasebook.open(path) as book:
        first = book.allocate({"cpu": 1}, pool="box", holder="me", command_id="mine")
        again = book.try_allocate({"cpu": 1}, pool="box", holder="me", command_id="mine")
        assert again.replayed
        assert again.allocation is not None and again.allocation.id == first.id


@pytest.mark.parametrize("limit", ["max_age", "reserve", "ttl"])
def test_a_limit_of_nothing_is_bad_input_and_not_no_limit(path: Path, limit: str) -> None:
    options: dict[str, Any] = {limit: 0}
    with leasebook.open(path) as book, pytest.raises(InvalidInput, match="more than zero"):
        book.allocate({"cpu": 1}, pool="box", holder="me", **options)
