"""Rows of Slurm's accounting that belong together and do not stand together: runs, steps, arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leasebook.importers import slurm_apart, slurm_ids
from leasebook.importers.base import Found, Item, Options, Reject, open_reader
from leasebook.importers.slurm_ids import parted, tasks
from leasebook.importers.units import SECOND, moment
from ledger.commands import Fact
from tests.unit.test_import_sacct import COLUMNS, GIB, MIB, T0, facts, items, row

SUBMITTED = T0 // SECOND


def at(minute: int) -> str:
    """A time of the first of January 2020."""
    return f"2020-01-01T{minute // 60:02}:{minute % 60:02}:00"


def seconds(minute: int) -> int:
    return SUBMITTED + 60 * minute


def run(state: str, start: int | None, end: int | None, **more: str) -> str:
    """A row of a run of job 7 on node n1."""
    began = (
        {"Start": "Unknown", "NodeList": "None assigned"} if start is None else {"Start": at(start)}
    )
    ended = "Unknown" if end is None else at(end)
    return row(**({"State": state, "End": ended} | began | more))


def step(name: str, start: int, end: int, memory: str, cpu: str = "00:10:00", **more: str) -> str:
    """A row of a step, whose time of submission is its own start."""
    changed = {"JobID": name, "JobIDRaw": name, "User": "", "Submit": at(start), "Start": at(start)}
    changed |= {"End": at(end), "MaxRSS": memory, "NTasks": "1", "TotalCPU": cpu}
    return row(**(changed | more))


def told(found: list[Item]) -> dict[str, dict[str, Any]]:
    """What facts say in the end, by the last part of their keys; of two, the later one adds."""
    lives: dict[str, dict[str, Any]] = {}
    for item in found:
        if isinstance(item, Reject):
            continue
        assert isinstance(item, Found)
        fact = item.fact
        life = lives.setdefault(fact.key.rpartition(":")[2], {"used": {}, "peak": {}})
        life |= {"runs": (fact.began_at, fact.ended_at), "holder": fact.holder}
        if fact.usage is not None:
            assert not life["used"] or not fact.usage.used, "processor time counts twice"
            life["used"] |= fact.usage.used
            life["peak"] |= fact.usage.peak
    return lives


# --- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
def test_each_run_of_a_job_that_was_put_back_is_an_allocation(tmp_path: Path, order: int) -> None:
    rows = [
        run("NODE_FAIL", 10, 20),
        run("COMPLETED", 30, 40, Submit=at(21), NodeList="n2"),
    ]
    found = {fact.key: fact for fact in facts(tmp_path, *rows[::order])}
    first, second = f"sacct:far:7@{seconds(0)}", f"sacct:far:7@{seconds(21)}"
    assert found.keys() == {first, second}
    assert found[first].ended_by == "crashed"
    assert [one.node for one in found[second].placements] == ["n2"]


@pytest.mark.parametrize(
    "state", ["NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "REQUEUED", "SPECIAL_EXIT"]
)
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("submit", ["2020-01-01T00:00:00", "Unknown"])
def test_runs_that_are_plainly_two_stay_two_under_one_time_of_submission(
    tmp_path: Path, state: str, order: int, submit: str
) -> None:
    rows = [
        run("RUNNING", 10, None, Submit=submit),
        run(state, 10, 20, Submit=submit),
        run("COMPLETED", 30, 40, Submit=submit),
    ]
    plain = "7" if submit == "Unknown" else f"7@{seconds(0)}"
    found = [fact.key.rpartition(":")[2] for fact in facts(tmp_path, *rows[::order])]
    assert found == [f"{plain}/{seconds(10)}", f"{plain}/{seconds(10)}", plain][::order]


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "REQUEUED"])
def test_a_run_that_is_alone_keeps_the_key_that_it_was_known_by_when_it_waited(
    tmp_path: Path, state: str
) -> None:
    rows = [run("PENDING", None, None), run("RUNNING", 10, None), run(state, 10, 20)]
    assert {fact.key for fact in facts(tmp_path, *rows)} == {f"sacct:far:7@{seconds(0)}"}


def test_a_requeued_run_is_over_and_a_job_that_waits_after_it_waits(tmp_path: Path) -> None:
    over, waits = facts(
        tmp_path, run("REQUEUED", 10, 20), run("REQUEUED", 10, None, JobID="8", JobIDRaw="8")
    )
    assert (over.began_at, over.ended_at, over.ended_by) == (
        T0 + 600 * SECOND,
        T0 + 1200 * SECOND,
        "forced",
    )
    assert (waits.began_at, waits.ended_at) == (None, None)


def test_a_zone_that_was_forgotten_changes_no_key(tmp_path: Path) -> None:
    from zoneinfo import ZoneInfo

    (first,) = facts(tmp_path, row())
    (second,) = facts(tmp_path, row(), zone=ZoneInfo("Europe/Berlin"))
    assert first.key == second.key
    assert first.requested_at != second.requested_at


# --- steps ---------------------------------------------------------------------------------------

JOB = [
    run("COMPLETED", 1, 61, TotalCPU="02:00:00"),
    step("7.batch", 1, 61, "2G", "01:30:00"),
    step("7.0", 2, 50, "1G", "00:30:00", NTasks="4"),
]


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.permutations([*JOB, row(JobID="8", JobIDRaw="8"), row(JobID="9", JobIDRaw="9")]))
def test_steps_come_to_the_same_wherever_they_stand(tmp_path: Path, rows: list[str]) -> None:
    found = items(tmp_path, COLUMNS, *rows)
    assert not any(isinstance(one, Reject) for one in found)
    lives = told(found)
    assert len(lives) == 3
    life = lives[f"7@{seconds(0)}"]
    assert (life["used"], life["peak"]) == ({"cpu": 7_200_000}, {"memory": 4 * GIB})
    assert life["holder"] == "ann"


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.permutations(
        [
            run("PREEMPTED", 10, 20),
            step("7.batch", 10, 20, "1M"),
            step("7.0", 15, 19, "5M"),
            run("COMPLETED", 30, 40, Submit=at(20)),
            step("7.batch", 30, 40, "3M"),
            run("COMPLETED", 30, 40, Submit=at(20), Cluster="near"),
            step("7.batch", 30, 40, "9M", Cluster="near"),
        ]
    )
)
def test_a_step_belongs_to_the_run_that_had_begun_on_its_cluster(
    tmp_path: Path, rows: list[str]
) -> None:
    found = items(tmp_path, COLUMNS, *rows)
    peaks = {
        one.fact.key: one.fact.usage.peak["memory"]
        for one in found
        if isinstance(one, Found) and one.fact.usage is not None and one.fact.usage.peak
    }
    used = [
        one.fact.usage.used["cpu"]
        for one in found
        if isinstance(one, Found) and one.fact.usage is not None and one.fact.usage.used
    ]
    assert peaks == {
        f"sacct:far:7@{seconds(0)}": 5 * MIB,
        f"sacct:far:7@{seconds(20)}": 3 * MIB,
        f"sacct:near:7@{seconds(20)}": 9 * MIB,
    }
    # Their own rows say nothing of processor time, so it is that of their steps.
    assert sorted(used) == [600_000, 600_000, 1_200_000]


def test_steps_without_their_job_are_rejected_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "steps.log"
    lines = [row(JobID="8", JobIDRaw="8"), JOB[1], row(JobID="9", JobIDRaw="9"), JOB[2]]
    path.write_text("\n".join((COLUMNS, *lines)) + "\n")
    found = list(open_reader("sacct", str(path), Options()))
    rejects = [one for one in found if isinstance(one, Reject)]
    assert [(one.line, one.text) for one in rejects] == [(3, JOB[1]), (5, JOB[2])]
    assert all("its job is not in this file" in one.reason for one in rejects)


def test_steps_of_a_job_that_cannot_be_understood_are_rejected_with_it(tmp_path: Path) -> None:
    broken = run("COMPLETED", 1, 61, NCPUS="many")
    found = items(tmp_path, COLUMNS, row(JobID="8"), broken, JOB[1], row(JobID="9"), JOB[2])
    assert [one.line for one in found if isinstance(one, Reject)] == [3, 4, 6]


@pytest.mark.parametrize("kept", [4, 6])
def test_steps_beyond_what_is_kept_are_rejected_and_never_counted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr(slurm_apart, "KEPT_MAX", kept)
    jobs = [row(JobID=str(n), JobIDRaw=str(n), TotalCPU="01:00:00") for n in range(9)]
    steps = [step(f"{n}.0", 1, 2, "1M") for n in range(9)]
    found = items(tmp_path, COLUMNS, *jobs, *steps)
    rejects = [one for one in found if isinstance(one, Reject)]
    lives = told(found)
    assert len(lives) == 9
    assert len(rejects) + sum(bool(life["peak"]) for life in lives.values()) == 9
    assert 0 < len(rejects) < 9
    assert all("sort the file by JobID" in one.reason for one in rejects)
    # Those that stand with their jobs need not be kept.
    sorted_ = [line for pair in zip(steps, jobs, strict=True) for line in pair]
    lives = told(items(tmp_path, COLUMNS, *sorted_))
    assert [life["peak"] for life in lives.values()] == [{"memory": MIB}] * 9


# --- arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("12_[4-6%2]", [4, 5, 6]),
        ("12_[1,3,5-9%2]", [1, 3, 5, 6, 7, 8, 9]),
        ("12_[0-999%10]", list(range(1000))),
        ("12_[1-9:2]", [1, 3, 5, 7, 9]),
        ("12_[1-10:4,20]", [1, 5, 9, 20]),
        ("12_[7]", [7]),
    ],
)
def test_a_list_of_tasks_is_expanded(text: str, numbers: list[int]) -> None:
    assert list(tasks(text)) == [f"12_{number}" for number in numbers]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("12_[1,2,3...]", "SLURM_BITSTR_LEN=0"),
        ("12_[1,2,...%5]", "SLURM_BITSTR_LEN=0"),
        ("12_[3-1]", "upside down"),
        ("12_[1-9:0]", "upside down"),
        ("12_[]", "no number"),
        ("12_[a-b]", "no number"),
        ("12_[1", "not a list"),
        ("12_[0-4000000]", f"more than {slurm_ids.TASKS_MAX} tasks"),
        ("12_[" + "1," * 150_000 + "1]", "more than"),
    ],
)
def test_a_list_of_tasks_that_cannot_be_known_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("[", r"\[")):
        tasks(text)


def test_ids_fall_into_job_and_step() -> None:
    ids = ["7", "7.batch", "7_4.0", "7+1.extern", "7_[1,2...]"]
    assert [parted(text) for text in ids] == [
        ("7", ""),
        ("7", "batch"),
        ("7_4", "0"),
        ("7+1", "extern"),
        ("7_[1,2...]", ""),
    ]


def test_the_tasks_of_an_array_wait_under_the_keys_that_they_will_run_by(tmp_path: Path) -> None:
    found = items(
        tmp_path,
        COLUMNS,
        run("PENDING", None, None, JobID="12_[4-6%2]", JobIDRaw="12"),
        run("COMPLETED", 5, 9, JobID="12_4", JobIDRaw="13"),
        run("PENDING", None, None, JobID="14_[1,2...]", JobIDRaw="14"),
    )
    waiting: list[Fact] = [one.fact for one in found if isinstance(one, Found) and one.line == 2]
    (ran,) = (one.fact for one in found if isinstance(one, Found) and one.line == 3)
    assert [one.key for one in waiting] == [f"sacct:far:12_{n}@{seconds(0)}" for n in (4, 5, 6)]
    assert all((one.began_at, one.ended_at) == (None, None) for one in waiting)
    assert ran.key == waiting[0].key
    (cut,) = (one for one in found if isinstance(one, Reject))
    assert (cut.line, "cut short" in cut.reason) == (4, True)


def test_times_are_as_the_key_says() -> None:
    assert slurm_ids.stamp(at(5)) == seconds(5) == moment(at(5)) // SECOND
    assert slurm_ids.stamp("Unknown") is None
