"""A ledger's file that is deleted, moved or replaced while it is open, or that no ledger can have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import leasebook


@pytest.fixture
def where(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    with leasebook.open(path) as book:
        book.open_pool("box", capacity={"cpu": 4})
    return path


def remove(path: Path) -> None:
    for name in path.parent.glob(path.name + "*"):
        name.unlink()


def test_a_deleted_ledger_acknowledges_nothing_more(where: Path) -> None:
    with leasebook.open(where) as book:
        book.allocate({"cpu": 1}, pool="box", holder="h")
        remove(where)
        with pytest.raises(leasebook.LedgerUnavailable, match="deleted or moved while it was open"):
            book.allocate({"cpu": 1}, pool="box", holder="h")
        with pytest.raises(leasebook.LedgerUnavailable, match="deleted or moved"):
            book.list()
    assert not where.exists()


def test_a_replaced_ledger_is_not_written_beside_the_new_one(where: Path) -> None:
    with leasebook.open(where) as book:
        book.allocate({"cpu": 3}, pool="box", holder="old")
        remove(where)
        with leasebook.open(where) as new:
            new.open_pool("box", capacity={"cpu": 4})
            new.allocate({"cpu": 3}, pool="box", holder="new")
            with pytest.raises(leasebook.LedgerUnavailable, match="replaced by another file"):
                book.allocate({"cpu": 1}, pool="box", holder="old")
            assert [held.holder for held in new.list()] == ["new"]


def test_a_ledger_that_is_put_back_goes_on(where: Path, tmp_path: Path) -> None:
    with leasebook.open(where) as book:
        held = book.allocate({"cpu": 1}, pool="box", holder="h")
        away = tmp_path / "away.db"
        where.rename(away)
        with pytest.raises(leasebook.LedgerUnavailable):
            book.release(held.id, holder="h")
        away.rename(where)
        book.release(held.id, holder="h")
        assert book.verify().ok


def test_a_file_in_the_place_of_the_ledgers_folder_is_told_from_the_ledger(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with leasebook.open(folder / "ledger.db") as book:
        book.open_pool("box", capacity={"cpu": 4})
        folder.rename(tmp_path / "moved")
        folder.write_text("a file where the folder was")
        with pytest.raises(leasebook.LedgerUnavailable, match="deleted or moved"):
            book.list()
        with pytest.raises(leasebook.LedgerUnavailable):
            book.allocate({"cpu": 1}, pool="box", holder="h")


def test_a_name_that_is_not_utf8_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    name = os.fsdecode(bytes(tmp_path) + b"/\xff.db")
    with pytest.raises(leasebook.NotALedger, match="not UTF-8"):
        leasebook.open(name)
    assert list(tmp_path.iterdir()) == []
