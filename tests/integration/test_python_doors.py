"""The two ways into a ledger from Python, and what they refuse to be asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import leasebook


def test_an_awaited_ledger_is_entered_directly_or_awaited_first(tmp_path: Path) -> None:
    async def enter() -> str:
        async with leasebook.aopen(tmp_path / "ledger.db") as book:
            await book.open_pool("box", capacity={"cpu": 1})
            held = await book.allocate({"cpu": 1}, pool="box", holder="h")
        with pytest.raises(leasebook.LedgerUnavailable):
            await book.list()
        return held.id

    async def open_first(name: str) -> str:
        book = await leasebook.aopen(tmp_path / "ledger.db")
        async with book:
            return (await book.get(name)).holder

    assert asyncio.run(open_first(asyncio.run(enter()))) == "h"


@pytest.mark.parametrize("state", ["ended", "bogus"])
def test_a_list_by_a_state_that_nothing_held_can_have_is_refused(
    tmp_path: Path, state: str
) -> None:
    with leasebook.open(tmp_path / "ledger.db") as book:
        book.open_pool("box", capacity={"cpu": 1})
        book.release(book.allocate({"cpu": 1}, pool="box", holder="h").id, holder="h")
        with pytest.raises(leasebook.InvalidInput, match="has the state") as told:
            book.list(state=state)
        assert told.value.hint.startswith("choose one of waiting, reserved, active, ending")


def test_a_long_wait_is_told_in_hours(tmp_path: Path) -> None:
    with leasebook.open(tmp_path / "ledger.db") as book:
        book.open_pool("box", capacity={"cpu": 1})
        book.allocate({"cpu": 1}, pool="box", holder="h")
        waits = book.allocate({"cpu": 1}, pool="box", holder="w", wait="24h", block=False)
        assert "for 24 h at most" in book.story(waits.id).steps[0].text
