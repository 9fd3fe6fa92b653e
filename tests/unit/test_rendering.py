"""Reports as files: given a document, then the same figures in every format."""

from __future__ import annotations

import csv
import io
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ledger.errors import InvalidInput
from reports.rendering import FORMATS, SUFFIXES, MissingExtra, flat, render, write

ROWS: list[dict[str, Any]] = [
    {"task": "a|b <i>", "granted_seconds": {"cpu": 5}, "efficiency": None, "held_s": 1.5},
    {
        "task": None,
        "granted_seconds": {"cpu": 7, "memory": 2**70},
        "efficiency": {"cpu": 0.25},
        "held_s": 2,
    },
    {"task": 'new\nline, "quoted"', "granted_seconds": {}, "efficiency": {}, "held_s": None},
]
DOCUMENT: dict[str, Any] = {
    "report": "utilization",
    "position": 9,
    "generated_at": "2026-11-22T06:49:00.000000Z",
    "since": None,
    "until": None,
    "headline": "3 <rows>",
    "rows": ROWS,
}  # fmt: skip
COLUMNS = ["task", "granted_seconds.cpu", "held_s", "granted_seconds.memory", "efficiency.cpu"]


def text(form: str, document: dict[str, Any] = DOCUMENT) -> str:
    return render(document, form).decode()


def test_what_lies_inside_a_row_becomes_columns_and_what_is_missing_stays_empty() -> None:
    columns, rows = flat(ROWS)
    assert columns == COLUMNS
    assert rows[0] == ["a|b <i>", 5, 1.5, None, None]
    assert rows[1] == [None, 7, 2, 2**70, 0.25]
    assert flat([]) == ([], [])
    assert flat([{"a": [1, {"b": 2}]}]) == (["a"], [['[1, {"b": 2}]']])


def test_json_is_the_document_itself() -> None:
    assert json.loads(text("json")) == DOCUMENT


def test_csv_reads_back_with_every_value_in_its_place() -> None:
    rows = list(csv.reader(io.StringIO(text("csv"), newline="")))
    assert rows[0] == COLUMNS
    assert rows[1] == ["a|b <i>", "5", "1.5", "", ""]
    assert rows[2] == ["", "7", "2", str(2**70), "0.25"]
    assert rows[3] == ['new\nline, "quoted"', "", "", "", ""]


def test_a_markdown_table_keeps_its_columns_whatever_stands_in_them() -> None:
    lines = text("markdown").splitlines()
    assert lines[0] == "# Utilization"
    assert lines[2] == "3 \\<rows\\>"
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(ROWS)
    assert {line.replace("\\|", "").count("|") for line in table} == {len(COLUMNS) + 1}
    assert table[1] == "|---|---:|---:|---:|---:|"
    assert "a\\|b \\<i\\>" in table[2]


class Page(HTMLParser):
    """The cells of a page, and whatever would be loaded or run."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.foreign: list[str] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_cell = tag in ("td", "th")
        if self._in_cell:
            self.cells.append("")
        if tag in ("script", "link", "img", "iframe") or any(
            n in ("src", "href") for n, _ in attrs
        ):
            self.foreign.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1] += data


def test_a_page_stands_by_itself_and_shows_values_as_text() -> None:
    page = Page()
    page.feed(text("html"))
    assert page.foreign == []
    assert page.cells[: len(COLUMNS)] == COLUMNS
    assert page.cells[len(COLUMNS)] == "a|b <i>"
    assert "<i>" not in text("html")


def test_parquet_keeps_types_and_numbers_beyond_64_bits() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(io.BytesIO(render(DOCUMENT, "parquet")))
    assert table.column_names == COLUMNS
    assert table.column("granted_seconds.cpu").to_pylist() == [5, 7, None]
    assert [
        None if v is None else int(v) for v in table.column("granted_seconds.memory").to_pylist()
    ] == [
        None,
        2**70,
        None,
    ]
    assert str(table.schema.field("granted_seconds.cpu").type) == "int64"
    assert str(table.schema.field("held_s").type) == "double"
    assert table.schema.metadata[b"report"] == b"utilization"


def test_without_pyarrow_parquet_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra) as failed:
        render(DOCUMENT, "parquet")
    assert "leasebook[parquet]" in failed.value.hint


@pytest.mark.parametrize("form", FORMATS)
def test_a_report_without_rows_is_still_a_report(form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    assert render(DOCUMENT | {"rows": []}, form)


def test_each_format_has_a_name_of_file_that_means_it() -> None:
    assert set(SUFFIXES.values()) == set(FORMATS)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    write(path, b"old")
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["report.csv"]
    with pytest.raises(InvalidInput, match="cannot be written"):
        write(tmp_path / "missing" / "report.csv", b"x")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(InvalidInput, match="cannot be written"):
        write(folder, b"x")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder", "report.csv"]
