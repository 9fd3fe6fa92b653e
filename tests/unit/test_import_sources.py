"""What a file is read as before any format has a say: bytes, names, and reading it twice."""

from __future__ import annotations

import gzip
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasebook.importers.base import LATIN_1, Found, Options, Source, fit_name, open_reader
from ledger.amounts import NAME_LENGTH_MAX, check_name
from ledger.errors import InvalidInput
from tests.unit.test_import_sacct import COLUMNS, row


@given(st.text(), st.text())
def test_two_names_stay_two_and_are_names(first: str, second: str) -> None:
    names = fit_name(first), fit_name(second)
    for name in names:
        assert name is None or check_name("holder", name) == name
    if "\\" not in first + second and first.strip() != second.strip() and None not in names:
        assert names[0] != names[1]


def test_long_names_that_differ_at_their_ends_are_kept_apart() -> None:
    names = {fit_name("n" * NAME_LENGTH_MAX + end) for end in ("", "a", "b")}
    assert len(names) == 3
    assert all(name is not None and len(name) <= NAME_LENGTH_MAX for name in names)
    assert fit_name("  ann \n") == "ann" and fit_name(" \t") is None
    assert fit_name("a\x1bb") == "a\\x1bb"


def test_bytes_that_are_no_utf_8_are_latin_1_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "old.txt"
    path.write_bytes("Müller".encode("latin-1") + b"\n" + "Möller, 日\n".encode() + b"M\xf6\xe4\n")
    source = Source(str(path))
    assert [text for _, text in source.lines()] == ["Müller", "Möller, 日", "Möä"]
    assert source.recoded == 2
    source.close()
    assert bytes(range(128, 256)).decode("utf-8", LATIN_1).encode("latin-1") == bytes(
        range(128, 256)
    )


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_source_can_be_read_again_from_its_beginning(tmp_path: Path, is_packed: bool) -> None:
    content = b"\xef\xbb\xbfone\r\n\xe4\nthree"
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if is_packed else content)
    source = Source(str(path))
    source.keep()
    first = list(source.lines())
    source.rewind()
    assert list(source.raw_lines()) == [b"one\r\n", b"\xe4\n", b"three"]
    source.rewind()
    assert list(source.lines()) == first == [(1, "one"), (2, "ä"), (3, "three")]
    assert source.recoded == 1
    source.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_pipe_is_read_like_a_file(tmp_path: Path, is_packed: bool) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    step = row(JobID="7.0", JobIDRaw="7.0", MaxRSS="1G")
    content = "\n".join((COLUMNS, step, row(JobID="8"), row())).encode()

    def write() -> None:
        pipe.write_bytes(gzip.compress(content) if is_packed else content)

    writer = threading.Thread(target=write)
    writer.start()
    found = list(open_reader("sacct", str(pipe), Options()))
    writer.join()
    facts = [one.fact for one in found if isinstance(one, Found)]
    assert len(facts) == len(found) == 2
    assert facts[1].usage is not None and facts[1].usage.peak == {"memory": 2**30}


def test_what_cannot_be_copied_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    reading, writing = os.pipe()
    os.close(writing)
    monkeypatch.setattr("shutil.copyfileobj", full)
    with os.fdopen(reading, "rb") as pipe:
        source = Source(f"/dev/fd/{pipe.fileno()}")
        with pytest.raises(InvalidInput, match="No space left"):
            source.keep()
        source.close()
