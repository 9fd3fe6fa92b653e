"""``leasebook simulate`` as somebody types it: what it says, and what it will not be asked."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import ROOT, CommandLine
from tests.ledgers import unmeasured

NODES = "sn,cpu_milli,memory_mib,gpu,model\nn-0,8000,8192,2,A\n"
PODS = """name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,creation_time,deletion_time,scheduled_time
p-0,1000,1024,2,1000,,0,100,0
p-1,1000,1024,2,1000,,10,50,40
p-2,1000,1024,1,500,B,20,60,30
p-3,1000,1024,1,500,B,20,60,30
p-4,1000,1024,1,500,,300,900,
p-5,1000,1024,1,500,,301,,302
p-6,1000,1024,2,1000,,400,401,400
p-7,1000,1024,1,500,,,,
"""
TABLE = "began,seconds,cores,who\n0,60,2,ann\n0.5,60,2,bob\n"
MAP = "start=began,duration=seconds,cpu=cores,holder=who"


@pytest.fixture
def openb(tmp_path: Path) -> list[str]:
    nodes, pods = tmp_path / "nodes.csv", tmp_path / "pods.csv"
    nodes.write_text(NODES)
    pods.write_text(PODS)
    return ["simulate", "--nodes", str(nodes), "--pods", str(pods)]


@pytest.fixture
def table(tmp_path: Path) -> list[str]:
    (tmp_path / "trace.csv").write_text(TABLE)
    return ["simulate", "--format", "csv", "--pods", str(tmp_path / "trace.csv")]


def test_what_is_left_out_or_taken_for_granted_is_said(lb: CommandLine, openb: list[str]) -> None:
    document = lb.ok(*openb, "--strategy", "best_fit")
    (row,) = document["rows"]
    assert (document["requests"], document["without_a_time"]) == (7, 1)
    assert (document["never_ran"], document["without_an_end"]) == (1, 1)
    # Served were 100, 10, 30, 30 and 1 s.
    assert document["never_ran_held_s"] == 30
    # p-2 and p-3 want a card that there is not; p-6 waits behind p-5, which does not end.
    assert row["refused"] == {"exceeds_pool": 2}
    assert (row["granted"], row["waiting_at_end"], row["waiting_s_max"]) == (4, 1, 0)
    text = lb(*openb, "--strategy", "best_fit").out
    for line in (
        "1 node, 7 requests with their lifetimes",
        "requests have no time of arrival and are left out: 1",
        "requests never ran in the trace and are taken to hold for 30 s, the others' median: 1",
        "requests have no end and hold to the end: 1",
        "waits are of what was granted; what still waits at the end is not among them",
    ):
        assert line in text
    assert "exceeds_pool" in text


def test_what_fits_nowhere_is_told_where_nothing_leaves(lb: CommandLine, openb: list[str]) -> None:
    document = lb.ok(*openb, "--arrivals-only", "--seeds", "2", "--strategy", "first_fit")
    assert document["never_fitting"] == 2
    assert [course["seed"] for course in document["courses"]] == [0, 1]
    assert all(course["granted"] < course["arrivals"] for course in document["courses"])
    # Every level has its line, though the demand of so few requests leaps over most of them.
    assert [row["arrived"] for row in document["rows"]] == [50, 80, 90, 100, 110, 120, 130]
    text = lb(*openb, "--arrivals-only", "--seeds", "2").out
    assert "2 of 8 requests in the trace fit on no node, even when it is empty" in text


def test_one_seed_has_no_spread(lb: CommandLine, openb: list[str]) -> None:
    document = lb.ok(*openb, "--arrivals-only", "--seeds", "1", "--strategy", "first_fit")
    assert {row["allocated"]["sd"] for row in document["rows"]} == {None}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--arrivals-only", "--wait", "5s"], "--wait is only for a simulation with lifetimes"),
        (["--arrivals-only", "--order", "fifo"], "--order is only for a simulation with lifetimes"),
        (
            ["--arrivals-only", "--speedup", "2"],
            "--speedup is only for a simulation with lifetimes",
        ),
        (["--inflate", "2"], "--inflate is only for a simulation with --arrivals-only"),
        (["--seeds", "2"], "--seeds is only for a simulation with --arrivals-only"),
        (["--ignore-models"], "--ignore-models is only for a simulation with --arrivals-only"),
        (["--node", "cpu=1"], "--node is only for the format csv"),
        (["--map", "start=t"], "--map is only for the format csv"),
        (["--strategy", "random", "--strategy", "random"], "--strategy random is given twice"),
        (["--speedup", "nan"], "--speedup takes a number above 0"),
        (["--cut", "nan"], "between 0 and 1"),
        (["--cut", "0.001"], "there is no node to simulate with"),
        (["--arrivals-only", "--inflate", "nan"], "--inflate takes a number above 0"),
        (["--nodes", "-", "--pods", "-"], "only one file can be standard input"),
        (["--pods", "."], "cannot be read: Is a directory"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(
    lb: CommandLine, openb: list[str], options: list[str], says: str
) -> None:
    answer = lb(*openb, *options)
    assert (answer.code, answer.out) == (2, "")
    assert says in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--map", MAP, "--node", "cpu=2", "--nodes", "n.csv"],
            "--nodes is only for the format openb",
        ),
        (["--map", f"{MAP},dur=seconds", "--node", "cpu=2"], "asks for dur, and no node has any"),
        (["--map", "start=began,end=seconds:min,cpu=cores", "--node", "cpu=2"], "no unit of time"),
        (["--map", MAP], "the csv format needs --node and --map"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_one_clear_line(
    lb: CommandLine, table: list[str], options: list[str], says: str
) -> None:
    answer = lb(*table, *options)
    assert (answer.code, answer.out) == (2, "")
    assert says in answer.err
    assert answer.err.count("\n") == 1


def test_a_head_alone_is_no_trace(lb: CommandLine, openb: list[str]) -> None:
    Path(openb[-1]).write_text(PODS.splitlines()[0] + "\n")
    for options in ([], ["--arrivals-only"]):
        answer = lb(*openb, *options)
        assert answer.code == 2
        assert "it has a head and no line" in answer.err


def test_a_wait_of_less_than_a_second_is_a_wait(lb: CommandLine, table: list[str]) -> None:
    trace = Path(table[-1])
    trace.write_text("began,seconds,cores,who\n0,0.5,2,ann\n0.25,0.5,2,bob\n5,1,2,cy\n")
    asked = [*table, "--map", MAP, "--node", "cpu=2", "--wait"]
    assert lb.ok(*asked, "500ms")["rows"][0]["granted"] == 3
    assert lb.ok(*asked, "200ms")["rows"][0]["timed_out"] == 1
    assert lb.ok(*asked, "0")["rows"][0]["refused"] == {"insufficient_capacity": 1}


def run(arguments: list[str], *, given: bytes = b"", hash_seed: str = "0") -> bytes:
    """What a process of its own writes to stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "leasebook", *arguments],
        input=given,
        capture_output=True,
        env={**unmeasured(), "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed},
        check=True,
        timeout=60,
    )
    assert done.stderr == b""
    return done.stdout


def test_a_trace_comes_from_standard_input_also_packed(lb: CommandLine, openb: list[str]) -> None:
    piped = [*openb[:-1], "-", "--json"]
    for given in (PODS.encode(), gzip.compress(PODS.encode())):
        assert json.loads(run(piped, given=given)) == lb.ok(*openb)


def test_the_answer_hangs_on_nothing_but_what_was_asked(openb: list[str]) -> None:
    several = ["--strategy", "random", "--strategy", "frontier", "--json"]
    for way in (["--arrivals-only", "--seeds", "3"], []):
        asked = [*openb, *way, *several]
        assert run(asked, hash_seed="0") == run(asked, hash_seed="1")
