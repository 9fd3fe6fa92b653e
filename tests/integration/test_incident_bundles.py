"""Incident bundles as files: written by the command line, checked by a bare Python, looked into."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import pytest

from leasebook.cli.bundled import BundleSession
from leasebook.cli.session import Session
from leasebook.manager import Ledger as OpenLedger
from ledger.commands import Fact, OpenPool, RecordFacts, RecordUsage, SeeHolder
from ledger.fields import dump
from ledger.identity import ProcessIdentity
from ledger.notes import SigningKey
from ledger.requests import NodeSpec, Placement, Request
from ledger.sqlite_log import SqliteLog
from ledger.times import rfc3339
from ledger.writer import Writer
from ledger.writer import begin as begin_ledger
from projections.past import Past
from reports.incidents import open_bundle
from reports.incidents.columns import digests, of_type
from reports.incidents.container import unpacked
from reports.incidents.window import Span
from reports.incidents.writing import export
from tests.command_line import ROOT, Answer, CommandLine
from tests.ledgers import Clock, Ledger, allocate, check_whole
from tests.unit.command_maker import SECOND
from tests.unit.test_incidents import RandomHistory


@pytest.fixture
def lb(lb: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """A ledger of eight events: A3 is held, A4 was released, R6 refused, A7 waits, T8 finished."""
    monkeypatch.setenv("LEASEBOOK_HOLDER", "alice")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    lb.ok("pool", "open", "box", "cpu=4")
    lb.ok("allocate", "box", "cpu=2", "--task", "merger", "--meta", "secret=hunter2")
    lb.ok("allocate", "box", "cpu=1", "--holder", "bob", "--tenant", "acme")
    lb.ok("release", "A4", "--holder", "bob")
    assert lb("allocate", "box", "cpu=9").code == 3
    assert lb("allocate", "box", "cpu=3", "--enqueue", "--holder", "carol").code == 7
    lb.ok("task", "start", "merger")
    return lb


def bare(file: Path, *arguments: str, folder: Path | None = None) -> Answer:
    """Run a bundle with a Python that has nothing but its standard library, in an empty folder."""
    empty = (folder or file.parent) / "empty"
    empty.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(file), *arguments],
        capture_output=True,
        text=True,
        cwd=empty,
        env={},
        timeout=60,
    )
    assert list(empty.iterdir()) == []
    return Answer(done.returncode, done.stdout, done.stderr)


def exported(lb: CommandLine, *options: str, name: str = "x.zip") -> tuple[Path, Any]:
    file = lb.ledger.with_name(name)
    return file, lb.ok("incident", "export", str(file), *options)


WHOLE = ("--from", "#1", "--until", "#9")


# --- a bare Python -------------------------------------------------------------------------------


def test_bundle_checks_itself_on_a_bare_python(lb: CommandLine) -> None:
    file, document = exported(lb, "--from", "#3", "--until", "#6", "--note", "first look")
    assert document["window"] | {"first": 3, "last": 5} == document["window"]
    assert (document["base"], document["sealed"]) == (0, 8)
    assert document["bytes"] == file.stat().st_size
    assert file.stat().st_mode & 0o777 == 0o600
    answer = bare(file, "--key", document["verifier_key"])
    assert answer.code == 0, answer
    checks = [line.split()[1] for line in answer.out.splitlines() if line.startswith("ok")]
    assert checks == ["file", "signature", "members", "state", "payload", "chain", "folding"]
    assert "signed by " + document["verifier_key"] + ", with the key that was given" in answer.out
    assert "note        first look" in answer.out


def test_bundle_without_a_key_says_that_it_cannot_vouch_for_its_own(lb: CommandLine) -> None:
    file, _ = exported(lb, *WHOLE)
    answer = bare(file)
    assert answer.code == 0
    assert "a bundle cannot vouch for its own key" in answer.out


@pytest.mark.parametrize("checker", ["bare", "program"])
def test_bundle_signed_with_another_key_fails_with_exit_code_6(
    lb: CommandLine, monkeypatch: pytest.MonkeyPatch, checker: str
) -> None:
    file, document = exported(lb, *WHOLE)
    monkeypatch.setenv("XDG_STATE_HOME", str(file.parent / "elsewhere"))
    other = lb.ok("checkpoint")["verifier_key"]
    assert other != document["verifier_key"]
    check = bare if checker == "bare" else lambda f, *a: lb("incident", "verify", str(f), *a)
    answer = check(file, "--key", other)
    assert answer.code == 6
    assert "signed with another key" in answer.err
    assert len(answer.err.splitlines()) == 1
    assert check(file, "--key", "no key").code == 2


def test_checkpoint_that_was_kept_earlier_is_found_in_the_chain(lb: CommandLine) -> None:
    note = lb.ledger.with_name("kept.txt")
    lb.ok("checkpoint", "--out", str(note))
    lb.ok("allocate", "box", "cpu=1")
    file, document = exported(lb, "--from", "#3", "--until", "#6")
    assert document["sealed"] == 9
    arguments = ("--key", document["verifier_key"], "--checkpoint", str(note))
    for answer in (bare(file, *arguments), lb("incident", "verify", str(file), *arguments)):
        assert answer.code == 0
        assert "1 kept checkpoints agree" in answer.out
    # The bundle's own checkpoint is one like any other.
    own = lb.ledger.with_name("own.txt")
    own.write_bytes(unpacked(file.read_bytes())["checkpoint.txt"])
    assert lb("verify", "--checkpoint", str(own)).code == 0
    text = note.read_text("utf-8").replace("\n8\n", "\n7\n")
    note.write_text(text, "utf-8")
    for answer in (bare(file, *arguments), lb("incident", "verify", str(file), *arguments)):
        assert answer.code == 6
        assert "signature" in answer.err


def test_bundle_begins_at_the_last_recorded_digest_of_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.writer.CHECKPOINT_EVERY", 60)
    ledger = Ledger(tmp_path, "sqlite")
    ledger.pool(n1={"cpu": 8000})
    for _ in range(130):
        ledger.clock.run(1)
        ledger.release(ledger.got(holder="h1", task="t"))
    check_whole(ledger.writer)
    log = ledger.writer.log
    assert isinstance(log, SqliteLog)
    past = Past(log, ledger.writer.snapshots)
    key = SigningKey("leasebook/test-ledger", bytes(32))
    file = tmp_path / "x.zip"
    done = export(past, file, Span(150, 200), key, now=1, program="test")
    assert 90 <= done.manifest.base < 150
    row = past.row(done.manifest.base + 1)
    assert row is not None and row.type == "checkpointed"
    assert done.manifest.sealed == log.head().position > 260
    answer = bare(file, "--key", str(key.verifier))
    assert answer.code == 0, answer
    assert "digests that the ledger recorded" in answer.out
    opened = open_bundle(file).past()
    for position in (done.manifest.base, 149, 175, 200):
        assert dump(opened.book_at(position)) == dump(past.book_at(position))
    # The columns alone say the same as the rows, also where they come in many pages.
    monkeypatch.setattr("reports.incidents.columns.PAGE", 7)
    rows = [(row.position, row.digest) for row in log.read(100, 200)]
    assert list(digests(log, 100, 200)) == rows
    recorded = [(r.position, r.data) for r in log.read() if r.type == "checkpointed"]
    assert len(recorded) > 3 and list(of_type(log, "checkpointed", 0, 10**6)) == recorded
    ledger.close()


# --- one byte ------------------------------------------------------------------------------------


def regions(file: Path) -> dict[str, tuple[int, int]]:
    """Where in the file each member lies, header included, and the zip's directory and end."""
    with zipfile.ZipFile(file) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        begins = [info.header_offset for info in infos] + [archive.start_dir]
        found = {
            info.filename: (begin, end)
            for info, begin, end in zip(infos, begins, begins[1:], strict=False)
        }
    size = file.stat().st_size
    return found | {"directory": (begins[-1], size - 110), "end": (size - 110, size)}


def test_one_changed_byte_anywhere_fails_with_exit_code_6_in_one_line(lb: CommandLine) -> None:
    file, _ = exported(lb, *WHOLE)
    whole = file.read_bytes()
    broken = lb.ledger.with_name("broken.zip")
    random = Random(1)
    for name, (begin, end) in regions(file).items():
        for at in {begin, end - 1, *(random.randrange(begin, end) for _ in range(6))}:
            changed = bytearray(whole)
            changed[at] ^= random.randrange(1, 256)
            broken.write_bytes(changed)
            for arguments in (("verify",), ("open",)):
                answer = lb("incident", *arguments, str(broken))
                assert answer.code == 6, (name, at, answer)
                assert len(answer.err.splitlines()) == 1 and not answer.out, (name, at, answer)
    answer = lb("incident", "open", str(broken), "at", "now")
    assert answer.code == 6


def test_one_changed_byte_in_any_region_fails_on_a_bare_python(lb: CommandLine) -> None:
    file, _ = exported(lb, *WHOLE)
    whole = file.read_bytes()
    broken = lb.ledger.with_name("broken.zip")
    random = Random(2)
    middles = {name: random.randrange(b + 60, e) for name, (b, e) in regions(file).items()}
    # What Python itself needs to begin cannot be guarded from inside; still it never says ok.
    own = {"__main__.py", "directory", "end"}
    names = ["manifest.json", "checkpoint.txt", "base_book.json", "events.jsonl", "digests.bin"]
    for name in [*names, "ledger/evolve.py", "orjson.py", "README.txt", *own]:
        changed = bytearray(whole)
        changed[middles[name]] ^= 1
        broken.write_bytes(changed)
        answer = bare(broken)
        assert answer.code != 0, name
        assert "ok" not in answer.out.split(), name
        if name not in own:
            assert answer.code == 6, (name, answer)
            assert len(answer.err.splitlines()) == 1 and answer.err.startswith("FAILED"), answer


def test_truncated_bundle_fails_with_exit_code_6(lb: CommandLine) -> None:
    file, _ = exported(lb, *WHOLE)
    whole = file.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 200, len(whole) - 1):
        file.write_bytes(whole[:size])
        answer = lb("incident", "verify", str(file))
        assert answer.code == 6, size
        assert len(answer.err.splitlines()) == 1
    file.write_bytes(whole + b"x")
    assert lb("incident", "verify", str(file)).code == 6


def test_damage_is_told_as_json_too(lb: CommandLine) -> None:
    file, _ = exported(lb, *WHOLE)
    file.write_bytes(file.read_bytes()[:-1])
    answer = lb("incident", "verify", str(file), "--json")
    assert (answer.code, answer.json["error"]["reason"]) == (6, "corrupt")


# --- writing -------------------------------------------------------------------------------------


def test_file_that_is_there_is_replaced_only_by_force(lb: CommandLine) -> None:
    file, _ = exported(lb, *WHOLE)
    before = file.read_bytes()
    answer = lb("incident", "export", str(file), "--from", "#2", "--until", "#4")
    assert answer.code == 2
    assert "exists already" in answer.err
    assert file.read_bytes() == before
    assert lb.ok("incident", "export", str(file), "--from", "#2", "--until", "#4", "--force")
    assert file.read_bytes() != before
    link = file.with_name("link.zip")
    link.symlink_to(file.with_name("nowhere"))
    assert lb("incident", "export", str(link), *WHOLE).code == 2
    assert not file.with_name("nowhere").exists()
    assert not [p for p in file.parent.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    ("since", "until", "said"),
    [
        ("2001-01-01T00:00:00Z", "2001-01-02T00:00:00Z", "nothing was recorded"),
        ("#5", "#3", "upside down"),
        ("1m-ago", "2m-ago", "upside down"),
        ("#3", "#3", "upside down"),
        ("2101-01-01T00:00:00Z", "2101-01-02T00:00:00Z", "lies in the future"),
        ("#1", "2101-01-02T00:00:00Z", "lies in the future"),
        ("#100", "#200", "lies in the future"),
        ("#1", "#200", "lies in the future"),
        ("yesterdayish", "now", "is not a time"),
    ],
)
def test_window_that_cannot_be_is_refused(
    lb: CommandLine, since: str, until: str, said: str
) -> None:
    file = lb.ledger.with_name("x.zip")
    answer = lb("incident", "export", str(file), "--from", since, "--until", until)
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not file.exists()


def test_export_changes_nothing_in_the_ledger_and_works_where_it_cannot_be_written(
    lb: CommandLine,
) -> None:
    before = list(SqliteLog.open(lb.ledger, read_only=True).read())
    lb.ledger.chmod(0o400)
    exported(lb, "--from", "10m-ago", "--until", "now")
    lb.ledger.chmod(0o600)
    assert list(SqliteLog.open(lb.ledger, read_only=True).read()) == before


def test_sealed_at_its_end_a_bundle_needs_no_digests_beyond(lb: CommandLine) -> None:
    file, document = exported(lb, "--from", "#3", "--until", "#6", "--seal", "end")
    assert document["sealed"] == 5
    assert len(unpacked(file.read_bytes())["digests.bin"]) == 5 * 32
    assert bare(file, "--key", document["verifier_key"]).code == 0


# --- pseudonyms ----------------------------------------------------------------------------------

MACHINE = ProcessIdentity("secret-host", 4242, 77, "secret-boot", "secret-namespace")
NAMES = (
    *("alice", "bob", "carol", "acme", "merger", "hunter2", "secret", "dave", "erin", "frank"),
    *("payroll", "boss", "because", "command-x", "trainer", "cousins", "key-of"),
)


@pytest.fixture
def named(lb: CommandLine) -> CommandLine:
    """The same with names wherever one can be."""
    lb.ok(
        "allocate", "box", "cpu=1", "--holder", "dave", "--id", "command-x", "--sticky", "key-of-d"
    )
    lb.ok("transfer", "A9", "--holder", "dave", "--to", "erin")
    lb.ok("reclaim", "A9", "--force", "--reason", "because the boss said so")
    lb.ok("quota", "set", "cpu=3", "--tenant", "payroll", "--holder", "frank")
    lb.ok("quota", "set", "cpu=3", "--tenant", "payroll", "--cohort", "cousins")
    lb.ok("task", "finish", "merger", "--outcome", "merger is over")
    lb.ok("redact", "3", "--reason", "secret", "--by", "boss")
    opened = OpenLedger.open(str(lb.ledger))
    seen = SeeHolder(command_id="s", holder="frank", process=MACHINE, program="trainer")
    opened.writer.execute(seen)
    usage = RecordUsage(
        command_id="u",
        allocation="A3",
        since=1,
        until=2,
        used={"cpu": 1},
        peak={"cpu": 1},
        basis={"cpu": "secret-way"},
    )
    opened.writer.execute(usage)
    opened.close()
    return lb


@pytest.mark.parametrize("options", [(), ("--with-digests",), ("--seal", "end")], ids=str)
def test_no_name_is_left_anywhere_in_a_pseudonymised_bundle(
    named: CommandLine, options: tuple[str, ...]
) -> None:
    head = named.ok("verify")["events"]
    window = ("--from", "#1", "--until", f"#{head + 1}")
    file, document = exported(named, *window, "--pseudonyms", *options)
    members = unpacked(file.read_bytes())
    code = {name for name in members if name.endswith(".py")}
    for name in NAMES:
        there = [m for m, data in members.items() if m not in code and name.encode() in data]
        assert there == [], name
        assert name.encode() not in file.read_bytes() or name in ("because", "secret")
    assert document["digests"] is ("--with-digests" in options)
    answer = bare(file, "--key", document["verifier_key"])
    assert answer.code == 0, answer
    assert "not proven  that the events shown are the ledger's" in answer.out
    # Whoever held still holds, under one other name throughout.
    rows = [json.loads(line) for line in members["events.jsonl"].splitlines()]
    holders = {row.get("holder") for row in rows} - {None}
    assert len(holders) == 6 and all(h.startswith("holder-") for h in holders)
    moved = next(r for r in rows if r["type"] == "transferred")
    assert json.loads(moved["data"])["from_holder"] == rows[8]["holder"]
    assert "box" in {row.get("pool") for row in rows}


def test_pseudonyms_of_all_hide_pools_and_nodes_too(named: CommandLine) -> None:
    file, document = exported(named, *WHOLE, "--pseudonyms", "all")
    members = unpacked(file.read_bytes())
    shown = b"".join(data for name, data in members.items() if not name.endswith((".py", ".txt")))
    assert b'"box"' not in shown.replace(b"\\", b"")
    assert bare(file, "--key", document["verifier_key"]).code == 0
    held = named.ok("incident", "open", str(file), "at", "now")["allocations"]
    assert held[0]["pool"].startswith("pool-")
    assert held[0]["placements"][0]["node"].startswith("node-")


def test_two_bundles_give_one_name_two_pseudonyms(lb: CommandLine) -> None:
    shown = []
    for name in ("1.zip", "2.zip"):
        file, _ = exported(lb, *WHOLE, "--pseudonyms", name=name)
        shown.append(lb.ok("incident", "open", str(file), "show", "A3")["holder"])
    assert shown[0] != shown[1]


def test_no_path_of_the_machine_is_in_a_bundle(lb: CommandLine) -> None:
    file, _ = exported(lb, *WHOLE)
    members = unpacked(file.read_bytes())
    for word in (str(file.parent), str(Path.home()) + "/", str(ROOT)):
        assert not [name for name, data in members.items() if word.encode() in data]


# --- looking into one ----------------------------------------------------------------------------


def test_opened_bundle_answers_as_its_ledger_did(lb: CommandLine) -> None:
    file, _ = exported(lb, *WHOLE)
    for arguments in (
        ("at", "#5"),
        ("at", "#8"),
        ("diff", "#2", "#5"),
        ("why", "A4"),
        ("why", "R6"),
        ("why", "A7"),
        ("show", "A4"),
        ("show", "A3"),
        ("list",),
        ("events", "--type", "allocated"),
        ("replay", "--from", "#3", "--until", "#5"),
    ):
        of_ledger = lb(*arguments, "--json")
        of_bundle = lb("incident", "open", str(file), *arguments, "--json")
        assert (of_bundle.code, of_bundle.err) == (0, "")
        mine, theirs = (
            [json.loads(line) for line in a.out.splitlines()] for a in (of_bundle, of_ledger)
        )
        if arguments[0] == "at":
            # What was known: at the end of the window here, now there.
            assert [d.pop("known_at")["position"] for d in (*mine, *theirs)] == [8, 8]
        assert mine == theirs, arguments
        assert lb("incident", "open", str(file), *arguments).out == lb(*arguments).out


def test_state_stands_in_for_what_happened_before_the_bundle(tmp_path: Path) -> None:
    from ledger.notes import SigningKey
    from reports.incidents.window import Span
    from reports.incidents.writing import export

    history = RandomHistory(11, steps=120)
    past = history.past
    head = past.log.head().position
    file = tmp_path / "x.zip"
    key = SigningKey("leasebook/L", bytes(32))
    export(past, file, Span(head * 2 // 3, head), key, now=1, program="test")
    bundle = open_bundle(file)
    before = bundle.base.allocations
    assert len(before) > 3 and bundle.manifest.base > 20
    with BundleSession(Session(), bundle).open(read_only=True) as room:
        at_end = past.book_at(head).allocations
        for name, a in before.items():
            story = room.ask.why(name)
            assert story.allocation is not None and story.allocation.holder
            if name in at_end:
                found = story.allocation
                assert (found.state, found.amounts, found.lease_until) == (
                    at_end[name].state,
                    at_end[name].amounts,
                    at_end[name].lease_until,
                ), a
            assert room.ask.get(name).id == name


def test_audit_trail_of_a_bundle_rests_on_its_digests(lb: CommandLine) -> None:
    file, _ = exported(lb, *WHOLE)
    trail = lb("incident", "open", str(file), "audit", "A4")
    assert trail.code == 0
    assert "each agrees with its digest" in " ".join(trail.out.split())
    hidden, _ = exported(lb, *WHOLE, "--pseudonyms", name="hidden.zip")
    answer = lb("incident", "open", str(hidden), "audit", "A4")
    assert answer.code == 2
    assert "replaced names do not fit" in answer.err


def test_what_is_not_in_a_bundle_is_told_as_missing(lb: CommandLine) -> None:
    file, _ = exported(lb, *WHOLE)
    opened = ("incident", "open", str(file))
    assert lb(*opened, "show", "A99").code == 4
    assert lb(*opened, "why", "R3").code == 4
    for when in ("#99", "2001-01-01T00:00:00Z", "2101-01-01T00:00:00Z"):
        answer = lb(*opened, "at", when)
        assert answer.code == 2, answer
        assert len(answer.err.splitlines()) == 1
    assert lb(*opened, "release", "A3").code == 2
    assert lb("incident", "open", str(file) + "x").code == 2
    assert lb("incident", "verify", str(file.parent)).code == 2


def test_opened_bundle_says_what_is_in_it(lb: CommandLine) -> None:
    file, exported_ = exported(lb, "--from", "10m-ago", "--until", "now")
    document = lb.ok("incident", "open", str(file))
    assert document["ok"] is True
    assert [check["check"] for check in document["checks"]][-1] == "folding"
    assert document["window"] == exported_["window"]
    assert document["window"]["since"] < document["window"]["until"]
    text = lb("incident", "open", str(file)).out
    assert "window      events 1 to 8, from 2" in text
    assert f"ledger      {document['ledger_id']}" in text
    with_key = ("--key", document["verifier_key"])
    assert lb("incident", "open", str(file), *with_key, "at", "now").code == 0
    assert lb("incident", "open", *with_key, str(file), "list", "--holder", "alice").code == 0


def test_pseudonyms_hide_what_people_made_look_like_an_item_or_an_id(
    lb: CommandLine, tmp_path: Path
) -> None:
    lb.ok("allocate", "box", "cpu=1", "--holder", "carl", "--id", "patient#19850412")
    lb("allocate", "box", "cpu=9", "--holder", "carl", "--id", "#123456789")
    held = lb.ok("list")["allocations"][-1]["id"]
    lb.ok("reclaim", held, "--force", "--reason", "A7654321")
    file = tmp_path / "hidden.zip"
    lb.ok("incident", "export", str(file), "--from", "1", "--until", "now", "--pseudonyms")
    with zipfile.ZipFile(file) as archive:
        shown = b"".join(archive.read(name) for name in archive.namelist())
    for secret in (b"19850412", b"#123456789", b"A7654321"):
        assert secret not in shown
    assert lb("incident", "verify", str(file)).code == 0


def test_values_that_no_ledger_has_are_told_in_one_line_though_their_signature_holds(
    lb: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "odd.zip"
    lb.ok("incident", "export", str(file), "--from", "1", "--until", "now")

    def breaks(*_: object, **__: object) -> None:
        raise TypeError("'<' not supported between instances of 'str' and 'int'")

    monkeypatch.setattr("leasebook.cli.bundled._Reader.read", breaks)
    answer = lb("incident", "open", str(file), "list")
    assert answer.code == 6
    assert answer.err.count("\n") == 1
    assert "makes no sense, though it was signed" in answer.err


# --- beyond the window ---------------------------------------------------------------------------


def told(lb: CommandLine, *arguments: str) -> Any:
    """A document, or the lines of a replay, without what is known only now."""
    answer = lb(*arguments, "--json")
    assert answer.code == 0, answer
    documents = [json.loads(line) for line in answer.out.splitlines()]
    for document in documents:
        document.pop("known_at", None)
    return documents


def at_s(second: int) -> str:
    return rfc3339(second * SECOND) or ""


@pytest.fixture(params=[4096, 9], ids=["from event 1", "from a state"])
def imported(
    request: pytest.FixtureRequest, lb: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> tuple[CommandLine, Path]:
    """The ledger with somebody else's history imported, and a bundle of 60 seconds of that."""
    lb.ledger.unlink()
    monkeypatch.setattr("ledger.writer.CHECKPOINT_EVERY", request.param)
    with SqliteLog.open(lb.ledger, create=True) as log:
        history_of(log)
    file = lb.ledger.with_name("hour.zip")
    done = lb.ok("incident", "export", str(file), "--from", at_s(500), "--until", at_s(560))
    assert (done["base"] > 0) is (request.param == 9)
    return lb, file


def history_of(log: SqliteLog) -> None:
    """A thousand seconds that were imported in their own order, beside a pool that is managed."""
    clock = Clock()
    writer = Writer(log, clock=clock)
    begin_ledger(log, "L", writer)
    writer.execute(OpenPool(command_id="p", pool="far", nodes=(), kind="observed"))
    writer.execute(OpenPool(command_id="q", pool="box", nodes=(NodeSpec("n", {"cpu": 4_000}),)))
    writer.execute(allocate("a", 1_000, ttl=10**6))
    random = Random(3)
    for number in range(80):
        clock.run(1)
        begun = number * 12 + random.randrange(8)
        fact = Fact(
            key=f"sacct:{number}",
            holder=random.choice(("ann", "bob")),
            request=Request({"cpu": 1000}),
            placements=(Placement(random.choice(("n1", "n2")), {"cpu": 1000}, {}),),
            requested_at=(begun - random.randrange(5)) * SECOND,
            began_at=begun * SECOND,
            ended_at=(begun + random.randrange(5, 50)) * SECOND,
        )
        writer.execute(RecordFacts(command_id="", pool="far", facts=(fact,)))
    writer.execute(allocate("b", 1_000, ttl=10**6))


def test_inside_its_window_a_bundle_answers_as_the_ledger_does(
    imported: tuple[CommandLine, Path],
) -> None:
    lb, file = imported
    some_held = False
    for second in (500, 517, 533, 559, 560):
        for pool in ((), ("--pool", "far")):
            here = lb("incident", "open", str(file), "at", at_s(second), *pool, "--json")
            if here.code:
                # Of the managed pool it tells only from its first state on, and says so.
                assert not pool and "of box this bundle tells from" in here.err + here.out
                continue
            there = told(lb, "at", at_s(second), *pool)
            mine = told(lb, "incident", "open", str(file), "at", at_s(second), *pool)
            for document in (*mine, *there):
                document.pop("position")
            assert mine == there
            some_held = some_held or bool(mine[0]["allocations"])
    assert some_held
    for verb in (
        ("diff", at_s(505), at_s(560), "--pool", "far"),
        ("replay", "--from", at_s(500), "--until", at_s(560), "--pool", "far"),
    ):
        mine = told(lb, "incident", "open", str(file), *verb)
        there = told(lb, *verb)
        assert len(mine) == len(there)
        if verb[0] == "diff":
            assert mine[0]["allocations"] == there[0]["allocations"]
    # `now` is the window's end, and the end is what a replay goes on to.
    now = told(lb, "incident", "open", str(file), "at", "now", "--pool", "far")
    assert now == told(lb, "incident", "open", str(file), "at", at_s(560), "--pool", "far")
    frames = ("replay", "--from", at_s(500), "--pool", "far")
    assert told(lb, "incident", "open", str(file), *frames) == told(
        lb, "incident", "open", str(file), *frames, "--until", at_s(560)
    )


def test_beyond_its_window_a_bundle_refuses_to_tell_of_observed_pools(
    imported: tuple[CommandLine, Path],
) -> None:
    lb, file = imported
    inside, before, after = at_s(520), at_s(400), at_s(600)
    last = lb.ok("incident", "open", str(file))["window"]["last"]
    for verb in (
        ("at", before),
        ("at", after),
        ("at", at_s(499)),
        ("at", at_s(561)),
        ("at", f"#{last}"),
        ("diff", before, inside),
        ("diff", inside, after),
        ("replay", "--from", before, "--until", inside),
        ("replay", "--from", inside, "--until", after),
    ):
        for pool in ((), ("--pool", "far")):
            answer = lb("incident", "open", str(file), *verb, *pool)
            assert (answer.code, answer.out) == (2, ""), verb
            assert answer.err.count("\n") == 1
            if pool:
                window = f"of far it tells from {at_s(500)} to {at_s(560)}"
                assert f"lies outside of the bundle's window: {window}" in answer.err
    future = at_s(1_790_100_000)
    known = lb(
        "incident", "open", str(file), "at", inside, "--pool", "far", "--as-known-at", future
    )
    assert known.code == 2


def test_of_managed_pools_a_bundle_tells_all_that_its_events_cover(
    imported: tuple[CommandLine, Path],
) -> None:
    lb, file = imported
    page = lb.ok("incident", "open", str(file))
    last, base = page["window"]["last"], page["base"]
    for verb in (
        ("at", f"#{last}", "--pool", "box"),
        ("at", f"#{base + 4}", "--pool", "box"),
        ("diff", f"#{base + 4}", f"#{last}", "--pool", "box"),
    ):
        assert told(lb, "incident", "open", str(file), *verb) == told(lb, *verb)
    assert told(lb, "incident", "open", str(file), "at", "now", "--pool", "box")


def test_what_was_known_at_a_position_is_told_as_the_ledger_tells_it(
    imported: tuple[CommandLine, Path],
) -> None:
    lb, file = imported
    page = lb.ok("incident", "open", str(file))
    counts = set()
    for position in range(page["base"] + 2, page["window"]["last"] + 1):
        verb = ("at", at_s(530), "--pool", "far", "--as-known-at", f"#{position}")
        (mine,) = told(lb, "incident", "open", str(file), *verb)
        (there,) = told(lb, *verb)
        assert mine["allocations"] == there["allocations"]
        counts.add(len(mine["allocations"]))
    assert len(counts) > 1


def test_bundle_that_was_cut_by_position_tells_of_observed_pools_only_from_event_1(
    imported: tuple[CommandLine, Path],
) -> None:
    lb, _ = imported
    file = lb.ledger.with_name("cut.zip")
    head = lb.ok("verify")["events"]
    document = lb.ok("incident", "export", str(file), "--from", "#40", "--until", f"#{head + 1}")
    verb = ("at", at_s(520), "--pool", "far")
    answer = lb("incident", "open", str(file), *verb)
    if document["base"]:
        assert answer.code == 2 and "was cut by position" in answer.err
        assert (
            lb("incident", "open", str(file), "replay", "--from", "#41", "--until", "#44").code == 2
        )
    else:
        assert (
            told(lb, "incident", "open", str(file), *verb)[0]["allocations"]
            == (told(lb, *verb)[0]["allocations"])
        )
        replay = ("replay", "--from", "#41", "--until", "#44")
        assert told(lb, "incident", "open", str(file), *replay) == told(lb, *replay)
