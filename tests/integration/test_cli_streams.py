"""The command line on streams that are not as usual: other encodings, full, closed, another's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import ROOT, CommandLine
from tests.ledgers import unmeasured

NARROW = (
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "ascii:strict"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
)
"""Surroundings in which stdout cannot take every character."""

full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")


@pytest.fixture
def lb(lb: CommandLine) -> CommandLine:
    """A command line whose ledger has pool ``box``; A3 is held by 日本é."""
    lb.ok("pool", "open", "box", "cpu=4")
    lb.ok("allocate", "box", "cpu=1", "--holder", "日本é")
    return lb


def shell(line: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    """What a line of shell comes to, in which ``$LB`` is this program."""
    program = f"{sys.executable} -m leasebook"
    environment = {**unmeasured(), "PYTHONPATH": str(ROOT), "LB": program, **more}
    return subprocess.run(
        ["bash", "-c", line],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )


# --- encodings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("narrow", NARROW, ids=str)
@pytest.mark.parametrize(
    "words",
    ["doctor", "diff 1 now", "checkpoint", "allocate --help", "list", "audit", "show A3", "why A3"],
)
def test_what_a_stream_cannot_show_comes_out_escaped(
    lb: CommandLine, words: str, narrow: dict[str, str]
) -> None:
    done = shell(f"$LB {words}", **narrow)
    assert b"internal" not in done.stderr
    assert done.returncode == 0, done
    assert done.stdout


def test_an_escaped_name_can_still_be_read(lb: CommandLine) -> None:
    assert b"\\u65e5\\u672c\xe9" in shell("$LB list", PYTHONIOENCODING="latin-1").stdout


@pytest.mark.parametrize("narrow", NARROW, ids=str)
@pytest.mark.parametrize(
    "words",
    [
        "list --json",
        "events --json",
        "audit --json",
        "audit --format cloudevents",
        "report efficiency --by holder --format json",
        "at now --json",
    ],
)
def test_json_stays_json_with_the_same_names_in_any_encoding(
    lb: CommandLine, words: str, narrow: dict[str, str]
) -> None:
    done = shell(f"$LB {words}", **narrow)
    assert done.returncode == 0, done
    found = json.loads(done.stdout.decode("latin-1"))
    plain = json.loads(lb(*words.split()).out)
    assert "日本é" in json.dumps(found, ensure_ascii=False)
    assert _holders(found) == _holders(plain)


def _holders(document: Any) -> list[Any]:
    """All values under a key ``holder``, wherever it stands."""
    if isinstance(document, dict):
        own = [document["holder"]] if "holder" in document else []
        return own + [each for value in document.values() for each in _holders(value)]
    return (
        [each for one in document for each in _holders(one)] if isinstance(document, list) else []
    )


def test_characters_beyond_the_first_plane_are_escaped_as_json_has_them(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=1", "--holder", "😀")
    done = shell("$LB list --json --holder 😀", PYTHONIOENCODING="ascii:strict")
    assert b"\\ud83d\\ude00" in done.stdout
    assert json.loads(done.stdout)["allocations"][0]["holder"] == "😀"


def test_a_name_that_stderr_cannot_show_is_refused_as_elsewhere(lb: CommandLine) -> None:
    done = shell("$LB allocate 日本 cpu=1", PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 4
    assert b"there is no pool '\\u65e5\\u672c'" in done.stderr
    done = shell("$LB allocate box cpu=1 --holder 日本", PYTHONIOENCODING="ascii:strict")
    assert (done.returncode, done.stderr) == (0, b"")


# --- full ----------------------------------------------------------------------------------------


@full
@pytest.mark.parametrize("more", ["", "--json"])
@pytest.mark.parametrize("buffering", ["", "1"])
def test_what_was_done_is_said_where_its_answer_cannot_be_written(
    lb: CommandLine, more: str, buffering: str
) -> None:
    done = shell(f"$LB allocate box cpu=1 {more} >/dev/full", PYTHONUNBUFFERED=buffering)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert "was decided and recorded" in line and "No space left on device" in line
    assert [a["id"] for a in lb.ok("list")["allocations"]] == ["A3", "A4"]


@full
@pytest.mark.parametrize("words", ["list", "events --json", "export --out -", "audit"])
def test_a_look_that_cannot_be_written_claims_nothing(lb: CommandLine, words: str) -> None:
    done = shell(f"$LB {words} >/dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith(b"leasebook: stdout: No space left on device; ")


@full
def test_a_full_stderr_changes_no_exit_code(lb: CommandLine) -> None:
    assert shell("$LB allocate box cpu=-1 2>/dev/full").returncode == 2
    assert shell("$LB allocate box cpu=9 2>/dev/full").returncode == 3


@full
def test_an_error_in_json_that_cannot_be_written_is_a_line(lb: CommandLine) -> None:
    done = shell("$LB allocate box cpu=-1 --json >/dev/full")
    assert (done.returncode, b"is negative" in done.stderr) == (2, True)


# --- closed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("allocate box cpu=-1 --print id", 2),
        ("allocate box cpu=9 --print id", 3),
        ("nosuchverb", 2),
        ("pool", 2),
        ("whatif", 0),
        ("simulate nosuch.csv", 2),
    ],
)
def test_with_stderr_closed_nothing_but_answers_is_on_stdout(
    lb: CommandLine, words: str, code: int
) -> None:
    done = shell(f"$LB {words} 2>&-")
    assert done.returncode == code
    assert b"leasebook" not in done.stdout and b"Usage" not in done.stdout
    assert (done.stdout == b"") == (code > 0)


def test_with_stdout_closed_there_is_no_internal_error(lb: CommandLine) -> None:
    done = shell("$LB export --out - >&-")
    assert (done.returncode, done.stderr) == (
        2,
        b"leasebook: stdout is closed; give --out FILE\n",
    )
    for words in ("replay --from 1", "list", "events --json", "--help"):
        done = shell(f"$LB {words} >&-")
        assert (done.returncode, done.stderr) == (0, b""), words


def test_no_file_of_ours_takes_the_number_of_a_closed_stream(lb: CommandLine) -> None:
    done = shell("$LB run --quiet cpu=100m -- readlink /proc/self/fd/1 >&- 2>&-; echo $?")
    assert done.stdout == b"0\n"
    seen = shell(
        "$LB run --quiet cpu=100m -- sh -c 'readlink /proc/self/fd/2' 2>&-",
    )
    assert seen.stdout == b"/dev/null\n"


def test_a_reader_that_has_gone_is_no_failure(lb: CommandLine) -> None:
    done = shell("(sleep 0.2; $LB list; echo $? >&2) | true")
    assert done.stderr == b"141\n"


# --- the streams of a run ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        ("cpu=-1 -- true", 125, "invalid"),
        ("cpu=1", 125, "invalid"),
        ("--bogus -- true", 125, "invalid"),
        ("--wait soon cpu=1 -- true", 125, "invalid"),
        ("--pool box --wait 0 cpu=100 -- true", 124, "exceeds_pool"),
        ("--pool nosuch cpu=1 -- true", 124, "no_such_pool"),
        ("--pool box -- nosuchcommand", 127, "not_found"),
        ("--pool box -- /", 126, "not_executable"),
        ("--ledger broken.db -- true", 125, "not_a_ledger"),
    ],
)
def test_a_run_that_comes_to_nothing_says_so_in_one_line_of_json_on_stderr(
    lb: CommandLine, words: str, code: int, reason: str
) -> None:
    Path("broken.db").write_text("no ledger at all")
    done = shell(f"$LB run --json {words}")
    assert (done.returncode, done.stdout) == (code, b"")
    (line,) = done.stderr.splitlines()
    error = json.loads(line)["error"]
    assert list(error) == ["reason", "message", "hint"]
    assert error["reason"] == reason
    plain = shell(f"$LB run {words}")
    assert (plain.returncode, plain.stdout) == (code, b"")
    assert plain.stderr.startswith(b"leasebook: ")


def test_what_a_run_says_on_the_way_stands_in_its_json(lb: CommandLine) -> None:
    done = shell("$LB run --json --pool box --receipt no/folder/r.json -- echo mine")
    assert (done.returncode, done.stdout) == (0, b"mine\n")
    (line,) = done.stderr.splitlines()
    notes = json.loads(line)["notes"]
    assert any("a fair share" in note for note in notes)
    assert any("the receipt no/folder/r.json cannot be written" in note for note in notes)


def test_a_run_that_was_interrupted_before_it_began_says_so_in_json(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=3")
    waiting = lb.process("run", "--json", "--pool", "box", "cpu=4", "--", "true")
    assert any(row["type"] == "queued" for row in _followed(lb))
    waiting.terminate()
    out, err = waiting.communicate(timeout=30)
    assert (waiting.returncode, out) == (143, "")
    assert json.loads(err)["error"]["reason"] == "interrupted"


def _followed(lb: CommandLine) -> list[Any]:
    """Events up to the first that is queued, as they come."""
    follower = lb.process("events", "--follow", "--json")
    assert follower.stdout is not None
    seen = []
    for line in follower.stdout:
        seen.append(json.loads(line))
        if seen[-1]["type"] == "queued":
            break
    follower.kill()
    follower.communicate()
    return seen
