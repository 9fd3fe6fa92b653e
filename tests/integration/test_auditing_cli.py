"""The verb ``audit`` as people call it: filters, formats, files, and what is said of bad input."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import leasebook
from ledger.chain import digest_of, link, metadata_hash
from ledger.log import Row
from ledger.sqlite_log import SqliteLog
from tests.command_line import CommandLine
from tests.unit.test_audit import check_cloud_event


@pytest.fixture
def lb(lb: CommandLine) -> CommandLine:
    """A ledger in which ``me`` held, ``other`` was refused and ``theirs`` is another tenant's."""
    lb.ok("pool", "open", "box", "cpu=4")
    lb.ok("allocate", "box", "cpu=3", "--task", "build", "--meta", "run=7")
    lb("allocate", "box", "cpu=2", "--holder", "other")
    lb.ok("allocate", "box", "cpu=1", "--holder", "they", "--tenant", "theirs")
    lb.ok("release", "A3")
    lb.ok("allocate", "box", "cpu=2", "--holder", "other")
    return lb


def test_trail_of_an_allocation_reads_as_sentences(lb: CommandLine) -> None:
    told = lb("audit", "A3").out
    assert told.startswith("A3: me for task build held cpu=3 of box on box for")
    for part in (
        "me got cpu=3 of box on box, for 15 min unless renewed",
        'Noted with it: {"run":"7"}',
        "Decided under the policy of pool box as event 2 left it.",
        "me released it",
        "Checked: 2 events shown",
        "All times are UTC",
    ):
        assert part in told


def test_trail_of_a_refusal_tells_what_came_of_it(lb: CommandLine) -> None:
    told = lb("audit", "R4").out
    assert "other was refused cpu=2 of box: insufficient capacity" in told
    assert "other's next request was granted cpu=2: A7 (event 7)" in told
    assert "other got cpu=2 of box on box" in told


def test_filters_narrow_the_trail(lb: CommandLine) -> None:
    def positions(*filters: str) -> list[int]:
        document = lb.ok("audit", *filters)
        assert document["report"] == "audit" and document["position"] == 7
        return [row["position"] for row in document["rows"]]

    assert positions() == [1, 2, 3, 4, 5, 6, 7]
    assert positions("--holder", "me") == [3, 6]
    assert positions("--task", "build") == [3, 6]
    assert positions("--tenant", "theirs") == [5]
    assert positions("--pool", "box") == [2, 3, 4, 5, 6, 7]
    assert positions("--type", "refused") == [4]
    assert positions("--since", "#3", "--until", "#5") == [3, 4]
    assert positions("--since", "1h-ago", "--holder", "other") == [4, 7]
    assert positions("--until", "1h-ago") == []
    assert "nothing that was asked for is in the record" in lb("audit", "--holder", "nobody").out


def test_every_format_goes_to_stdout_or_to_a_file(lb: CommandLine, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(lb("audit", "--format", "csv").out, newline="")))
    assert [row["position"] for row in rows] == [str(n) for n in range(1, 8)]
    batch = json.loads(lb("audit", "A3", "--format", "cloudevents").out)
    assert [event["subject"] for event in batch] == ["A3", "A3"]
    for event in batch:
        check_cloud_event(event)
    out = tmp_path / "trail.json"
    done = lb.ok("audit", "A3", "--format", "json", "--out", str(out))
    assert done == {"report": "audit", "format": "json", "path": str(out), "rows": 2, "ok": True}
    assert json.loads(out.read_text())["rows"][0]["allocation"] == "A3"
    assert lb("audit", "A3", "--out", str(out)).code == 2
    assert lb("audit", "A3", "--out", str(out), "--force").out == f"{out}  2 events\n"
    assert out.read_text().startswith("A3: me for task build")
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("A99",), 4, "there is no allocation A99"),
        (("R3",), 4, "there is no refusal R3"),
        (("A3", "--tenant", "theirs"), 4, "there is no allocation A3"),
        (("X3",), 2, "'X3' is neither an allocation nor a refusal"),
        (("A0",), 2, "'A0' is neither an allocation nor a refusal"),
        (("--type", "granted"), 2, "there is no event type 'granted'"),
        (("--since", "now", "--until", "1h-ago"), 2, "is not after --since now"),
        (("--since", "#5", "--until", "#5"), 2, "is not after --since #5"),
        (("--since", "2999-01-01"), 2, "lies in the future"),
        (("--since", "yesterday-ish"), 2, "'yesterday-ish' is not a time"),
        (("--out", "no/such/folder/file"), 2, "cannot be written"),
        (("--force",), 2, "--force is for --out FILE"),
        (("--json", "--format", "csv"), 2, "two answers"),
    ],
)
def test_bad_input_is_said_in_one_line(
    lb: CommandLine, arguments: tuple[str, ...], code: int, said: str
) -> None:
    answer = lb("audit", *arguments)
    assert answer.code == code, answer
    text = answer.err or answer.out
    assert said in text and text.count("\n") == 1 and "Traceback" not in text


def test_changed_row_is_named_and_the_exit_code_is_6(lb: CommandLine) -> None:
    with closing(sqlite3.connect(lb.ledger)) as connection:
        named = "SELECT sql FROM sqlite_master WHERE name = 'events_no_update'"
        ((trigger,),) = connection.execute(named)
        connection.execute("DROP TRIGGER events_no_update")
        connection.execute("UPDATE events SET holder = 'someone' WHERE position = 3")
        connection.execute(trigger)
        connection.commit()
    answer = lb("audit", "A3")
    assert answer.code == 6
    assert "NOT SOUND: the content or the hash of event 3" in " ".join(answer.out.split())
    assert "is not what was recorded" in answer.err
    assert lb("audit", "A5").code == 0


def test_redaction_shows_where_it_was_and_why(lb: CommandLine) -> None:
    lb.ok("redact", "3", "--reason", "asked for", "--by", "ops")
    told = lb("audit", "A3").out
    assert "Its metadata was erased by ops: asked for (event 8)." in told
    assert "ops erased the metadata of event 3: asked for" in told
    document = lb.ok("audit", "A3")
    assert document["rests_on"]["redacted"] == [3] and document["rests_on"]["ok"] is True
    assert document["rows"][0]["redacted_by"] == [8] and document["rows"][0]["metadata"] is None


def test_event_that_only_a_newer_program_knows_is_shown_as_stored(lb: CommandLine) -> None:
    log = SqliteLog.open(lb.ledger)
    with closing(log), log.transaction() as transaction:
        head = transaction.head()
        at = head.recorded_at + 1
        names = ("default", "box", "A7", "other", None, None)
        data = '{"to":"moon"}'
        digest = digest_of(8, at, at, "teleported", 3, *names, data, metadata_hash(None))
        row = Row(8, at, at, "teleported", 3, *names, data, None, digest, link(head.hash, digest))
        transaction.append([row])
    told = " ".join(lb("audit", "A7").out.split())
    assert 'of type teleported, which this program cannot read: {"to":"moon"}' in told
    assert "Not understood: 1 event (8)" in told
    assert lb.ok("audit", "--type", "teleported")["rests_on"]["unknown"] == [8]
    assert lb.ok("export", "--out", str(lb.ledger) + ".jsonl")["rows"] == 8


def test_audit_writes_nothing(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=1", "--ttl", "1ms")
    head = lb.ok("events", "--limit", "0")["position"]
    headline = lb.ok("audit", f"A{head}")["headline"]
    assert "its time was over at" in headline and "not written down yet" in headline
    assert lb.ok("events", "--limit", "0")["position"] == head


def test_python_reads_the_same_trail_from_an_open_ledger(lb: CommandLine) -> None:
    import time

    from reports.audit import Asked, audit, trail_document

    with leasebook.open(lb.ledger) as manager:
        trail = audit(manager.ledger.writer.log, Asked(holder="me"), now=time.time_ns())
    assert trail_document(trail)["rows"] == lb.ok("audit", "--holder", "me")["rows"]
