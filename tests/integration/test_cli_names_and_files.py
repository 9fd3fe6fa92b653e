"""Names that are not there, full disks, odd files and the doctor, on the command line."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from ledger import notes
from tests.command_line import CommandLine


@pytest.fixture
def lb(lb: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """A command line whose ledger has pool ``box``, in which A3 holds a core."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    lb.ok("pool", "open", "box", "cpu=4")
    lb.ok("allocate", "box", "cpu=1")
    return lb


# --- names that are not there --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("why", ""), 2, "'' is neither an allocation nor a refusal"),
        (("list", "--pool", "nosuch"), 4, "there is no pool 'nosuch'"),
        (("events", "--type", "nosuch"), 2, "there is no event type 'nosuch'; there are "),
        (("events", "--type", "nosuch", "--follow"), 2, "there is no event type 'nosuch'"),
        (("pool", "cordon", "nosuch"), 4, "no open pool has a node 'nosuch'"),
        (("pool", "uncordon", "nosuch"), 4, "no open pool has a node 'nosuch'"),
        (("redact", "99999", "--reason", "x"), 4, "there is no event 99999"),
        (("redact", "0", "--reason", "x"), 4, "there is no event 0"),
        (("correct", "99999", "--reason", "x"), 4, "there is no event 99999"),
    ],
)
def test_what_is_not_there_is_said_and_records_nothing(
    lb: CommandLine, words: tuple[str, ...], code: int, says: str
) -> None:
    answer = lb(*words)
    assert (answer.code, answer.out) == (code, "")
    assert says in answer.err
    assert lb(*words, "--json").json["error"]["hint"]
    assert lb.ok("verify")["events"] == 3


def test_pool_that_is_empty_is_no_missing_pool(lb: CommandLine) -> None:
    lb.ok("pool", "open", "bare", "cpu=1")
    assert lb.ok("list", "--pool", "bare")["allocations"] == []
    lb.ok("pool", "close", "bare")
    assert lb("list", "--pool", "bare").out == "nothing is held, nobody waits\n"


def test_event_type_that_did_not_happen_yet_is_no_error(lb: CommandLine) -> None:
    assert lb.ok("events", "--type", "reclaimed")["events"] == []


def test_refusal_that_names_nobody_is_audited_without_a_name(lb: CommandLine) -> None:
    assert lb("release", "nosuch").code == 4
    answer = lb("audit", "R4")
    assert answer.code == 0
    assert "Refused\n" in answer.out and "None" not in answer.out


# --- tasks ---------------------------------------------------------------------------------------


def test_task_that_is_finished_twice_is_noted(lb: CommandLine) -> None:
    first = lb("task", "finish", "nightly")
    assert (first.code, first.err) == (0, "")
    again = lb("task", "finish", "nightly")
    assert again.code == 0
    assert again.err.startswith("leasebook: event 4 finished it already")
    assert lb.ok("task", "finish", "nightly")["finished_before"] == 5
    # Of another tenant it is another task.
    assert lb.ok("task", "finish", "nightly", "--tenant", "b")["finished_before"] is None


def test_task_that_was_started_anew_may_be_finished_anew(lb: CommandLine) -> None:
    for _ in range(2):
        lb.ok("task", "start", "nightly")
        assert lb.ok("task", "finish", "nightly")["finished_before"] is None


# --- files ---------------------------------------------------------------------------------------


def test_disk_that_is_full_is_named_with_the_file_and_leaves_nothing_of_it(
    lb: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    commands = (
        ("audit", "--out", "full.txt"),
        ("export", "--out", "full.txt"),
        ("incident", "export", "full.txt", "--from", "1", "--until", "now"),
    )
    lb.ok("checkpoint")
    for words in commands:
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", no_room)
            answer = lb(*words)
        assert (answer.code, answer.out) == (1, "")
        assert answer.err.startswith("leasebook: full.txt: No space left on device; ")
        assert [path for path in tmp_path.iterdir() if "full" in path.name] == []
    assert lb(*commands[0]).code == 0


def test_checkpoint_that_found_no_room_can_be_written_again(
    lb: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lb.ok("checkpoint")
    sign = notes.sign_note
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def sign_before_the_disk_is_full(*given: Any) -> str:
        signed = sign(*given)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        return signed

    with monkeypatch.context() as patch:
        patch.setattr(notes, "sign_note", sign_before_the_disk_is_full)
        try:
            answer = lb("checkpoint", "--out", "kept.txt")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert answer.code == 1
    assert answer.err.startswith("leasebook: kept.txt: File too large; ")
    assert not (tmp_path / "kept.txt").exists()
    lb.ok("checkpoint", "--out", "kept.txt")
    assert lb("verify", "--checkpoint", "kept.txt").code == 0


@pytest.mark.parametrize("content", [b"hello\n", b"", b"one\ntwo\nthree\n"])
def test_file_that_is_no_checkpoint_says_nothing_of_the_log(
    lb: CommandLine, tmp_path: Path, content: bytes
) -> None:
    lb.ok("checkpoint")
    (tmp_path / "x").write_bytes(content)
    answer = lb("verify", "--checkpoint", "x")
    assert answer.code == 2
    assert answer.err.startswith("leasebook: x is no checkpoint: ")
    assert "`leasebook checkpoint` wrote" in answer.err


def test_checkpoint_that_was_changed_proves_nothing_still(lb: CommandLine, tmp_path: Path) -> None:
    lb.ok("checkpoint", "--out", "x")
    note = (tmp_path / "x").read_text()
    for changed in (note.replace("\n3\n", "\n2\n"), "\n".join(note.split("\n")[:3])):
        (tmp_path / "x").write_text(changed)
        assert lb("verify", "--checkpoint", "x").code == 6


# --- the doctor ----------------------------------------------------------------------------------


def bad(lb: CommandLine, name: str, *words: str) -> dict[str, Any]:
    """The doctor's bad finding of this name, after seeing that it fails."""
    answer = lb("doctor", "--json", *words)
    assert answer.code == 1
    assert "Error" not in answer.out
    (found,) = (f for f in answer.json["findings"] if (f["name"], f["level"]) == (name, "bad"))
    return dict(found)


def test_doctor_finds_a_gate_that_cannot_be_opened(lb: CommandLine) -> None:
    gate = Path(f"{lb.ledger}.gate")
    gate.unlink()
    assert lb("doctor").code == 0
    gate.mkdir(0o700)
    assert lb("allocate", "box", "cpu=1").code == 1
    found = bad(lb, "gate")
    assert "cannot be opened (Is a directory), so nothing can be written" in found["message"]
    gate.rmdir()
    gate.symlink_to("elsewhere")
    assert "cannot be opened" in bad(lb, "gate")["message"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every file")
def test_doctor_finds_a_gate_without_permission(lb: CommandLine) -> None:
    Path(f"{lb.ledger}.gate").chmod(0)
    assert "Permission denied" in bad(lb, "gate")["message"]


def test_doctor_finds_a_path_that_leads_nowhere(lb: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "a.db").symlink_to("b.db")
    (tmp_path / "b.db").symlink_to("a.db")
    found = bad(lb, "ledger", "--ledger", "a.db")
    assert "Too many levels of symbolic links" in found["message"]
    (tmp_path / "file").write_text("no folder")
    assert "Not a directory" in bad(lb, "ledger", "--ledger", "file/l.db")["message"]


def test_doctor_takes_a_ledger_yet_to_come_as_such(lb: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to("later.db")
    answer = lb("doctor", "--ledger", "link.db")
    assert (answer.code, "there is no ledger at link.db yet" in answer.out) == (0, True)
