"""``leasebook import`` from outside: real files into real ledgers, twice, interrupted, contradicted."""

from __future__ import annotations

import csv
import gzip
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.importing import write_log
from leasebook.importers.units import SECOND, moment
from ledger.codec import from_row
from ledger.events import Event
from ledger.rules.history import Life
from ledger.sqlite_log import SqliteLog
from tests.command_line import ROOT, CommandLine
from tests.real_inputs import real_inputs

HEAD = "JobID|JobIDRaw|Cluster|Account|User|Submit|Start|End|Elapsed|State|NCPUS|NodeList|JobName"
DAY = 86_400 * SECOND


def job(number: int, **changed: str) -> str:
    values = {
        "JobID": str(number),
        "JobIDRaw": str(number),
        "Cluster": "far",
        "Account": "lab",
        "User": "ann",
        "Submit": "2020-01-01T00:00:00",
        "Start": "2020-01-01T00:01:00",
        "End": "2020-01-01T01:01:00",
        "Elapsed": "01:00:00",
        "State": "COMPLETED",
        "NCPUS": "4",
        "NodeList": "n1",
        "JobName": "train",
    }
    return "|".join((values | changed)[name] for name in HEAD.split("|"))


def write(tmp_path: Path, *rows: str, name: str = "jobs.log") -> str:
    path = tmp_path / name
    path.write_text("\n".join((HEAD, *rows)) + "\n")
    return str(path)


def events_of(lb: CommandLine) -> list[Event]:
    log = SqliteLog.open(lb.ledger, read_only=True)
    try:
        return [from_row(row) for row in log.read()]
    finally:
        log.close()


def lives_of(lb: CommandLine) -> dict[str, Life]:
    """Every recorded allocation by its key."""
    events: dict[str, list[Event]] = defaultdict(list)
    keys: dict[str, str] = {}
    for event in events_of(lb):
        if event.allocation is not None:
            events[event.allocation].append(event)
            if event.cause is not None:
                keys.setdefault(event.allocation, event.cause.command_id)
    return {keys[name]: Life(said) for name, said in events.items()}


# --- what an import says and does ----------------------------------------------------------------


def test_an_import_opens_an_observed_pool_and_says_what_it_did(
    lb: CommandLine, tmp_path: Path
) -> None:
    file = write(
        tmp_path,
        job(1),
        job(2, State="RUNNING", End="Unknown"),
        job(3, State="PENDING", Start="Unknown", End="Unknown", NodeList="None assigned"),
        "what is this",
    )
    told = lb.ok("import", file, "--format", "sacct")
    assert told["rows"] == 4
    assert told["facts"] == {"new": 3, "added": 0, "corrected": 0, "known": 0, "elsewhere": 0}
    assert (told["events"], told["open"], told["waiting"]) == (4, 1, 1)
    assert (told["pools"], told["pools_opened"]) == ({"far": 3}, ["far"])
    assert told["since"] == "2020-01-01T00:00:00.000000Z"
    assert told["until"] == "2020-01-01T01:01:00.000000Z"
    assert told["rejects"]["count"] == 1
    with Path(told["rejects"]["file"]).open(newline="") as kept:
        rows = list(csv.reader(kept))
    assert rows[0] == ["line", "reason", "text"]
    assert (rows[1][0], rows[1][2]) == ("5", "what is this")
    pools = lb.ok("pool", "list")["pools"]
    assert [(pool["name"], pool["kind"]) for pool in pools] == [("far", "observed")]
    assert lb("verify").code == 0


def test_the_words_name_rejects_and_what_is_open(lb: CommandLine, tmp_path: Path) -> None:
    answer = lb("import", write(tmp_path, job(1, End="Unknown"), "odd"), "--format", "sacct")
    assert answer.code == 0
    assert "1 never ended" in answer.out
    assert "line 3: 1 columns where 13 were expected" in answer.out


def test_a_second_import_changes_nothing(lb: CommandLine, tmp_path: Path) -> None:
    file = write(tmp_path, *[job(n) for n in range(50)], job(99, State="RUNNING", End="Unknown"))
    lb.ok("import", file, "--format", "sacct")
    before = events_of(lb)
    told = lb.ok("import", file, "--format", "sacct")
    assert (told["events"], told["facts"]["known"], told["open"]) == (0, 51, 1)
    assert events_of(lb) == before


def test_a_newer_dump_adds_only_what_is_new_and_contradictions_are_corrected(
    lb: CommandLine, tmp_path: Path
) -> None:
    old = write(tmp_path, job(1, State="RUNNING", End="Unknown"), job(2), job(3), name="old.log")
    new = write(tmp_path, job(1), job(2), job(3, End="2020-01-01T02:00:00"), job(4), name="new.log")
    lb.ok("import", old, "--format", "sacct")
    told = lb.ok("import", new, "--format", "sacct")
    assert told["facts"] == {"new": 1, "added": 1, "corrected": 1, "known": 1, "elsewhere": 0}
    assert told["events"] == 4
    lives = lives_of(lb)
    submitted = moment("2020-01-01T00:00:00") // SECOND
    assert lives[f"sacct:far:1@{submitted}"].ended_at == moment("2020-01-01T01:01:00")
    assert lives[f"sacct:far:3@{submitted}"].ended_at == moment("2020-01-01T02:00:00")
    # The older file, late and out of order, says nothing new.
    assert lb.ok("import", old, "--format", "sacct")["events"] == 0


def test_what_is_managed_is_neither_touched_nor_imported_into(
    lb: CommandLine, tmp_path: Path
) -> None:
    lb.ok("pool", "open", "mine", "cpu=8")
    held = lb.ok("allocate", "mine", "cpu=2", "--holder", "h", "--ttl", "1h")
    file = write(tmp_path, job(1))
    refused = lb("import", file, "--format", "sacct", "--pool", "mine")
    assert refused.code == 2
    assert "managed" in refused.err
    count = len(events_of(lb))
    before = lb.ok("pool", "show", "mine")
    lb.ok("import", file, "--format", "sacct")
    assert len(events_of(lb)) > count
    after = lb.ok("pool", "show", "mine")
    assert [node["in_use"] for node in after["nodes"]] == [
        node["in_use"] for node in before["nodes"]
    ]
    assert lb.ok("show", held["allocation"]["id"])["state"] == "active"
    assert lb("verify").code == 0


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", '[{"event_type": "x"}]\n', "; Version: 2\n1 2 3\n"]
)
def test_a_file_of_another_format_is_refused_and_nothing_is_written(
    lb: CommandLine, tmp_path: Path, text: str
) -> None:
    (tmp_path / "other").write_text(text)
    answer = lb("import", str(tmp_path / "other"), "--format", "sacct")
    assert answer.code == 2
    assert "sacct" in answer.err
    assert not lb.ledger.exists()
    assert not list(tmp_path.glob("*.rejects*"))


def test_a_file_of_which_no_row_is_understood_is_refused_and_nothing_is_written(
    lb: CommandLine, tmp_path: Path
) -> None:
    answer = lb("import", write(tmp_path, "x", "y"), "--format", "sacct")
    assert answer.code == 2
    assert not lb.ledger.exists()
    assert lb("import", "no-such-file", "--format", "sacct").code == 2


def test_rows_that_cannot_be_recorded_are_rejected_with_the_others_taken(
    lb: CommandLine, tmp_path: Path
) -> None:
    upside_down = job(2, Start="2020-01-02T00:00:00", End="2020-01-01T00:00:00")
    told = lb.ok("import", write(tmp_path, job(1), upside_down, job(3)), "--format", "sacct")
    assert (told["facts"]["new"], told["rejects"]["count"]) == (2, 1)
    assert "before it begins" in told["rejects"]["first"][0]["reason"]
    assert told["rejects"]["first"][0] == told["rejects"]["first"][0] | {
        "line": 3,
        "text": upside_down,
    }


def test_steps_count_as_rows_and_one_that_is_broken_as_a_reject(
    lb: CommandLine, tmp_path: Path
) -> None:
    def with_cpu(line: str, total: str) -> str:
        return f"{line}|{total}"

    path = tmp_path / "steps.log"
    steps = [
        with_cpu(job(1), "00:30:00"),
        with_cpu(job(1, JobID="1.0", JobIDRaw="1.0", User=""), "00:20:00"),
        with_cpu(job(1, JobID="1.1", JobIDRaw="1.1", User=""), "a while"),
    ]
    path.write_text("\n".join((f"{HEAD}|TotalCPU", *steps)) + "\n")
    told = lb.ok("import", str(path), "--format", "sacct")
    assert (told["rows"], told["facts"]["new"], told["rejects"]["count"]) == (3, 1, 1)
    (life,) = lives_of(lb).values()
    assert [usage.used for usage in life.usages] == [{"cpu": 1_800_000}]


def test_over_capacity_is_flagged_where_the_size_is_known_and_recorded_all_the_same(
    lb: CommandLine, tmp_path: Path
) -> None:
    lb.ok("pool", "open", "far", "--node", "n1:cpu=10", "--observed")
    told = lb.ok("import", write(tmp_path, *[job(n) for n in range(3)]), "--format", "sacct")
    assert told["facts"]["new"] == 3
    (over,) = told["over_capacity"]
    assert (over["node"], over["resource"], over["held"], over["capacity"]) == (
        "n1",
        "cpu",
        12_000,
        10_000,
    )
    assert over["at"] == "2020-01-01T00:01:00.000000Z"


def test_a_damaged_file_is_recorded_as_far_as_it_goes_and_the_whole_one_goes_on(
    lb: CommandLine, tmp_path: Path
) -> None:
    whole = tmp_path / "jobs.log"
    write_log(whole, 3_000)
    packed = gzip.compress(whole.read_bytes())
    broken = tmp_path / "jobs.gz"
    broken.write_bytes(packed[: len(packed) // 2])
    answer = lb("import", str(broken), "--format", "sacct")
    assert answer.code == 2
    assert "damaged" in answer.err
    done = len(lives_of(lb))
    assert 1_000 < done < 3_000
    broken.write_bytes(packed)
    told = lb.ok("import", str(broken), "--format", "sacct")
    assert (told["facts"]["known"], told["facts"]["new"]) == (done, 3_000 - done)


def test_rejects_never_overwrite_the_file_itself(lb: CommandLine, tmp_path: Path) -> None:
    file = write(tmp_path, job(1), "odd")
    answer = lb("import", file, "--format", "sacct", "--rejects", file)
    assert answer.code == 2
    assert (tmp_path / "jobs.log").read_text().startswith(HEAD)


def test_csv_by_mapping_from_standard_input(lb: CommandLine) -> None:
    text = "Begin,End,User,Mem\n2020-01-01,2020-01-02,ann,3\n,2020-01-03,bob,1\n"
    process = lb.process(
        "import", "-", "--format", "csv", "--json", "--pool", "far",
        "--map", "start=Begin,end=End,holder=User,memory=Mem:GiB", stdin=subprocess.PIPE,
    )  # fmt: skip
    _, err = process.communicate(text, timeout=60)
    assert process.returncode == 0, err
    lives = sorted(lives_of(lb).values(), key=lambda life: life.holder)
    assert [life.holder for life in lives] == ["ann", "bob"]
    assert [life.granted_at for life in lives] == [moment("2020-01-01T00:00:00")] * 2
    assert [life.is_since_before for life in lives] == [False, True]


# --- interruptions -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_import_interrupted_half_way_loses_nothing_and_goes_on(
    lb: CommandLine, tmp_path: Path, how: signal.Signals
) -> None:
    rows = 6_000
    whole = tmp_path / "whole.swf"
    jobs = (f"{n} {n} 5 100 2" + " -1" * 5 + " 1 3" + " -1" * 6 for n in range(rows))
    lines = ["; Version: 2\n", *(f"{one}\n" for one in jobs)]
    whole.write_text("".join(lines))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = lb.process("import", str(pipe), "--format", "swf", "--pool", "far")
    with pipe.open("w") as feeding:
        # More than two transactions' worth, and then it waits for the rest that never comes.
        feeding.writelines(lines[:4_500])
        feeding.flush()
        _wait_for_events(lb, 4_000)
        process.send_signal(how)
        process.communicate(timeout=60)
    assert process.returncode != 0
    done = len(lives_of(lb))
    assert 2_000 <= done < rows
    assert lb("verify").code == 0
    told = lb.ok("import", str(whole), "--format", "swf", "--pool", "far")
    assert told["facts"]["new"] == rows - done
    assert told["facts"]["known"] == done
    lives = lives_of(lb)
    assert len(lives) == rows and all(life.state == "ended" for life in lives.values())
    assert lb("verify").code == 0


def _wait_for_events(lb: CommandLine, count: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if lb.ledger.exists():
            try:
                log = SqliteLog.open(lb.ledger, read_only=True)
            except Exception:
                time.sleep(0.05)
                continue
            try:
                if log.head().position >= count:
                    return
            finally:
                log.close()
        time.sleep(0.05)
    raise AssertionError("the import did not get on")


def test_memory_does_not_grow_with_the_file(lb: CommandLine, tmp_path: Path) -> None:
    code = (
        "import resource, sys; from leasebook.__main__ import main;"
        "code = main(sys.argv[1:]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss);"
        "sys.exit(code)"
    )
    peaks = []
    for name, rows in (("small", 2_000), ("large", 20_000)):
        file = tmp_path / f"{name}.log"
        write_log(file, rows)
        arguments = [
            "import",
            str(file),
            "--format",
            "sacct",
            "--ledger",
            str(tmp_path / f"{name}.db"),
        ]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < peaks[0] + 30_000, peaks


# --- the right answers ---------------------------------------------------------------------------


def test_the_real_log_gives_the_right_totals_of_every_day(lb: CommandLine) -> None:
    folder = real_inputs("slurm_phillips")
    told = lb.ok("import", str(folder / "phillips.log"), "--format", "sacct")
    assert (told["rows"], told["facts"]["new"], told["rejects"]["count"]) == (4285, 4285, 0)
    assert told["pools"] == {"phillips": 4285}
    lives = [life for life in lives_of(lb).values() if life.granted_at is not None]
    assert len(lives) == 4285 - 239
    with (folder / "expected_daily.csv").open(newline="") as file:
        for expected in csv.DictReader(file):
            begin = int(datetime.fromisoformat(expected["day_utc"]).replace(tzinfo=UTC).timestamp())
            found = _day(lives, begin * SECOND)
            for name, value in found.items():
                assert round(value, 4) == pytest.approx(float(expected[name]), abs=1e-4), name


def _day(lives: list[Life], begin: int) -> dict[str, float]:
    end = begin + DAY
    sums: dict[str, Any] = defaultdict(float)
    for life in lives:
        assert life.granted_at is not None and life.ended_at is not None
        assert life.requested_at is not None
        if life.granted_at < end and life.ended_at >= begin:
            sums["running_job_count"] += 1
        hours = (min(life.ended_at, end) - max(life.granted_at, begin)) / 3600 / SECOND
        if hours > 0:
            sums["total_cpu_hours"] += hours * life.amounts["cpu"] / 1000
            sums["total_wallduration_hours"] += hours
            sums["total_node_hours"] += hours * len(life.placements)
            sums["total_gpu_hours"] += hours * life.amounts.get("gpu", 0) / 1000
        if begin <= life.ended_at < end:
            sums["job_count"] += 1
        if begin <= life.granted_at < end:
            sums["started_job_count"] += 1
            sums["total_waitduration_hours"] += (
                (life.granted_at - life.requested_at) / 3600 / SECOND
            )
    return sums
