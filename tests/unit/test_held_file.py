"""Whether the file at a path is still the same one, asked in both ways a system may allow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ledger import held_file
from ledger.held_file import HeldFile, held


@pytest.fixture(params=["by its name", "by its number"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "by its number":
        monkeypatch.setattr(held_file, "_O_PATH", None)
    elif held_file._O_PATH is None:
        pytest.skip("this system has no descriptors that only name a file")
    made = tmp_path / "ledger.db-wal"
    made.write_bytes(b"x")
    return made


def test_a_file_that_is_written_to_is_in_place(path: Path) -> None:
    file = HeldFile(str(path))
    assert file.is_in_place()
    path.write_bytes(b"more")
    assert file.is_in_place()
    file.close()
    file.close()


def test_a_file_that_was_removed_is_not_in_place(path: Path) -> None:
    file = HeldFile(str(path))
    path.unlink()
    assert not file.is_in_place()
    file.close()


def test_another_file_in_its_place_is_another_file(path: Path) -> None:
    file = HeldFile(str(path))
    # Kept open, so that its number is not used again.
    with path.open("rb"):
        path.unlink()
        path.write_bytes(b"x")
        assert not file.is_in_place()
        new = HeldFile(str(path))
        assert new.is_in_place()
        new.close()
    file.close()


def test_a_file_that_was_renamed_is_not_in_place(path: Path) -> None:
    file = HeldFile(str(path))
    path.rename(path.with_name("elsewhere"))
    assert not file.is_in_place()
    file.close()


def test_nothing_is_held_where_there_is_no_file(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert held(str(tmp_path / "missing")) is None
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert before == after
