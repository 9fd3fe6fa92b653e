"""``report`` at the command line: on a real ledger, in every format."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

import leasebook
from tests.command_line import CommandLine


@pytest.fixture
def lb(lb: CommandLine, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setenv("LEASEBOOK_HOLDER", "h1")
    lb.ok("pool", "open", "box", "cpu=4", "memory=8GiB")
    held = lb.ok("allocate", "box", "cpu=2", "memory=1GiB", "--task", "t1")["allocation"]["id"]
    lb.ok("allocate", "box", "cpu=1", "--holder", "h2")
    lb.ok("release", held)
    return lb


def _one(lb: CommandLine, *arguments: str) -> dict[str, Any]:
    (row,) = lb.ok("report", "utilization", *arguments)["rows"]
    found: dict[str, Any] = row
    return found


def test_a_live_ledger_is_shown_up_to_its_last_event(lb: CommandLine) -> None:
    document = lb.ok("report", "utilization", "--by", "pool")
    (row,) = document["rows"]
    assert list(row)[:3] == ["pool", "capacity_seconds", "granted_seconds"]
    assert (row["allocations_started"], row["allocations_ended"]) == (2, 1)
    assert 0 < row["granted_seconds"]["cpu"] <= row["capacity_seconds"]["cpu"]
    assert row["over_capacity"] == {}
    assert document["position"] == len(lb.ok("events")["events"])
    lb.ok("allocate", "box", "cpu=500m")
    assert _one(lb, "--by", "pool")["allocations_started"] == 3


def test_by_can_be_given_several_times_and_defaults_to_day_and_pool(lb: CommandLine) -> None:
    assert list(_one(lb))[:2] == ["bucket", "pool"]
    rows = lb.ok("report", "utilization", "--by", "holder", "--by", "task")["rows"]
    assert [(row["holder"], row["task"]) for row in rows] == [("h1", "t1"), ("h2", None)]


def test_a_window_can_begin_at_a_position(lb: CommandLine) -> None:
    position = next(
        event["position"] for event in lb.ok("events")["events"] if event["type"] == "released"
    )
    row = _one(lb, "--by", "pool", "--since", f"#{position}")
    assert (row["allocations_started"], row["allocations_ended"]) == (0, 1)
    answer = lb("report", "utilization", "--since", "#999")
    assert (answer.code, "there is no position 999" in answer.err) == (2, True)


def test_the_table_shows_hours_and_shares(lb: CommandLine) -> None:
    answer = lb("report", "utilization")
    head, row, headline = answer.out.splitlines()
    assert head.split()[:4] == ["BUCKET", "POOL", "CPU", "H"]
    assert "cpu=" in row and "%" in row
    assert headline.startswith("held of capacity: cpu")


@pytest.mark.parametrize("name", ["efficiency", "compare", "utilization"])
def test_every_report_comes_in_every_format(lb: CommandLine, tmp_path: Path, name: str) -> None:
    document = lb.ok("report", name)
    assert json.loads(lb("report", name, "--format", "json").out)["report"] == name
    table = list(csv.reader(io.StringIO(lb("report", name, "--format", "csv").out)))
    assert len(table) == 1 + len(document["rows"])
    assert lb("report", name, "--format", "markdown").out.startswith(f"# {name.capitalize()}\n")
    assert lb("report", name, "--format", "html").out.startswith("<!doctype html>")
    for suffix, begins in ((".csv", b""), (".html", b"<!doctype"), (".parquet", b"PAR1")):
        if suffix == ".parquet":
            pytest.importorskip("pyarrow")
        out = tmp_path / f"report{suffix}"
        said = lb.ok("report", name, "--out", str(out))
        assert (said["out"], said["rows"]) == (str(out), len(document["rows"]))
        content = out.read_bytes()
        assert content.startswith(begins)
        assert said["bytes"] == len(content)


def test_out_takes_a_format_beside_any_name(lb: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "report.txt"
    answer = lb("report", "utilization", "--format", "table", "--out", str(out))
    assert answer.code == 0
    assert answer.out.startswith(f"{out}: 1 rows (table); held of capacity")
    assert out.read_text().startswith("BUCKET")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["utilization", "--format", "parquet"], "give --out FILE"),
        (["utilization", "--out", "report.xyz"], "give --format, or a file that ends in"),
        (["efficiency", "--by", "task", "--by", "pool"], "one thing at a time"),
        (["efficiency", "--by", "day"], "not by day"),
        (["compare", "--by", "allocation"], "does not go by allocation"),
        (["utilization", "--by", "day", "--by", "hour"], "not by both"),
        (["utilization", "--since", "now", "--until", "1h-ago"], "ends before it begins"),
    ],
)
def test_what_contradicts_itself_is_refused_in_one_line(
    lb: CommandLine, arguments: list[str], why: str
) -> None:
    answer = lb("report", *arguments)
    assert answer.code == 2
    assert why in answer.err
    assert answer.err.count("\n") == 1


def test_json_and_another_format_contradict_unless_it_goes_into_a_file(lb: CommandLine) -> None:
    answer = lb("report", "utilization", "--format", "csv", "--json")
    assert answer.code == 2
    assert "contradict" in answer.json["error"]["message"]


def test_python_gets_the_same_rows(lb: CommandLine) -> None:
    with leasebook.open(str(lb.ledger)) as manager:
        (row,) = manager.report("utilization", by="pool")
        (same,) = manager.report("utilization", by=["pool"])
        assert row["allocations_started"] == same["allocations_started"] == 2
        assert list(manager.report("utilization")[0])[:2] == ["bucket", "pool"]
        with pytest.raises(leasebook.LeasebookError, match="one thing at a time"):
            manager.report("efficiency", by=["task", "pool"])
        with pytest.raises(leasebook.LeasebookError, match="no report"):
            manager.report("weather")
