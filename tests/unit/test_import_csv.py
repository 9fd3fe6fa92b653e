"""Any table as facts: mappings, units, times, empty starts and ends, broken rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leasebook.importers.base import Found, Item, Options, Reject, WrongFormat, open_reader
from leasebook.importers.units import SECOND, moment
from ledger.commands import Fact
from ledger.errors import InvalidInput

MAP = {"start": "Begin", "end": "End", "holder": "User", "cpu": "Cores", "memory": "Mem:GiB"}
HEAD = "Begin,End,User,Cores,Mem"
GIB = 2**30
T0 = moment("2020-01-01T00:00:00")


def items(tmp_path: Path, text: str, **options: Any) -> list[Item]:
    path = tmp_path / "table.csv"
    path.write_text(text, "utf-8")
    return list(open_reader("csv", str(path), Options(**{"mapping": MAP, **options})))


def facts(tmp_path: Path, *rows: str, **options: Any) -> list[Fact]:
    found = items(tmp_path, "\n".join((HEAD, *rows)) + "\n", **options)
    return [one.fact for one in found if isinstance(one, Found)]


def test_a_row_is_a_fact_by_its_mapping(tmp_path: Path) -> None:
    (fact,) = facts(tmp_path, "2020-01-01T00:00:00,2020-01-01T01:00:00,ann,1.5,2")
    assert (fact.holder, fact.tenant) == ("ann", "default")
    assert fact.request.amounts == {"cpu": 1500, "memory": 2 * GIB}
    assert (fact.began_at, fact.ended_at) == (T0, T0 + 3600 * SECOND)
    assert fact.key.startswith("csv:imported:")


def test_an_empty_end_never_ended(tmp_path: Path) -> None:
    (fact,) = facts(tmp_path, "2020-01-01T00:00:00,,ann,1,1")
    assert fact.began_at == T0
    assert fact.ended_at is None


def test_an_empty_start_began_before_the_file_and_is_held_from_its_first_time(
    tmp_path: Path,
) -> None:
    found = items(
        tmp_path,
        f"{HEAD}\n,2020-01-03T00:00:00,ann,1,1\n2020-01-02T00:00:00,,bob,1,1\n"
        "2020-01-01T00:00:00,,cid,1,1\n",
    )
    by_holder = {one.fact.holder: one for one in found if isinstance(one, Found)}
    ann = by_holder["ann"]
    assert ann.line == 2
    assert (ann.fact.began_at, ann.fact.seen_from) == (None, T0)
    assert ann.fact.metadata == {"began": "before the file"}
    assert by_holder["bob"].fact.seen_from is None


def test_equal_rows_are_two_allocations_with_the_same_keys_each_time(tmp_path: Path) -> None:
    row = "2020-01-01T00:00:00,,ann,1,1"
    first = [fact.key for fact in facts(tmp_path, row, row)]
    assert len(set(first)) == 2
    assert [fact.key for fact in facts(tmp_path, row, row)] == first


def test_an_id_column_is_the_key_so_that_pieces_meet(tmp_path: Path) -> None:
    mapping = {"start": "Begin", "end": "End", "id": "User"}
    found = items(
        tmp_path, f"{HEAD}\n2020-01-01,,x,,\n2020-01-01,2020-01-02,x,,\n", mapping=mapping
    )
    keys = {one.fact.key for one in found if isinstance(one, Found)}
    assert keys == {"csv:imported:x"}


@pytest.mark.parametrize(
    ("unit", "text", "amount"),
    [
        ("memory=Mem", "5", 5),
        ("memory=Mem:KiB", "5", 5 * 1024),
        ("memory=Mem:MB", "5", 5_000_000),
        ("memory=Mem:GiB", "0.5", GIB // 2),
        ("cpu=Mem", "0.25", 250),
        ("cpu=Mem:milli", "250", 250),
        ("gpu=Mem:cards", "2", 2000),
        ("licence=Mem", "3", 3),
    ],
)
def test_units(tmp_path: Path, unit: str, text: str, amount: int) -> None:
    name, _, column = unit.partition("=")
    mapping = {"start": "Begin", name: column}
    (fact,) = facts(tmp_path, f"2020-01-01,,a,,{text}", mapping=mapping)
    assert fact.request.amounts == {name: amount}


@pytest.mark.parametrize(
    ("unit", "text"),
    [("Begin", "1577836800"), ("Begin:ms", "1577836800000"), ("Begin:iso", "2020-01-01T00:00:00Z")],
)
def test_times_by_unit(tmp_path: Path, unit: str, text: str) -> None:
    (fact,) = facts(tmp_path, f"{text},,a,,", mapping={"start": unit})
    assert fact.began_at == T0


def test_delimiter_quotes_and_a_file_without_a_header(tmp_path: Path) -> None:
    text = '2020-01-01;;"ann; the\nfirst";1;1\n2020-01-02;;bob;1;1\n'
    found = items(tmp_path, text, columns=tuple(HEAD.split(",")), delimiter=";")
    # A line break is no name, which is for the ledger to say; the row is read as one all the same.
    assert [one.line for one in found if isinstance(one, Found)] == [2, 3]


def test_broken_rows_are_rejected_and_the_others_taken(tmp_path: Path) -> None:
    found = items(
        tmp_path,
        f"{HEAD}\n2020-01-01,,ann,1,1\nonly,two\nsoon,,ann,1,1\n2020-01-01,,ann,-1,1\n"
        "2020-01-01,,bob,1,1\n",
    )
    rejects = [one for one in found if isinstance(one, Reject)]
    assert [one.line for one in rejects] == [3, 4, 5]
    assert "columns" in rejects[0].reason and "soon" in rejects[1].reason
    assert len(found) == 5


def test_a_table_without_the_mapped_columns_is_another_format(tmp_path: Path) -> None:
    with pytest.raises(WrongFormat, match="no column 'Begin'"):
        items(tmp_path, "a,b\n1,2\n")
    with pytest.raises(WrongFormat):
        items(tmp_path, "")


@pytest.mark.parametrize(
    "mapping",
    [
        {},
        {"holder": "User"},
        {"start": "Begin:GiB"},
        {"start": "Begin", "cpu": "Cores:parsecs"},
        {"start": "Begin", "holder": "User:ms"},
        {"start": "Begin", "CPU!": "Cores"},
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(tmp_path: Path, mapping: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        items(tmp_path, f"{HEAD}\n2020-01-01,,a,1,1\n", mapping=mapping)
