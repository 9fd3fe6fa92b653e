"""Slurm's accounting through the command line, where one job comes in several rows, orders and files."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import CommandLine
from tests.integration.test_importing import events_of, lives_of

HEAD = (
    "JobID|JobIDRaw|JobName|User|Account|Cluster|Submit|Start|End|State|NCPUS|NodeList|Elapsed|TotalCPU"
    "|MaxRSS|NTasks"
)
GIB = 2**30


def row(name: str, submit: str, start: str, end: str, state: str, *used: str, **more: str) -> str:
    """A row of a day's job: times such as ``10:20``, or none; TotalCPU and MaxRSS."""

    def at(clock: str) -> str:
        return f"2024-01-01T{clock}:00" if clock else "Unknown"

    said = {"JobID": name, "JobIDRaw": name, "JobName": "j", "User": "ann", "Account": "lab"}
    said |= {"Cluster": "far", "NCPUS": "4", "NTasks": "1", "State": state}
    said |= {"Submit": at(submit), "Start": at(start), "End": at(end)}
    said |= {"NodeList": "n1" if start else "None assigned"}
    said |= dict(zip(("TotalCPU", "MaxRSS"), used, strict=False)) | more
    return "|".join(said.get(column, "") for column in HEAD.split("|"))


def step(name: str, start: str, end: str, cpu: str, memory: str) -> str:
    return row(name, start, start, end, "COMPLETED", cpu, memory, User="")


def write(tmp_path: Path, *rows: str, name: str = "jobs.log") -> str:
    path = tmp_path / name
    path.write_text("\n".join((HEAD, *rows)) + "\n")
    return str(path)


def state_of(lb: CommandLine) -> dict[str, Any]:
    """What is recorded of each allocation in the end, by its key."""
    states = {}
    for key, life in lives_of(lb).items():
        used: dict[str, int] = {}
        peak: dict[str, int] = {}
        for usage in life.usages:
            used |= {name: used.get(name, 0) + amount for name, amount in usage.used.items()}
            peak |= {name: max(peak.get(name, 0), one) for name, one in usage.peak.items()}
        held = (life.holder, life.granted_at, life.ended_at, life.ended_by, life.amounts)
        states[key] = (*held, [one.node for one in life.placements], used, peak)
    return states


def sacct(lb: CommandLine, file: str) -> dict[str, Any]:
    told: dict[str, Any] = lb.ok("import", file, "--format", "sacct")
    return told


ROWS = [
    row("21", "00:00", "00:10", "00:20", "NODE_FAIL"),
    step("21.batch", "00:10", "00:20", "00:05:00", "1G"),
    row("21", "00:21", "00:30", "00:40", "COMPLETED", "00:20:00", NodeList="n2"),
    step("21.batch", "00:30", "00:40", "00:20:00", "3G"),
    row("22", "00:00", "00:10", "00:20", "REQUEUED"),
    row("22", "00:00", "00:30", "00:40", "COMPLETED", NodeList="n2"),
    row("1", "00:00", "00:01", "01:01", "COMPLETED", "02:00:00"),
    step("1.batch", "00:01", "01:01", "01:30:00", "2G"),
    step("1.0", "00:02", "00:50", "00:30:00", "4G"),
    row("12_[4-6%2]", "00:00", "", "", "PENDING"),
    row("12_4", "00:00", "02:00", "03:00", "COMPLETED", JobIDRaw="13"),
    step("12_4.batch", "02:00", "03:00", "01:00:00", "1G"),
]


def test_every_order_of_a_file_comes_to_the_same_and_again_to_nothing(
    lb: CommandLine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = sacct(lb, write(tmp_path, *ROWS))
    assert (told["rows"], told["rejects"]["count"], told["waiting"]) == (len(ROWS), 0, 2)
    state = state_of(lb)
    assert len(state) == 8
    holders = lb.ok("report", "utilization", "--by", "holder", "--until", "now")["rows"]
    assert {one["holder"] for one in holders} == {"ann"}
    events = events_of(lb)
    for seed in range(5):
        shuffled = random.Random(seed).sample(ROWS, len(ROWS))
        # A ledger that knows it all learns nothing, and a new one comes to the same.
        assert sacct(lb, write(tmp_path, *shuffled))["events"] == 0
        other = ("--ledger", str(tmp_path / f"{seed}.db"))
        assert lb("import", str(tmp_path / "jobs.log"), "--format", "sacct", *other).code == 0
        lb_other = CommandLine(Path(other[1]), capsys)
        assert state_of(lb_other) == state
    assert events_of(lb) == events


def test_what_was_used_is_counted_once_for_exports_with_and_without_steps(
    lb: CommandLine, tmp_path: Path
) -> None:
    bare = write(tmp_path, ROWS[6], name="bare.log")
    whole = write(tmp_path, *ROWS[6:9], name="whole.log")
    for file in (bare, whole, bare):
        sacct(lb, file)
    (state,) = state_of(lb).values()
    assert state[-2:] == ({"cpu": 7_200_000}, {"memory": 4 * GIB})


def test_steps_alone_are_refused_and_change_nothing(lb: CommandLine, tmp_path: Path) -> None:
    sacct(lb, write(tmp_path, ROWS[6]))
    before = events_of(lb)
    answer = lb("import", write(tmp_path, *ROWS[7:9]), "--format", "sacct")
    assert answer.code == 2
    assert "its job is not in this file" in answer.err
    assert events_of(lb) == before


@pytest.mark.parametrize("order", [1, -1])
def test_the_stages_of_a_job_in_several_files_are_one_allocation(
    lb: CommandLine, tmp_path: Path, order: int
) -> None:
    stages = [
        row("7", "00:00", "", "", "PENDING"),
        row("7", "00:00", "00:10", "", "RUNNING"),
        row("7", "00:00", "00:10", "00:20", "NODE_FAIL"),
    ][::order]
    for number, stage in enumerate(stages):
        sacct(lb, write(tmp_path, stage, name=f"{number}.log"))
    (life,) = lives_of(lb).values()
    assert (life.state, life.ended_by) == ("ended", "crashed")


def test_tasks_that_waited_in_an_array_are_those_that_ran(lb: CommandLine, tmp_path: Path) -> None:
    told = sacct(lb, write(tmp_path, row("12_[4-6%2]", "00:00", "", "", "PENDING", JobIDRaw="12")))
    assert (told["rows"], told["facts"]["new"], told["waiting"]) == (1, 3, 3)
    ran = [
        row(f"12_{n}", "00:00", "02:00", "03:00", "COMPLETED", JobIDRaw=f"{n}") for n in (4, 5, 6)
    ]
    told = sacct(lb, write(tmp_path, *ran))
    assert (told["facts"]["new"], told["facts"]["added"]) == (0, 3)
    lives = lives_of(lb)
    assert len(lives) == 3 and all(life.state == "ended" for life in lives.values())


def test_names_in_latin_1_stay_two_in_the_ledger_and_in_the_rejects(
    lb: CommandLine, tmp_path: Path
) -> None:
    rows = [row(f"{n}", "00:00", "00:10", "00:20", "COMPLETED", User=u) for n, u in enumerate("üö")]
    text = "\n".join((HEAD, *rows, "ä|ß")) + "\n"
    (tmp_path / "old.log").write_bytes(text.encode("latin-1"))
    answer = lb("import", "old.log", "--format", "sacct", "--rejects", "kept.csv")
    assert answer.code == 0
    assert "3 lines of old.log are no UTF-8: read as Latin-1" in answer.err
    assert {life.holder for life in lives_of(lb).values()} == {"ü", "ö"}
    with (tmp_path / "kept.csv").open(newline="", encoding="utf-8") as kept:
        assert list(csv.reader(kept))[1][2] == "ä|ß"
