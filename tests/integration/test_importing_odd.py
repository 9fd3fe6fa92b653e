"""Imports of what nobody should have written: absurd numbers, far times, quotes, and places to write."""

from __future__ import annotations

import csv
import gzip
import zlib
from pathlib import Path

import pytest

from leasebook.importers.base import Source
from ledger.errors import InvalidInput
from tests.command_line import CommandLine
from tests.integration.test_importing import job, lives_of, write

MAP = "id=job,holder=who,start=from,end=to,cpu=cores,node=node"
HEAD = "job,who,from,to,cores,node"


def table(tmp_path: Path, *rows: str) -> str:
    path = tmp_path / "table.csv"
    path.write_text("\n".join((HEAD, *rows)) + "\n")
    return str(path)


def line(number: int, who: str = "ann", cores: str = "2", start: str = "2020-01-01") -> str:
    return f"{number},{who},{start},2020-01-02,{cores},n1"


@pytest.mark.parametrize(
    "changed",
    [
        {"NCPUS": "9" * 400 + "K"},
        {"Start": "Unknown", "End": "Unknown", "Submit": "Unknown"},
        {"Submit": "1678-01-01T00:00:00", "End": "2262-01-01T00:00:00"},
    ],
    ids=["a number without end", "no time at all", "a life of six centuries"],
)
def test_a_row_that_cannot_be_recorded_is_rejected_and_the_others_are_taken(
    lb: CommandLine, tmp_path: Path, changed: dict[str, str]
) -> None:
    file = write(tmp_path, job(1), job(2, **changed), job(3))
    told = lb.ok("import", file, "--format", "sacct")
    assert (told["facts"]["new"], told["rejects"]["count"]) == (2, 1)
    assert told["rejects"]["first"][0]["line"] == 3


def test_far_times_and_long_sums_leave_every_projection_alive(
    lb: CommandLine, tmp_path: Path
) -> None:
    old, late = "1830-01-01T00:00:00", "2110-01-01T00:00:00"
    waits = {"Start": "Unknown", "End": "Unknown", "State": "PENDING", "NodeList": "None assigned"}
    file = write(
        tmp_path,
        *(job(n, Submit=old, Start=old, End=late) for n in range(3)),
        *(job(n, Submit=old, Start=late, End=late) for n in range(10, 13)),
        job(20, Submit="2115-01-01T00:00:00", **waits),
    )
    assert lb.ok("import", file, "--format", "sacct")["facts"]["new"] == 7
    lb("projections", "rebuild")
    states = lb.ok("projections", "status")["projections"]
    assert {one["state"] for one in states} == {"live"}
    assert lb("report", "utilization", "--by", "pool").code == 0
    assert lb("projections", "check").code == 0


def test_a_history_that_begins_with_1970_can_be_looked_into(
    lb: CommandLine, tmp_path: Path
) -> None:
    epoch = "1970-01-01T00:00:00"
    file = write(tmp_path, job(1, Submit=epoch, Start=epoch, End="1970-01-01T02:00:00"))
    lb.ok("import", file, "--format", "sacct")
    assert "A3" in lb("at", "1970-01-01T01:00:00Z").out


def test_sums_above_what_a_database_holds_are_flagged_and_equal_rows_count_once(
    lb: CommandLine, tmp_path: Path
) -> None:
    lb.ok("pool", "open", "imported", "--observed", "--node", "n1:cpu=4")
    huge = [line(n, cores="9000000000000000") for n in range(4)]
    told = lb.ok("import", table(tmp_path, *huge), "--format", "csv", "--map", MAP)
    assert [one["held"] for one in told["over_capacity"]] == [4 * 9 * 10**18]
    lb.ok("pool", "open", "twice", "--observed", "--node", "n1:cpu=4")
    same = [line(1, cores="4")] * 3
    told = lb.ok(
        "import", table(tmp_path, *same), "--format", "csv", "--map", MAP, "--pool", "twice"
    )
    assert told["over_capacity"] == []


def test_a_quotation_mark_too_many_costs_one_line(lb: CommandLine, tmp_path: Path) -> None:
    rows = [line(1), line(2, '"ann'), *(line(n) for n in range(3, 6_000))]
    told = lb.ok("import", table(tmp_path, *rows), "--format", "csv", "--map", MAP)
    assert (told["facts"]["new"], told["rejects"]["count"]) == (5_998, 1)
    with Path(told["rejects"]["file"]).open(newline="") as kept:
        number, reason, text = list(csv.reader(kept))[1]
    assert (number, text) == ("3", rows[1])
    assert "would reach to line" in reason


def test_a_quotation_mark_in_a_column_that_nobody_reads_hides_no_rows(
    lb: CommandLine, tmp_path: Path
) -> None:
    path = tmp_path / "notes.csv"
    path.write_text('from,note\n2020-01-01,"odd\n2020-01-02,fine\n2020-01-03,fine\n')
    told = lb.ok("import", str(path), "--format", "csv", "--map", "start=from")
    assert (told["facts"]["new"], told["rejects"]["count"]) == (2, 1)


def test_a_field_that_is_too_large_is_kept_with_the_rejects(
    lb: CommandLine, tmp_path: Path
) -> None:
    long = line(2, "a" * 200_000)
    told = lb.ok("import", table(tmp_path, line(1), long, line(3)), "--format", "csv", "--map", MAP)
    assert told["facts"]["new"] == 2
    assert told["rejects"]["first"][0]["text"] == long


@pytest.mark.parametrize("option", ["--pool", "--tenant"])
def test_a_name_that_is_none_is_an_error_before_anything_is_written(
    lb: CommandLine, tmp_path: Path, option: str
) -> None:
    for name in ("p" * 300, "a\x1bb", ""):
        answer = lb("import", write(tmp_path, job(1)), "--format", "sacct", option, name)
        assert answer.code == 2
    assert not lb.ledger.exists()


def test_a_map_that_says_a_thing_twice_or_names_too_much_is_refused(
    lb: CommandLine, tmp_path: Path
) -> None:
    file = table(tmp_path, line(1))
    for mapping in (
        "start=from,start=to",
        "start=from," + ",".join(f"r{n}=cores" for n in range(40)),
    ):
        assert lb("import", file, "--format", "csv", "--map", mapping).code == 2
    assert lb("import", file, "--format", "csv", "--map", MAP, "--delimiter", '"').code == 2
    assert not lb.ledger.exists()


def test_rejects_never_overwrite_the_ledger_or_any_other_file(
    lb: CommandLine, tmp_path: Path
) -> None:
    file = write(tmp_path, job(1), "odd")
    precious = tmp_path / "precious.txt"
    precious.write_text("do not lose this")
    assert lb("import", file, "--format", "sacct", "--rejects", str(lb.ledger)).code == 2
    lb.ok("import", file, "--format", "sacct")
    for place in (lb.ledger, precious):
        answer = lb("import", file, "--format", "sacct", "--rejects", str(place))
        assert answer.code == 2
        assert "would overwrite" in answer.err
    assert precious.read_text() == "do not lose this"
    assert lb("verify").code == 0
    # Rejects of an earlier import are replaced, as they always were.
    assert lb("import", file, "--format", "sacct").code == 0


def test_an_hour_that_a_clock_shows_twice_is_the_second_one_if_the_first_is_too_early(
    lb: CommandLine, tmp_path: Path
) -> None:
    begun, ended = "2020-10-25T02:30:00", "2020-10-25T02:10:00"
    file = write(tmp_path, job(1, Submit=begun, Start=begun, End=ended))
    lb.ok("import", file, "--format", "sacct", "--tz", "Europe/Berlin")
    (life,) = lives_of(lb).values()
    assert life.granted_at is not None and life.ended_at is not None
    assert life.ended_at - life.granted_at == 40 * 60 * 10**9


def test_damage_within_packed_data_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "packed.gz"
    path.write_bytes(gzip.compress(b"one\ntwo\n"))

    def broken(*_: object) -> bytes:
        raise zlib.error("Error -3 while decompressing data")

    monkeypatch.setattr(gzip.GzipFile, "readinto", broken)
    source = Source(str(path))
    with pytest.raises(InvalidInput, match="damaged after line 0"):
        list(source.lines())
    source.close()


def test_closed_standard_input_is_told(lb: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    answer = lb("import", "-", "--format", "sacct")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "standard input is closed" in answer.err


def test_metadata_of_others_never_acts_on_the_terminal(lb: CommandLine) -> None:
    lb.ok("pool", "open", "box", "cpu=4")
    lb.ok("allocate", "box", "cpu=1", "--meta", "note=\x1b[2Jgone")
    answer = lb("show", "A3")
    assert "\x1b" not in answer.out
    assert r"note=\x1b[2Jgone" in answer.out
