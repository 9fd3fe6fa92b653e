"""Any table as a trace: its mapping, its times, and what is said of a line that makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.errors import InvalidInput
from reports.simulate.jobs import jobs_of
from reports.simulate.table_trace import read_table
from reports.simulate.traces import SECOND, BadTrace

MAPPING = {"start": "t", "end": "u", "cpu": "c", "memory": "m:MiB", "holder": "who"}


def file(folder: Path, text: str) -> Path:
    path = folder / "t.csv"
    path.write_text(text)
    return path


def test_a_table_is_read_by_its_mapping(tmp_path: Path) -> None:
    path = file(tmp_path, "t,u,c,m,who\n5,9,2,512,ann\n1.5,,0.5,,\n")
    second, first = read_table(path, MAPPING)
    assert (first.arrived_ns, first.left_ns, first.holder) == (1_500_000_000, None, "trace")
    assert first.request.amounts == {"cpu": 500}
    assert (second.arrived_ns, second.left_ns) == (5 * SECOND, 9 * SECOND)
    assert second.request.amounts == {"cpu": 2000, "memory": 2**29}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("t,u,c,m\n", "has no column who"),
        ("t,u,c,m,who\nnoon,,1,,\n", "line 2: t is 'noon'"),
        ("t,u,c,m,who\nnan,,1,,\n", "line 2: t is 'nan'"),
        ("t,u,c,m,who\n1,1e300,1,,\n", "line 2: u is '1e300'"),
        ("t,u,c,m,who\n1_0,,1,,\n", "line 2: t is '1_0'"),
        ("t,u,c,m,who\n9,5,1,,\n", "line 2 ends before it begins"),
        ("t,u,c,m,who\n1,2,,,\n", "line 2 asks for nothing"),
        ("t,u,c,m,who\n1,2,x,,\n", "line 2"),
        ("t,u,c,m,who\n1,2,-1,,\n", "line 2: .* is negative"),
        ("t,u,c,m,who\n1,2\n", "another number of fields"),
        ('t,u,c,m,who\n1,2,1,,"a\nb"\n', "line 2: holder name .* do not print"),
        ('t,u,c,m,who\n1,2,1,,"a\nb"\n', "line 2"),
        ('\nt,u,c,m,who\n1,2,1,,"a\nb"\n', "its first line is empty"),
        ('t,u,c,m,who\n\n1,2,1,,a\n\n"5\n",1,1,1,1\n', "line 5 ends before"),
    ],
)
def test_a_line_of_a_table_that_makes_no_sense_is_named(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(BadTrace, match=says):
        read_table(file(tmp_path, text), MAPPING)


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"start": "t"}, "names no start column, or no resource"),
        ({"cpu": "c"}, "names no start column, or no resource"),
        ({"start": "t", "end": "u", "duration": "u", "cpu": "c"}, "an end and a duration"),
        ({"start": "t", "end": "u:min", "cpu": "c"}, "has no unit of time"),
        ({"start": "t", "CPU": "c"}, "resource name 'CPU' is not valid"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(
    tmp_path: Path, mapping: dict[str, str], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        read_table(file(tmp_path, "t,u,c\n1,2,1\n"), mapping)


@pytest.mark.parametrize(
    ("unit", "began", "ended"),
    [("", "1.25", "3.5"), ("s", "1.25", "3.5"), ("ms", "1250", "3500"), ("us", "1250000", "35e5")],
)
def test_times_keep_their_fractions_whatever_their_unit(
    tmp_path: Path, unit: str, began: str, ended: str
) -> None:
    mapping = {"start": f"t:{unit}", "end": f"u:{unit}", "cpu": "c"}
    (only,) = read_table(file(tmp_path, f"t,u,c\n{began},{ended},1\n"), mapping)
    assert (only.arrived_ns, only.left_ns) == (1_250_000_000, 3_500_000_000)


def test_moments_are_read_with_their_zones_and_fractions(tmp_path: Path) -> None:
    text = "t,u,c\n2026-11-22T06:00:00.25Z,2026-11-22T08:00:00+01:00,1\n"
    (only,) = read_table(file(tmp_path, text), {"start": "t", "end": "u", "cpu": "c"})
    assert only.arrived_ns is not None
    assert only.left_ns is not None
    assert only.left_ns - only.arrived_ns == 3600 * SECOND - SECOND // 4


def test_what_waited_in_the_trace_is_not_held_here(tmp_path: Path) -> None:
    text = "q,t,u,c\n0,60,70,1\n5,,50,1\n,60,70,1\n"
    mapping = {"arrived": "q", "start": "t", "end": "u", "cpu": "c"}
    jobs, assumed = jobs_of(read_table(file(tmp_path, text), mapping))
    # The second was never served: it would hold for as long as the others usually do.
    assert [(j.arrived_ns, j.lasts_ns) for j in jobs] == [
        (0, 10 * SECOND),
        (5 * SECOND, 10 * SECOND),
    ]
    assert (assumed.never_ran, assumed.without_a_time) == (1, 1)


def test_a_duration_counts_from_the_start(tmp_path: Path) -> None:
    text = "q,t,d,c\n0,60,10,1\n"
    mapping = {"arrived": "q", "start": "t", "duration": "d", "cpu": "c"}
    jobs, _ = jobs_of(read_table(file(tmp_path, text), mapping))
    assert [(j.arrived_ns, j.lasts_ns) for j in jobs] == [(0, 10 * SECOND)]


def test_requests_of_one_instant_come_as_they_stand_in_the_table(tmp_path: Path) -> None:
    rows = "".join(f"{number},0,1,1\n" for number in range(8, 12))
    mapping = {"name": "id", "start": "t", "end": "u", "cpu": "c"}
    jobs, _ = jobs_of(read_table(file(tmp_path, f"id,t,u,c\n{rows}"), mapping))
    assert [j.name for j in jobs] == ["8", "9", "10", "11"]
