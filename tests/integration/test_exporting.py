"""The verb ``export``: JSON Lines that prove the chain, Parquet by day, CloudEvents, and tables."""

from __future__ import annotations

import gzip
import hashlib
import json
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import leasebook
from ledger.chain import metadata_hash
from ledger.codec import to_row
from ledger.errors import LedgerCorrupt
from ledger.events import Event, Redacted, TaskStarted
from ledger.log import GENESIS, Head, Row
from ledger.memory_log import MemoryLog
from ledger.verify import verify
from projections import views_file
from reports.exporting.exports import EventExport, Wanted
from tests.command_line import CommandLine
from tests.unit.storage_examples import BODIES, example
from tests.unit.test_audit import check_cloud_event, log_of

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
NO_PYARROW = "pyarrow is not installed: pip install 'leasebook[parquet]'"


@pytest.fixture
def lb(lb: CommandLine) -> CommandLine:
    lb.ok("pool", "open", "box", "cpu=4", "memory=4GiB")
    lb.ok("allocate", "box", "cpu=1", "memory=1GiB", "--meta", "note=secret")
    lb.ok("allocate", "box", "cpu=1", "--holder", "größer", "--meta", "x=1")
    lb("allocate", "box", "cpu=4", "--holder", "other")
    lb.ok("release", "A3")
    return lb


def chain_of(lines: Iterator[str]) -> tuple[int, str]:
    """Compute the chain from exported lines alone, with the standard library: events, last hash."""
    events = [json.loads(line) for line in lines]
    erased = {
        event["data"]["position"]: event["data"]["metadata_sha256"]
        for event in events
        if event["type"] == "redacted"
    }
    before = bytes(32)
    for position, event in enumerate(events, 1):
        assert event["position"] == position
        data = canonical(event["data"])
        metadata = bytes(32)
        if event["metadata"] is not None:
            metadata = hashlib.sha256(canonical(event["metadata"])).digest()
        elif position in erased:
            metadata = bytes.fromhex(erased[position])
        names = ("type", "tenant", "pool", "allocation", "holder", "task", "command_id")
        texts = [None if event[name] is None else event[name].encode() for name in names] + [data]
        integers = (event["position"], event["at"], event["recorded_at"], event["schema"])
        content = struct.pack(">qqqi", *integers)
        content += struct.pack(">8i", *(-1 if text is None else len(text) for text in texts))
        content += b"".join(text or b"" for text in texts) + metadata
        digest = hashlib.sha256(content).digest()
        assert digest.hex() == event["digest"], position
        before = hashlib.sha256(before + digest).digest()
        assert before.hex() == event["hash"], position
    return len(events), before.hex()


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


# --- JSON Lines ----------------------------------------------------------------------------------


def test_chain_can_be_computed_again_from_the_exported_lines_alone(lb: CommandLine) -> None:
    lb.ok("redact", "3", "--reason", "asked for")
    done = lb.ok("export", "--out", "log.jsonl")
    events, last = chain_of(iter(Path("log.jsonl").read_text("utf-8").splitlines()))
    assert (events, last) == (done["rows"], lb.ok("verify")["head"])
    manifest = json.loads(Path("log.jsonl.manifest.json").read_text())
    assert manifest["last_hash"] == last and manifest["last_position"] == events
    digest = hashlib.sha256(Path("log.jsonl").read_bytes()).hexdigest()
    assert manifest["files"][0]["sha256"] == digest


def test_every_event_type_survives_the_export() -> None:
    log = log_of([example(position, body) for position, body in enumerate(BODIES, 1)])
    written: list[bytes] = []
    EventExport(log, Wanted(), 0).to_stream(written.append)
    lines = b"".join(written).decode().splitlines()
    # The example's `redacted` names a metadata that is still there, which the chain does not mind.
    events, last = chain_of(iter(lines))
    assert (events, last) == (len(BODIES), log.head().hash.hex())


def test_lines_go_to_stdout_and_through_gzip_the_same(lb: CommandLine) -> None:
    with lb.process("export", "--out", "-") as process:
        assert process.stdout is not None
        plain = process.stdout.read()
    lb.ok("export", "--out", "log.jsonl.gz")
    first = Path("log.jsonl.gz").read_bytes()
    assert gzip.decompress(first).decode() == plain
    lb.ok("export", "--out", "log.jsonl.gz", "--force")
    assert Path("log.jsonl.gz").read_bytes() == first


def test_export_is_narrowed_by_position_and_time(lb: CommandLine) -> None:
    def exported(*bounds: str) -> list[int]:
        lb.ok("export", "--out", "part.jsonl", "--force", *bounds)
        lines = Path("part.jsonl").read_text().splitlines()
        return [json.loads(line)["position"] for line in lines]

    assert exported("--after", "3") == [4, 5, 6]
    assert exported("--since", "#2", "--until", "#4") == [2, 3]
    assert exported("--until", "1h-ago") == []
    assert exported("--since", "1h-ago") == [1, 2, 3, 4, 5, 6]


def test_existing_file_is_kept_without_force(lb: CommandLine) -> None:
    Path("mine.txt").write_text("mine")
    answer = lb("export", "--out", "mine.txt")
    assert answer.code == 2 and "exists already" in answer.err
    assert Path("mine.txt").read_text() == "mine"


def test_export_that_fails_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    class Breaking(MemoryLog):
        def read(self, after: int = 0, upto: int | None = None) -> Iterator[Any]:
            for row in super().read(after, upto):
                if row.position == 20:
                    raise RuntimeError("torn")
                yield row

    rows = list(log_of([example(p, body) for p, body in enumerate(BODIES, 1)]).read())
    export = EventExport(Breaking(rows), Wanted(upto=10), 0)
    export.to_folder(tmp_path / "whole", force=False)
    broken = EventExport(Breaking(rows), Wanted(upto=10), 0)
    broken.last = 25
    for out, write in (("file.jsonl", broken.to_file), ("folder", broken.to_folder)):
        with pytest.raises(RuntimeError, match="torn"):
            write(tmp_path / out, force=False)
    assert not (tmp_path / "file.jsonl").exists()
    assert list((tmp_path / "folder").iterdir()) == []
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".partial")] == []


def test_cloud_events_come_as_lines_that_keep_the_rules(lb: CommandLine) -> None:
    lb.ok("export", "--out", "ce.jsonl", "--format", "cloudevents")
    events = [json.loads(line) for line in Path("ce.jsonl").read_text("utf-8").splitlines()]
    assert [event["type"] for event in events][:3] == [
        "org.leasebook.ledger_opened.v1",
        "org.leasebook.pool_opened.v1",
        "org.leasebook.allocated.v1",
    ]
    for event in events:
        check_cloud_event(event)
    assert events[2]["subject"] == "A3" and events[2]["data"]["data"]["amounts"]["cpu"] == 1000


# --- folders and Parquet -------------------------------------------------------------------------


def days(count: int, each: int = 3) -> list[Event]:
    """A few events on each of several days."""
    events = [example(1, BODIES[0])]
    start = 1_790_000_000 * SECOND
    for position in range(2, count * each + 1):
        at = start + (position - 1) // each * DAY
        body = TaskStarted("h")
        events.append(
            Event(position, at, at, "default", None, None, "h", f"t{position}", None, body)
        )
    return events


def read_parquet(folder: Path) -> list[dict[str, Any]]:
    pytest.importorskip("pyarrow", reason=NO_PYARROW)
    import pyarrow.dataset as ds

    table = ds.dataset(folder, partitioning="hive", exclude_invalid_files=True).to_table()
    rows: list[dict[str, Any]] = table.to_pylist()
    return sorted(rows, key=lambda row: int(row["position"]))


def test_parquet_holds_every_event_typed_and_partitioned_by_day(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason=NO_PYARROW)
    events = days(4)
    log = log_of(events)
    done = EventExport(log, Wanted(format="parquet"), 0).to_folder(tmp_path / "pq", force=False)
    assert done["rows"] == len(events)
    found = read_parquet(tmp_path / "pq")
    stored = list(log.read())
    assert [row["position"] for row in found] == [row.position for row in stored]
    for row, was in zip(found, stored, strict=True):
        assert row["recorded_at_ns"] == was.recorded_at and row["data"] == was.data
        assert (row["digest"], row["hash"]) == (was.digest, was.hash)
        moment = datetime.fromtimestamp(was.recorded_at / SECOND, UTC)
        assert row["recorded_at"] == moment and str(row["date"])[:10] == f"{moment:%Y-%m-%d}"
    parts = sorted(p.relative_to(tmp_path / "pq") for p in (tmp_path / "pq").rglob("*.parquet"))
    assert len(parts) == 5 and parts[0].parts[0] == "date=1970-01-01"


def test_parquet_amounts_are_a_typed_map(lb: CommandLine) -> None:
    pytest.importorskip("pyarrow", reason=NO_PYARROW)
    lb.ok("export", "--out", "pq", "--format", "parquet")
    granted = read_parquet(Path("pq"))[2]
    assert dict(granted["amounts"]) == {"cpu": 1000, "memory": 2**30}
    assert json.loads(granted["metadata"]) == {"note": "secret"}


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_later_export_adds_to_a_folder_and_changes_nothing_in_it(
    lb: CommandLine, form: str
) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow", reason=NO_PYARROW)
    export = ("export", "--out", "out/", "--format", form)
    assert lb.ok(*export)["rows"] == 6
    before = {p: p.read_bytes() for p in Path("out").rglob("*events*") if p.is_file()}
    again = lb(*export)
    assert again.code == 2 and "go on from there with --after 6" in again.err
    assert lb(*export, "--after", "5").code == 2
    lb.ok("renew", "A4", "--holder", "größer")
    lb.ok("renew", "A4", "--holder", "größer")
    assert lb.ok(*export, "--after", "6")["rows"] == 2
    after = {p: p.read_bytes() for p in Path("out").rglob("*events*") if p.is_file()}
    assert len(after) == len(before) + 1
    assert all(after[path] == content for path, content in before.items())
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert (manifest["rows"], manifest["last_position"]) == (8, 8)
    assert [part["after"] for part in manifest["exports"]] == [0, 6]
    assert manifest["last_hash"] == lb.ok("verify")["head"]
    assert {part["path"] for part in manifest["files"]} == {
        str(path.relative_to("out")) for path in after
    }
    assert lb.ok(*export, "--force")["rows"] == 8
    whole = [p for p in Path("out").rglob("*events*") if p.is_file()]
    assert len(whole) == 1 and json.loads(Path("out/manifest.json").read_text())["rows"] == 8


def test_folder_with_something_else_in_it_is_let_be(lb: CommandLine) -> None:
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    for force in ((), ("--force",)):
        answer = lb("export", "--out", "out", *force)
        assert answer.code == 2 and "is not empty, and holds no export" in answer.err
    Path("out/manifest.json").write_text("{}")
    assert "is not the manifest of an export" in lb("export", "--out", "out").err
    assert sorted(p.name for p in Path("out").iterdir()) == ["manifest.json", "mine.txt"]


def test_export_of_another_ledger_is_not_added_to(lb: CommandLine, tmp_path: Path) -> None:
    lb.ok("export", "--out", "out/")
    other = str(tmp_path / "other.db")
    lb.ok("pool", "open", "box", "cpu=4", "--ledger", other)
    answer = lb("export", "--out", "out/", "--ledger", other)
    assert answer.code == 2 and "holds an export of" in answer.err


def test_missing_pyarrow_is_one_line_that_says_what_to_install(
    lb: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    answer = lb("export", "--out", "pq", "--format", "parquet")
    assert answer.code == 2 and answer.err.count("\n") == 1
    assert "pip install 'leasebook[parquet]'" in answer.err
    assert not Path("pq").exists()


# --- tables, and bad input -----------------------------------------------------------------------


def test_table_of_the_projections_is_exported(lb: CommandLine) -> None:
    done = lb.ok("export", "--what", "allocations", "--out", "a.jsonl")
    rows = [json.loads(line) for line in Path("a.jsonl").read_text("utf-8").splitlines()]
    assert done["rows"] == len(rows) == 2
    assert {row["id"] for row in rows} == {"A3", "A4"}
    answer = lb("export", "--what", "nonsense", "--out", "b.jsonl")
    assert answer.code == 2 and "there is no table 'nonsense'" in answer.err


def test_table_goes_to_stdout_or_into_a_folder(lb: CommandLine) -> None:
    lb.ok("export", "--what", "allocations", "--out", "a.jsonl")
    with lb.process("export", "--what", "allocations", "--out", "-") as process:
        assert process.stdout is not None
        assert process.stdout.read() == Path("a.jsonl").read_text("utf-8")
    Path("tables").mkdir()
    done = lb.ok("export", "--what", "pools", "--out", "tables", "--format", "jsonl")
    assert done["path"] == "tables/pools.jsonl" and Path(done["path"]).read_text() != ""
    for form in ("parquet", "cloudevents"):
        answer = lb("export", "--what", "pools", "--out", "-", "--format", form)
        assert answer.code == 2 and "cannot go to stdout" in answer.err
    assert "only events can be CloudEvents" in lb(
        "export", "--what", "pools", "--out", "x", "--format", "cloudevents"
    ).err  # fmt: skip


def test_table_as_parquet_has_times_and_amounts_typed(lb: CommandLine) -> None:
    pytest.importorskip("pyarrow", reason=NO_PYARROW)
    import pyarrow.parquet as pq

    lb.ok("export", "--what", "allocations", "--out", "a.parquet")
    table = pq.read_table("a.parquet")
    assert str(table.schema.field("requested_at").type) == "timestamp[us, tz=UTC]"
    rows = {row["id"]: row for row in table.to_pylist()}
    assert dict(rows["A3"]["amounts"]) == {"cpu": 1000, "memory": 2**30}


def test_every_table_and_view_is_exported_as_parquet_too(lb: CommandLine) -> None:
    pytest.importorskip("pyarrow", reason=NO_PYARROW)
    import pyarrow.parquet as pq

    listed = lb("export", "--what", "nonsense", "--out", "x").err
    names = listed.split("there are events, ")[1].strip().split(", ")
    assert {"steps", "series", "allocations", "demand"} <= set(names)
    for name in names:
        done = lb.ok("export", "--what", name, "--out", f"{name}.parquet")
        assert pq.read_table(f"{name}.parquet").num_rows == done["rows"]


def test_an_amount_beyond_64_bits_is_told_and_not_cut(lb: CommandLine) -> None:
    pytest.importorskip("pyarrow", reason=NO_PYARROW)
    most = 2**63 - 1
    lb.ok("pool", "open", "api", "tokens=4", "--consumable")
    with leasebook.open(lb.ledger) as book:
        held = book.allocate({"tokens": 1}, pool="api", holder="h")
        for n in range(3):
            book.record_usage(
                held.id, since=n, until=n + 1, used={"tokens": most}, peak={"tokens": 1}
            )
    answer = lb("export", "--what", "allocations", "--out", "a.parquet")
    assert (answer.code, answer.out) == (2, "")
    assert f"{3 * (2**63 - 1)} of tokens" in answer.err
    lb.ok("export", "--what", "allocations", "--out", "a.jsonl", "--format", "jsonl")
    assert str(3 * (2**63 - 1)) in Path("a.jsonl").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "no/folder/x.jsonl"), "cannot be written"),
        (("--out", "x", "--after", "99"), "there is no event 99 yet"),
        (("--out", "x", "--after", "few"), "'few' is not a position"),
        (("--out", "x", "--since", "now", "--until", "1h-ago"), "is not after"),
        (("--out", "x", "--since", "2999-01-01"), "lies in the future"),
        (("--out", "-", "--format", "parquet"), "Parquet needs a folder"),
        (("--out", "-", "--json"), "takes no --json"),
        (("--out", "x", "--what", "allocations", "--after", "1"), "a table is exported whole"),
        ((), "missing option '--out'"),
    ],
)
def test_bad_input_is_said_in_one_line(
    lb: CommandLine, arguments: tuple[str, ...], said: str
) -> None:
    answer = lb("export", *arguments)
    assert answer.code == 2, answer
    text = answer.err or answer.out
    assert said in text and text.count("\n") == 1
    assert not Path("x").exists()


@pytest.mark.parametrize("beside", ["", "-wal", ".gate", ".views.db"])
def test_force_never_replaces_a_ledger_or_what_belongs_to_it(
    lb: CommandLine, tmp_path: Path, beside: str
) -> None:
    place = Path(f"{lb.ledger}{beside}")
    lb.ok("projections", "rebuild")
    place.touch()
    for command in (
        ("export", "--out", str(place), "--force"),
        ("export", "--what", "allocations", "--out", str(place), "--force"),
        ("audit", "--out", str(place), "--force"),
        ("incident", "export", str(place), "--from", "1", "--until", "now", "--force"),
    ):
        answer = lb(*command)
        assert answer.code == 2, command
        assert "which nothing replaces" in answer.err
    assert lb("verify").code == 0


# --- what is exported is checked -----------------------------------------------------------------


class Rows(MemoryLog):
    """A log of rows as somebody left them."""

    def __init__(self, rows: list[Row]) -> None:
        super().__init__()
        self.left = rows

    def head(self) -> Head:
        last = self.left[-1]
        return Head(last.position, last.hash, last.recorded_at)

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Row]:
        yield from (
            row
            for row in self.left
            if after < row.position and (upto is None or row.position <= upto)
        )


def redacted_log(*, again: bool) -> list[Row]:
    """Rows of every type; the metadata of some was erased, as a later row says.

    ``again``: then the metadata of one of these later rows too.
    """
    bodies = [body for body in BODIES if not isinstance(body, Redacted)]
    plain = [example(position, body) for position, body in enumerate(bodies, 1)]
    count = len(plain)
    which = (3, 7, count + 1) if again else (3, 7)
    for erased in which:
        # The first redaction's own metadata is erased as well, by the third.
        row = to_row(plain[erased - 1], GENESIS)
        digest = metadata_hash(row.metadata).hex()
        told = example(len(plain) + 1, Redacted(erased, digest, "asked for", "ops"))
        plain.append(told if again and erased == 3 else replace(told, metadata=None))
    rows = list(log_of(plain).read())
    for erased in which:
        rows[erased - 1] = rows[erased - 1]._replace(metadata=None)
    return rows


ROWS = redacted_log(again=False)
CHANGES: list[Callable[[Row], Row]] = [
    lambda row: row._replace(data=row.data.replace("{", '{"x":1,', 1)),
    lambda row: row._replace(data="no json"),
    lambda row: row._replace(holder="mallory"),
    lambda row: row._replace(at=row.at + 1),
    lambda row: row._replace(schema=2**40),
    lambda row: row._replace(metadata='{"other":1}'),
    lambda row: row._replace(metadata=None),
    lambda row: row._replace(digest=bytes(32)),
    lambda row: row._replace(hash=bytes(32)),
    lambda row: row._replace(hash=row.hash[:5]),
    lambda row: row._replace(position=row.position + 1000),
]


def exported_of(log: MemoryLog, wanted: Wanted) -> tuple[list[int], int | None]:
    """Positions that were written, and the first at fault."""
    written: list[bytes] = []
    bad = None
    try:
        EventExport(log, wanted, 0).to_stream(written.append)
    except LedgerCorrupt as error:
        bad = error.position
    return [json.loads(line)["position"] for line in b"".join(written).splitlines()], bad


def test_export_of_a_log_with_redactions_is_sound_wherever_it_ends() -> None:
    rows = redacted_log(again=True)
    log = Rows(rows)
    assert verify(log).redacted == 3
    for last in range(1, len(rows) + 1):
        assert exported_of(log, Wanted(upto=last)) == (list(range(1, last + 1)), None)
    for after in range(len(rows)):
        assert exported_of(log, Wanted(after=after))[1] is None


@given(st.data())
def test_export_ends_where_verify_finds_the_first_fault(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(ROWS) - 1))
    changed = data.draw(st.sampled_from(CHANGES))(ROWS[at])
    log = Rows([*ROWS[:at], changed, *ROWS[at + 1 :]])
    found = verify(log)
    written, bad = exported_of(log, Wanted())
    assert bad == found.first_bad
    if bad is not None and bad == at + 1 and changed.metadata is not None:
        assert written == list(range(1, bad))


def test_row_that_is_missing_ends_the_export() -> None:
    log = Rows([*ROWS[:4], *ROWS[5:]])
    assert exported_of(log, Wanted()) == ([1, 2, 3, 4], 5)


def tamper(lb: CommandLine, sql: str) -> None:
    with closing(sqlite3.connect(lb.ledger)) as raw:
        raw.execute("DROP TRIGGER events_no_update")
        raw.execute(sql)
        raw.commit()


@pytest.mark.parametrize("form", ["jsonl", "cloudevents"])
def test_export_of_a_tampered_ledger_ends_with_exit_code_6_and_names_the_event(
    lb: CommandLine, form: str
) -> None:
    tamper(lb, "UPDATE events SET holder = 'mallory' WHERE position = 4")
    for out in ("log.jsonl", "log.jsonl.gz", "lake/"):
        answer = lb("export", "--out", out, "--format", form)
        assert (answer.code, answer.out) == (6, "")
        assert "event 4 was changed: its digest differs" in answer.err
        assert answer.err.count("\n") == 1
        assert not Path(out).is_file() and not list(Path().glob(f"{out}*/**/*.*"))
    assert not list(Path().glob("*manifest*"))
    with lb.process("export", "--out", "-", "--format", form) as process:
        told, said = process.communicate()
    assert process.returncode == 6 and "event 4 was changed" in said
    assert len(told.splitlines()) == 3
    # What lies around it can be had.
    lb.ok("export", "--out", "before", "--until", "#4", "--format", form)
    assert lb.ok("export", "--out", "behind", "--after", "4", "--format", form)["rows"] == 2


def test_folder_keeps_the_export_that_it_holds_where_the_next_one_fails(lb: CommandLine) -> None:
    lb.ok("export", "--out", "lake/")
    kept = {path: path.read_bytes() for path in Path("lake").rglob("*") if path.is_file()}
    for number in range(3):
        lb.ok("task", "start", f"t{number}")
    tamper(lb, "UPDATE events SET data = data || ' ' WHERE position = 8")
    assert lb("export", "--out", "lake/", "--after", "6").code == 6
    assert lb("export", "--out", "lake/", "--force").code == 6
    assert {p: p.read_bytes() for p in Path("lake").rglob("*") if p.is_file()} == kept


def test_hint_for_a_table_that_is_not_there_names_each_once(lb: CommandLine) -> None:
    answer = lb("export", "--out", "x.jsonl", "--what", "nonsense")
    assert answer.code == 2
    named = answer.err.partition("there are ")[2].strip().split(", ")
    assert len(named) == len(set(named)) and {"events", "allocations", "spans"} <= set(named)


def test_tables_are_exported_from_the_projections_and_the_ledger_keeps_none(
    lb: CommandLine,
) -> None:
    with closing(sqlite3.connect(lb.ledger)) as raw:
        before = raw.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall()
    assert lb.ok("export", "--what", "spans", "--out", "spans.jsonl")["rows"] == 3
    with closing(sqlite3.connect(lb.ledger)) as raw:
        assert raw.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall() == before
    assert lb.ledger.with_name("ledger.db.views.db").exists()


def test_who_may_only_read_exports_tables_all_the_same(lb: CommandLine) -> None:
    views = lb.ledger.with_name("ledger.db.views.db")
    views.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        whole = views_file.open_views

        def unwritable(path: Path, **options: Any) -> Any:
            if path == views:
                raise PermissionError(13, "Permission denied")
            return whole(path, **options)

        patch.setattr(views_file, "open_views", unwritable)
        assert lb.ok("export", "--what", "spans", "--out", "spans.jsonl")["rows"] == 3
