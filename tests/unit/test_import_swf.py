"""The Standard Workload Format: given lines of a log, then facts, each for a reason."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasebook.importers.base import Found, Inventory, Item, Options, Reject, Source, WrongFormat
from leasebook.importers.swf import numbers, read
from ledger.commands import Fact
from ledger.rules.facts import check_fact
from reports.lives import UNPLACED

S = 1_000_000_000
START = 1_000_000_000
"""2001-09-09, as the header below has it."""
HEADER = f"""; Version: 2.2
; Computer: Test Machine
; UnixStartTime: {START}
; TimeZoneString: Europe/Berlin
; MaxNodes: 4 (two of them thin)
; MaxProcs: 16
;
; free text that says nothing
"""


def job(**fields: object) -> str:
    """A line of the log: a job of 4 processors that waited 10 s and ran 100 s."""
    known = {
        "job": 1, "submit": 50, "wait": 10, "run": 100, "procs": 4, "cpu": -1, "memory": -1,
        "asked": 4, "limit": -1, "asked_memory": -1, "status": 1, "user": 3, "group": 5,
        "program": -1, "queue": 2, "partition": -1, "after": -1, "think": -1,
    }  # fmt: skip
    return " ".join(str(value) for value in (known | fields).values())


def items(tmp_path: Path, *lines: str, header: str = HEADER, **options: object) -> list[Item]:
    path = tmp_path / "machine.swf"
    path.write_text(header + "\n".join(lines) + "\n")
    source = Source(str(path))
    try:
        return list(read(source, Options(**options)))  # type: ignore[arg-type]
    finally:
        source.close()


def one(tmp_path: Path, line: str, **options: object) -> Fact:
    (found,) = [item for item in items(tmp_path, line, **options) if isinstance(item, Found)]
    check_fact(found.fact)
    return found.fact


def test_a_job_is_a_fact_with_its_times_counted_from_the_header(tmp_path: Path) -> None:
    inventory, found = items(tmp_path, job())
    assert isinstance(inventory, Inventory) and isinstance(found, Found)
    (node,) = inventory.nodes
    assert (inventory.at, node.capacity, node.labels) == (
        START * S,
        {"cpu": 16_000},
        {"nodes": "4"},
    )
    fact = found.fact
    assert (found.line, found.pool, fact.key) == (9, "machine", "swf:machine:1")
    assert (fact.requested_at, fact.began_at) == ((START + 50) * S, (START + 60) * S)
    assert (fact.ended_at, fact.ended_by) == ((START + 160) * S, "released")
    assert (fact.holder, fact.request.amounts) == ("user3", {"cpu": 4000})
    assert [(p.node, p.amounts) for p in fact.placements] == [(UNPLACED, {"cpu": 4000})]
    assert fact.metadata == {"status": 1, "group": 5, "queue": 2}


def test_memory_is_in_kilobytes_per_processor_or_in_bytes_where_that_is_said(
    tmp_path: Path,
) -> None:
    line = job(asked_memory=1000, memory=500)
    fact = one(tmp_path, line)
    assert fact.request.amounts["memory"] == 4 * 1000 * 1024
    assert fact.usage is not None
    assert fact.usage.used == {"memory": 4 * 500 * 1024 * 100}
    in_bytes = one(tmp_path, line, memory_in_bytes=True)
    assert in_bytes.request.amounts["memory"] == 4 * 1000
    assert in_bytes.usage is not None and in_bytes.usage.used == {"memory": 4 * 500 * 100}


def test_processor_time_is_an_average_over_the_processors(tmp_path: Path) -> None:
    fact = one(tmp_path, job(cpu="50.5", limit=3600))
    assert fact.usage is not None
    assert fact.usage.used == {"cpu": 4 * 50_500}
    assert (fact.usage.since, fact.usage.until) == (fact.began_at, fact.ended_at)
    assert fact.request.max_age_ns == 3600 * S


def test_what_is_unknown_is_left_out_and_not_zero(tmp_path: Path) -> None:
    fact = one(tmp_path, job(procs=-1, asked=-1, user=-1, group=-1, queue=-1, status=-1))
    assert (fact.request.amounts, fact.holder, fact.metadata) == ({}, "unknown", {})
    assert fact.usage is None
    assert one(tmp_path, job(procs=-1, asked=2)).request.amounts == {"cpu": 2000}


def test_a_job_whose_wait_is_unknown_began_when_it_was_submitted(tmp_path: Path) -> None:
    fact = one(tmp_path, job(wait=-1))
    assert (fact.requested_at, fact.began_at) == (None, (START + 50) * S)


def test_a_job_without_a_run_time_is_open_and_held_for_its_processor_time(tmp_path: Path) -> None:
    fact = one(tmp_path, job(run=-1, cpu=30))
    assert (fact.ended_at, fact.seen_until) == (None, fact.began_at + 30 * S)  # type: ignore[operator]
    assert one(tmp_path, job(run=-1)).seen_until == (START + 60) * S


def test_a_negative_run_time_is_none_at_all_and_is_kept_as_it_was(tmp_path: Path) -> None:
    fact = one(tmp_path, job(run=-7))
    assert fact.ended_at == fact.began_at
    assert fact.metadata is not None and fact.metadata["run_time_s"] == "-7"


def test_a_job_cancelled_before_it_ran_never_held_anything(tmp_path: Path) -> None:
    fact = one(tmp_path, job(status=5, run=-1, procs=-1, wait=30))
    assert (fact.began_at, fact.placements) == (None, ())
    assert (fact.ended_at, fact.ended_by) == ((START + 80) * S, "withdrawn")
    ran = one(tmp_path, job(status=5))
    assert (ran.began_at, ran.ended_by) == ((START + 60) * S, "forced")


def test_parts_of_jobs_are_counted_as_skipped_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "machine.swf"
    path.write_text("\n".join([job(), job(status=2), job(status=3), job(status=4)]) + "\n")
    source = Source(str(path))
    found = list(read(source, Options()))
    source.close()
    assert len(found) == 1
    assert (source.attached, source.skipped) == (0, 3)


def test_braces_behind_a_job_name_its_nodes_and_keep_the_rest(tmp_path: Path) -> None:
    fact = one(tmp_path, job(procs=5, asked=5) + " {n[01-02],n9} {batch}")
    assert {p.node: p.amounts["cpu"] for p in fact.placements} == {
        "n01": 1667,
        "n02": 1667,
        "n9": 1666,
    }
    assert fact.metadata is not None and fact.metadata["appended"] == ["batch"]
    named = one(tmp_path, job() + " {queue=night} {nodes = a b}")
    assert [p.node for p in named.placements] == ["a", "b"]
    assert named.metadata is not None and named.metadata["appended"] == ["queue=night"]


def test_fractions_of_a_second_are_exact(tmp_path: Path) -> None:
    fact = one(tmp_path, job(submit="0.1", wait="0.2", run="0.3"))
    assert fact.began_at == START * S + 300_000_000
    assert fact.ended_at == START * S + 600_000_000


def test_pools_can_be_partitions_and_names_can_be_given(tmp_path: Path) -> None:
    (found,) = [
        item
        for item in items(tmp_path, job(partition=2), pool_by="partition")
        if isinstance(item, Found)
    ]
    assert found.pool == "machine-2"
    found = items(tmp_path, job(partition=2), pool="mine", tenant="t")[1]
    assert isinstance(found, Found)
    assert (found.pool, found.fact.tenant, found.fact.key) == ("mine", "t", "swf:mine:1")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("1 2 3", "has 3 fields instead of 18"),
        (job(run="soon"), "has 'soon' where a number belongs"),
        (job(run="nan"), "out of range"),
        (job(submit=-1), "has no time of submission"),
        (job(submit=-50), "was submitted 50 s before the log begins"),
        (job(wait=10**17), "out of range"),
        (job() + " {n[3-1]}", "upside down"),
    ],
)
def test_a_line_that_cannot_be_understood_is_told_and_the_rest_goes_on(
    tmp_path: Path, line: str, why: str
) -> None:
    found = items(tmp_path, job(), line, job(job=2), header="; Version: 2\n")
    assert [type(item) for item in found] == [Found, Reject, Found]
    reject = found[1]
    assert isinstance(reject, Reject)
    assert (reject.line, reject.text) == (3, line)
    assert why in reject.reason


@pytest.mark.parametrize("text", ["JobID|State\n1|DONE\n", "", "{}\n", ";just a note\n1 2\n"])
def test_a_file_of_another_format_is_refused_before_anything_is_read(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(WrongFormat):
        items(tmp_path, header=text)


def test_a_packed_log_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "machine.swf.gz"
    path.write_bytes(gzip.compress((HEADER + job() + "\n").encode()))
    source = Source(str(path))
    packed = list(read(source, Options()))
    source.close()
    assert packed == items(tmp_path, job())


@given(st.lists(st.integers(-(10**15), 10**15), min_size=18, max_size=20))
def test_whole_numbers_are_read_as_they_stand(values: list[int]) -> None:
    assert numbers("  ".join(map(str, values)) + " {x}") == values[:18]
