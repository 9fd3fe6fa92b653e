"""The command line's verbs on the record and its upkeep: proof, redaction, copies, sweeps."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ledger import sqlite_driver
from ledger.sqlite_log import SqliteLog
from tests.command_line import CommandLine
from tests.rows import row_after


@pytest.fixture
def lb(lb: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """A command line whose ledger has pool ``box``; A3 holds a core, with metadata."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    lb.ok("pool", "open", "box", "cpu=4")
    lb.ok("allocate", "box", "cpu=1", "--meta", "secret=hunter2")
    return lb


def tamper(ledger: Path, statement: str) -> None:
    """Change rows as somebody would who can write the file."""
    connection = sqlite3.connect(ledger)
    try:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in names.fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute(statement)
        connection.commit()
    finally:
        connection.close()


# --- verify and checkpoints ----------------------------------------------------------------------


def test_whole_log_verifies(lb: CommandLine) -> None:
    result = lb.ok("verify")
    assert result["ok"] is True
    assert result["events"] == 3
    assert re.fullmatch("[0-9a-f]{64}", result["head"])
    assert (result["first_bad"], result["redacted"], result["reason"]) == (None, 0, "")
    assert lb("verify").out.startswith("whole: 3 events, head ")


def test_changed_event_fails_the_verification_with_exit_code_6(lb: CommandLine) -> None:
    tamper(lb.ledger, "UPDATE events SET holder = 'somebody' WHERE position = 3")
    answer = lb("verify", "--json")
    assert answer.code == 6
    assert answer.json["ok"] is False
    assert answer.json["first_bad"] == 3
    words = lb("verify")
    assert (words.code, words.out) == (6, "")
    assert words.err.startswith("leasebook: the log is not whole: ")


def test_checkpoint_kept_elsewhere_proves_that_the_end_was_cut_off(
    lb: CommandLine, tmp_path: Path
) -> None:
    made = lb.ok("checkpoint", "--out", str(tmp_path / "note"))
    assert made["size"] == 3
    assert (tmp_path / "note").read_text("utf-8") == made["note"]
    lb.ok("release", "A3")
    key = made["verifier_key"]
    assert lb.ok("verify", "--checkpoint", str(tmp_path / "note"), "--key", key)["ok"]
    tamper(lb.ledger, "DELETE FROM events WHERE position >= 3")
    assert lb("verify").code == 0
    answer = lb("verify", "--checkpoint", str(tmp_path / "note"), "--key", key, "--json")
    assert answer.code == 6
    assert "cut off" in answer.json["reason"]


def test_own_key_verifies_without_being_named(lb: CommandLine, tmp_path: Path) -> None:
    note = str(tmp_path / "note")
    lb.ok("checkpoint", "--out", note)
    assert "1 checkpoints hold" in lb("verify", "--checkpoint", note).out
    keys = list((tmp_path / "state" / "leasebook" / "keys").iterdir())
    assert [oct(key.stat().st_mode & 0o777) for key in keys] == ["0o600"]


def test_machine_without_a_key_asks_for_it(
    lb: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = str(tmp_path / "note")
    lb.ok("checkpoint", "--out", note)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    answer = lb("verify", "--checkpoint", note)
    assert answer.code == 2
    assert "--key" in answer.err
    assert not (tmp_path / "elsewhere").exists()


def test_signing_key_that_cannot_be_made_is_said_by_its_name(
    lb: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    answer = lb("checkpoint")
    assert answer.code == 1
    assert "the signing key" in answer.err
    assert "Not a directory" in answer.err


def test_forged_checkpoint_fails_the_verification(lb: CommandLine, tmp_path: Path) -> None:
    note = tmp_path / "note"
    lb.ok("checkpoint", "--out", str(note))
    note.write_text(note.read_text("utf-8").replace("\n3\n", "\n2\n"), "utf-8")
    answer = lb("verify", "--checkpoint", str(note), "--json")
    assert answer.code == 6
    assert "changed" in answer.json["reason"]


def test_checkpoint_of_another_ledger_proves_nothing(lb: CommandLine, tmp_path: Path) -> None:
    other = str(tmp_path / "other.db")
    lb.ok("pool", "open", "p", "cpu=1", "--ledger", other)
    made = lb.ok("checkpoint", "--out", str(tmp_path / "note"), "--ledger", other)
    answer = lb(
        "verify", "--checkpoint", str(tmp_path / "note"), "--key", made["verifier_key"], "--json"
    )
    assert answer.code == 6


def test_key_that_is_none_is_bad_input(lb: CommandLine, tmp_path: Path) -> None:
    note = str(tmp_path / "note")
    lb.ok("checkpoint", "--out", note)
    assert lb("verify", "--checkpoint", note, "--key", "nonsense").code == 2


def test_checkpoint_goes_to_stdout_and_its_key_beside_it(lb: CommandLine) -> None:
    answer = lb("checkpoint")
    assert answer.out.startswith("leasebook/")
    assert answer.out.splitlines()[1] == "3"
    assert "verifier key: leasebook/" in answer.err


def test_checkpoint_overwrites_nothing(lb: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    assert lb("checkpoint", "--out", str(tmp_path / "note")).code == 2
    assert (tmp_path / "note").read_text() == "mine"


# --- redaction, copies ---------------------------------------------------------------------------


def test_redacted_metadata_is_gone_and_the_log_still_verifies(lb: CommandLine) -> None:
    done = lb.ok("redact", "#3", "--reason", "a password")
    assert done["redacted"] == 3
    assert lb.ok("show", "A3")["metadata"] == {}
    assert lb.ok("verify")["redacted"] == 1
    assert b"hunter2" not in lb("events", "--json").out.encode()
    assert lb("redact", "3", "--reason", "again").code == 2


def test_backup_is_a_whole_ledger_of_its_own(lb: CommandLine, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    made = lb.ok("backup", str(copy))
    assert (made["path"], made["position"]) == (str(copy), 3)
    assert made["size_bytes"] == copy.stat().st_size
    lb.ok("release", "A3")
    assert [a["id"] for a in lb.ok("list", "--ledger", str(copy))["allocations"]] == ["A3"]
    assert lb("backup", str(copy)).code == 2


def test_present_format_needs_no_upgrade(lb: CommandLine) -> None:
    done = lb.ok("upgrade")
    assert done["from_format"] == done["to_format"]
    assert done["backup"] is None


def test_newer_format_is_read_and_not_written(lb: CommandLine) -> None:
    connection = sqlite3.connect(lb.ledger)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert lb("list").code == 0
    answer = lb("release", "A3", "--json")
    assert answer.code == 1
    assert answer.json["error"]["reason"] == "read_only"
    assert lb("upgrade").code == 1


def test_events_of_a_newer_program_are_shown_as_they_are_and_nothing_is_guessed(
    lb: CommandLine,
) -> None:
    with SqliteLog.open(lb.ledger) as log, log.transaction() as transaction:
        head = transaction.head()
        transaction.append([row_after(head, type="teleported", data={"to": "mars"})])
    shown = lb.ok("events")["events"]
    assert (shown[-1]["type"], shown[-1]["data"]) == ("teleported", {"to": "mars"})
    assert shown[-2]["type"] == "allocated"
    assert (
        lb("events")
        .out.splitlines()[-1]
        .endswith('teleported  (of a newer program)  {"to":"mars"}')
    )
    assert lb("verify").code == 0
    for refused in (("list",), ("release", "A3")):
        answer = lb(*refused, "--json")
        assert answer.code == 1
        assert "teleported" in answer.json["error"]["message"]


# --- upkeep --------------------------------------------------------------------------------------


def test_sweep_takes_back_what_a_dead_process_held(lb: CommandLine) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        lb.ok("allocate", "box", "cpu=1", "--pid", str(process.pid))
        process.kill()
    would = lb.ok("sweep", "crash", "--dry-run")
    assert would["dry_run"] is True
    assert would["sweeps"][0]["acted"] == 1
    assert lb.ok("show", "A4")["state"] == "active"
    done = lb("sweep")
    assert "crash: ended 1 of" in done.out
    assert "A4 of me in box: crashed" in done.out
    shown = lb.ok("why", "A4")
    assert shown["allocation"]["ended_by"] == "crashed"
    assert str(shown["facts"]["evidence"]["pid"]) in lb("why", "A4").out


def test_sweep_writes_down_leases_that_are_over(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=1", "--ttl", "1ms")
    report = lb.ok("sweep", "expire")["sweeps"][0]
    assert (report["name"], report["acted"]) == ("expire", 1)
    assert lb.ok("events", "--type", "expired")["events"][0]["allocation"] == "A4"


def test_doctor_examines_the_ledger_that_is_named(lb: CommandLine) -> None:
    answer = lb("doctor", "--json")
    assert answer.code == (1 if answer.json["worst"] == "bad" else 0)
    named = {finding["name"] for finding in answer.json["findings"]}
    assert {"sqlite", "ledger", "permissions"} <= named
    assert str(lb.ledger) in lb("doctor").out


def test_clock_is_accepted_only_where_it_jumped(lb: CommandLine) -> None:
    assert lb.ok("doctor", "--accept-clock")["accepted"] is False
    assert "nothing to accept" in lb("doctor", "--accept-clock").out


def test_redaction_says_when_a_reader_keeps_the_erased_text_in_the_file(lb: CommandLine) -> None:
    # Locks only show between connections of one SQLite library, or of two processes.
    reader = sqlite_driver.sqlite3.connect(lb.ledger, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM events").fetchone()
    answer = lb("redact", "3", "--reason", "asked for", "--json")
    assert (answer.code, answer.json["erasure_pending"]) == (0, True)
    assert "until every program that has it open has closed it" in answer.err
    reader.close()
    lb.ok("allocate", "box", "cpu=1", "--meta", "secret=other")
    assert lb.ok("redact", "5", "--reason", "asked for")["erasure_pending"] is False
    assert b"hunter2" not in lb.ledger.read_bytes()
