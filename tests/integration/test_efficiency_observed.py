"""Efficiency of what happened elsewhere: the lives that the projections' tables tell, however late,
corrected or out of order they were recorded."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import leasebook
from ledger.codec import from_row
from ledger.commands import Fact, OpenPool, RecordFacts
from ledger.events import UsageRecorded
from ledger.memory_log import MemoryLog
from ledger.requests import Placement, Request
from ledger.rules.history import UNKNOWN
from projections.engine import Engine
from reports.compare import compare
from reports.efficiency import efficiency_by, measure
from reports.efficiency_uses import told, uses_of
from reports.lives import end_of
from reports.utilization import utilization
from tests.command_line import CommandLine
from tests.integration.test_projections_observed import import_some

SECOND = 1_000_000_000
NOW = 45 * SECOND
"""Before the end of some of what is imported, as a trace may speak of the future."""
KEYS = ("allocation", "holder", "task", "tenant", "pool", "strategy")
TENTHS = [*range(150, 600, 50)]

Row = dict[str, Any]


# --- random facts against the tables -------------------------------------------------------------


def _lives(views: Any) -> dict[str, Row]:
    """What tables ``allocations`` and ``spans`` say of each allocation that held."""
    cursor = views.execute(
        "SELECT id, kind, state, holder, task, tenant, pool, strategy, granted_at, expires_at,"
        " ended_at, ended_by, wait_ns FROM allocations WHERE granted_at IS NOT NULL"
    )
    names = [column[0] for column in cursor.description]
    found = {row[0]: dict(zip(names, row, strict=True)) for row in cursor}
    for life in found.values():
        ends = life["kind"], life["state"], life["expires_at"], life["ended_at"]
        life["until"] = max(end_of(*ends, NOW)[1], life["granted_at"])
        life["granted"] = Counter[str]()
        life["nodes"] = set[str]()
    for name, node, resource, amount, since, until in views.execute(
        "SELECT allocation, node, resource, amount, since_at, until_at FROM spans"
    ):
        life = found[name]
        end = life["until"] if until is None else min(until, life["until"])
        life["granted"][resource] += amount * max(0, end - since)
        life["nodes"].add(node)
    return found


def _expected(lives: list[Row]) -> Row:
    granted: Counter[str] = Counter()
    for life in lives:
        granted.update(life["granted"])
    return {
        "allocations": len(lives),
        "granted": granted,
        "held_ns": sum(life["until"] - life["granted_at"] for life in lives),
        "wait_ns": sum(life["wait_ns"] or 0 for life in lives),
        "ended_by": Counter(life["ended_by"] for life in lives if life["ended_by"] is not None),
    }


def _by(lives: dict[str, Row], by: str) -> dict[str | None, list[Row]]:
    groups: dict[str | None, list[Row]] = {}
    for life in lives.values():
        groups.setdefault(life["id" if by == "allocation" else by], []).append(life)
    return groups


def _rows(log: MemoryLog, by: str, since: int | None = None, until: int | None = None) -> list[Any]:
    events = told(log.read(), since=since, until=until)
    return efficiency_by(events, by, now=NOW, since=since, until=until)


def assert_as_tabled(views: Any, log: MemoryLog, since: int | None, until: int | None) -> None:
    """Each row of the report, by each key, is what the tables say of those that began in a window."""
    lives = {
        name: life
        for name, life in _lives(views).items()
        if (since is None or life["granted_at"] >= since)
        and (until is None or life["granted_at"] < until)
    }
    for by in KEYS:
        groups = _by(lives, by)
        rows = _rows(log, by, since, until)
        assert {row.key[by] for row in rows} == groups.keys()
        for row in rows:
            assert {
                "allocations": row.allocations,
                "granted": Counter(row.granted_base_ns),
                "held_ns": row.held_ns,
                "wait_ns": row.wait_ns,
                "ended_by": Counter(row.ended_by),
            } == _expected(groups[row.key[by]]), (by, row.key)
            assert 0 <= (row.coverage or 0) <= 1


def assert_as_utilization(views: Any, log: MemoryLog) -> None:
    """Both reports over all there is come to the same amounts and times."""
    for by in ("allocation", "tenant", "pool"):
        used = {row.key[by]: row for row in _rows(log, by)}
        rows = {row[by]: row for row in utilization(views, (by,), now=NOW).rows}
        assert used.keys() == rows.keys()
        for name, row in rows.items():
            assert used[name].held_ns / 1e9 == row["held_s"]
            granted = {r: amount for r, amount in used[name].granted_seconds.items() if amount}
            assert granted == {r: amount for r, amount in row["granted_seconds"].items() if amount}


def assert_compared_as_tabled(views: Any, log: MemoryLog) -> None:
    """A comparison counts the same allocations, under whom they are known to be now."""
    groups = _by(_lives(views), "holder")
    rows = {row["holder"]: row for row in compare(told(log.read()), "holder", now=NOW)}
    assert rows.keys() == groups.keys()
    for holder, row in rows.items():
        lives = groups[holder]
        assert row["granted"] == len(lives)
        assert row["waited"] == sum(life["wait_ns"] is not None for life in lives)
        assert row["ended_by"] == _expected(lives)["ended_by"]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    count=st.sampled_from((4, 8, 25)),
    since=st.none() | st.sampled_from(TENTHS),
    until=st.none() | st.sampled_from(TENTHS),
)
def test_any_import_has_the_lives_of_the_tables(
    tmp_path_factory: Any, seed: int, count: int, since: int | None, until: int | None
) -> None:
    log = MemoryLog()
    import_some(log, seed, count)
    bounds = (each and each * SECOND // 10 for each in (since, until))
    views = tmp_path_factory.mktemp("import") / "views.db"
    with Engine(log, views) as engine:
        assert engine.catch_up().failed == ()
        with closing(engine.connect()) as tables:
            assert_as_tabled(tables, log, None, None)
            assert_as_tabled(tables, log, *bounds)
            assert_as_utilization(tables, log)
            assert_compared_as_tabled(tables, log)


def test_random_imports_correct_move_and_leave_open_what_they_tell() -> None:
    """What the test before this one is worth: each case is among a few of its logs."""
    met: Counter[str] = Counter()
    for seed in range(20):
        log = MemoryLog()
        import_some(log, seed, 8)
        for use in uses_of(map(from_row, log.read())).values():
            if use.granted_at is None:
                continue
            told_by = [from_row(row) for row in log.rows_of_allocation(use.allocation)]
            first = next(event for event in told_by if event.type == "allocated")
            met["renamed"] += first.holder != use.holder
            met["begun otherwise"] += first.at != use.granted_at
            met["moved"] += len(use.spans) > 1
            met["never ended"] += use.ended_by is None and use.ended_at is not None
            met["of unknown end"] += use.ended_at is None
            met["beyond now"] += (use.ended_at or 0) > NOW
            met["measured"] += bool(measure(use, now=NOW).measured_ns)
    assert set(met) == set(+met), met


# --- a few jobs, asked at the command line -------------------------------------------------------

DAY = 1_704_067_200 * SECOND
"""2024-01-01T00:00:00Z."""
MINUTE = 60 * SECOND
CPU = {"cpu": 4000, "memory": 1 << 32}


def minute(number: int) -> int:
    """The time of a minute of that day."""
    return DAY + number * MINUTE


def _time(number: int) -> str:
    return f"2024-01-01T{number // 60:02}:{number % 60:02}:00Z"


def job(
    key: str,
    holder: str = UNKNOWN,
    *,
    asked: int | None = None,
    began: int | None = None,
    ended: int | None = None,
    node: str = "n1",
    used: tuple[int, int, int] | None = None,
    **more: Any,
) -> Fact:
    """A record of a job of 4 processors; times are minutes, ``used`` since, until and CPU minutes."""
    usage = None
    if used is not None:
        # Slurm says what was used from when to when, and took no samples of it.
        cpu = {"cpu": used[2] * 60 * 1000}
        usage = UsageRecorded(
            minute(used[0]), minute(used[1]), cpu, {"memory": 1 << 31}, final=True
        )
    times = {"requested_at": asked, "began_at": began, "ended_at": ended}
    more |= {name: minute(at) for name, at in times.items() if at is not None}
    known = holder != UNKNOWN
    return Fact(
        key=key,
        holder=holder,
        request=Request(CPU if known else {}),
        placements=(Placement(node, CPU, {}),) if known else (),
        usage=usage,
        **more,
    )


@pytest.fixture
def lb(lb: CommandLine) -> CommandLine:
    opening = OpenPool(command_id="open-c1", pool="c1", nodes=(), kind="observed")
    with leasebook.open(str(lb.ledger)) as manager:
        manager.ledger.writer.execute(opening)
    return lb


def recorded(lb: CommandLine, *facts: Fact) -> None:
    """Record these, one after another."""
    with leasebook.open(str(lb.ledger)) as manager:
        for fact in facts:
            command = RecordFacts(command_id="import", pool="c1", facts=(fact,))
            manager.ledger.writer.execute(command)


def one(lb: CommandLine, *arguments: str) -> Row:
    (row,) = lb.ok("report", "efficiency", *arguments)["rows"]
    found: Row = row
    return found


def test_what_never_ended_counts_until_it_was_last_seen(lb: CommandLine) -> None:
    recorded(lb, job("50", "ann", asked=0, began=60, seen_until=minute(90)))
    recorded(lb, job("50", "ann", asked=0, began=60, seen_until=minute(120)))
    row = one(lb, "--by", "holder")
    (held,) = lb.ok("report", "utilization", "--by", "holder")["rows"]
    assert (row["holder"], row["held_s"], row["ended_by"]) == ("ann", 3600, {})
    assert row["granted_seconds"] == held["granted_seconds"]
    assert row["granted_seconds"]["cpu"] == 4000 * 3600
    assert row["coverage"] == 0, "no record says that its use was measured"


def test_a_finished_task_shows_what_is_known_of_its_imported_runs(lb: CommandLine) -> None:
    other = job("51", "ann", asked=0, began=60, seen_until=minute(90), task="fit", tenant="b")
    recorded(lb, job("50", "ann", asked=0, began=60, seen_until=minute(90), task="fit"), other)
    recorded(lb, job("50", "ann", asked=0, began=60, seen_until=minute(120), task="fit"))
    row = lb.ok("task", "finish", "fit")["efficiency"]
    assert (row["task"], row["allocations"], row["held_s"]) == ("fit", 1, 3600)
    assert lb.ok("task", "finish", "fit", "--tenant", "b")["efficiency"]["held_s"] == 1800


def test_lists_say_where_to_look_for_what_observed_pools_hold(lb: CommandLine) -> None:
    recorded(lb, job("50", "ann", asked=0, began=60, seen_until=minute(90)))
    out = lb("list").out
    assert "nothing is held, nobody waits in managed pools" in out
    assert "leasebook at now" in out
    (line,) = [line for line in lb("pool", "list").out.splitlines() if line.startswith("c1")]
    assert line.split()[2:4] == ["?", "?"] and "leasebook at now" in line
    assert lb.ok("list")["allocations"] == []


WHOLE = job("1", "ann", asked=0, began=1, ended=61, used=(1, 61, 120))
BATCH = job("1", used=(1, 61, 90))


@pytest.mark.parametrize("facts", [(BATCH, WHOLE), (WHOLE, BATCH)], ids=["before", "after"])
def test_a_job_is_the_same_whether_its_step_comes_before_it_or_after_it(
    lb: CommandLine, facts: tuple[Fact, ...]
) -> None:
    recorded(lb, *facts)
    row = one(lb, "--by", "holder")
    assert row["holder"] == "ann"
    assert row["granted_seconds"] == {"cpu": 4000 * 3600, "memory": 3600 << 32}
    assert row["used_seconds"] == {"cpu": 2 * 3600 * 1000}, "the step is a part of the job"
    assert row["efficiency"] == {"cpu": 0.5, "memory": None}
    assert (row["wait_s"], row["coverage"], row["ended_by"]) == (60, 1, {"released": 1})
    assert (row["peak"], row["peak_efficiency"]["memory"]) == ({"memory": "2Gi"}, 0.5)


def test_a_job_that_was_measured_before_it_ended_is_not_measured_twice(lb: CommandLine) -> None:
    recorded(lb, job("1", "ann", began=0, seen_until=minute(30), used=(0, 30, 10)))
    recorded(lb, job("1", "ann", began=0, ended=60, used=(0, 60, 60)))
    row = one(lb)
    assert row["used_seconds"] == {"cpu": 3600 * 1000}
    assert (row["efficiency"]["cpu"], row["coverage"]) == (0.25, 1)


def test_the_part_that_was_measured_is_that_of_the_records_own_times(lb: CommandLine) -> None:
    recorded(lb, job("1", used=(0, 15, 15)), job("1", used=(45, 60, 30)))
    recorded(lb, job("1", "ann", began=0, ended=60))
    row = one(lb)
    assert (row["held_s"], row["coverage"]) == (3600, 0.5)
    assert row["efficiency"]["cpu"] == pytest.approx(45 / (4 * 30))


def test_stretches_that_overlap_are_watched_once(lb: CommandLine) -> None:
    recorded(lb, job("1", used=(0, 30, 15)), job("1", used=(20, 45, 30)))
    recorded(lb, job("1", "ann", began=0, ended=60), job("2", "ann", began=0, ended=60))
    assert one(lb, "--by", "holder")["coverage"] == 45 / 120


def test_a_correction_of_an_ending_is_the_ending(lb: CommandLine) -> None:
    recorded(lb, job("21", "bob", asked=0, began=10, ended=20, ended_by="crashed"))
    assert one(lb)["ended_by"] == {"crashed": 1}
    recorded(lb, job("21", "bob", asked=20, began=30, ended=45, node="n2"))
    row = one(lb)
    assert (row["ended_by"], row["held_s"], row["wait_s"]) == ({"released": 1}, 900, 600)
    (compared,) = lb.ok("report", "compare", "--by", "holder")["rows"]
    assert compared["ended_by"] == {"released": 1}
    assert (compared["wait_s_median"], compared["nodes"]) == (600, 1)


def test_a_window_has_whole_lives_of_those_that_began_in_it(lb: CommandLine) -> None:
    recorded(lb, job("1", "ann", began=0, ended=60), job("2", "bob", began=90, ended=210))
    # Only now it is told that job 2 began half an hour later.
    recorded(lb, job("2", "bob", began=120, ended=210))

    def holders(**bounds: int) -> dict[str, float]:
        options = [word for name, at in bounds.items() for word in (f"--{name}", _time(at))]
        rows = lb.ok("report", "efficiency", "--by", "holder", *options)["rows"]
        times = {name: minute(at) for name, at in bounds.items()}
        with leasebook.open(str(lb.ledger)) as manager:
            found = manager.report("efficiency", by="holder", **times)
            assert rows == json.loads(json.dumps(list(found)))
        return {row["holder"]: row["held_s"] for row in rows}

    assert holders() == {"ann": 3600, "bob": 5400}
    assert holders(until=30) == {"ann": 3600}
    assert holders(since=30) == {"bob": 5400}
    assert holders(since=60, until=110) == {}
    assert holders(since=120, until=121) == {"bob": 5400}
    rows = lb.ok("report", "compare", "--by", "holder", "--since", _time(120))["rows"]
    assert [row["holder"] for row in rows] == ["bob"]


def test_up_to_a_position_counts_what_was_known_there(lb: CommandLine) -> None:
    recorded(lb, job("1", "ann", began=0, ended=60))
    known = lb.ok("report", "efficiency")["position"]
    recorded(lb, job("1", "bob", began=0, ended=30), job("2", "cy", began=0, ended=30))
    then = one(lb, "--by", "holder", "--until", f"#{known + 1}")
    assert (then["holder"], then["held_s"]) == ("ann", 3600)
    since = lb.ok("report", "efficiency", "--by", "holder", "--since", f"#{known + 1}")["rows"]
    assert [(row["holder"], row["held_s"]) for row in since] == [("cy", 1800)]


def test_managed_and_observed_pools_stand_in_one_report_and_in_every_form(lb: CommandLine) -> None:
    lb.ok("pool", "open", "box", "cpu=4")
    held = lb.ok("allocate", "box", "cpu=2", "--holder", "ann")["allocation"]["id"]
    lb.ok("release", held, "--holder", "ann")
    recorded(lb, job("1", "ann", began=0, ended=60, used=(0, 60, 60)))
    rows = lb.ok("report", "efficiency", "--by", "pool")["rows"]
    assert [(row["pool"], row["ended_by"], row["coverage"]) for row in rows] == [
        ("box", {"released": 1}, 0),
        ("c1", {"released": 1}, 1),
    ]
    both = one(lb, "--by", "holder")
    assert (both["allocations"], both["ended_by"]) == (2, {"released": 2})
    text = lb("report", "efficiency", "--by", "pool", "--format", "csv").out
    observed = next(row for row in csv.DictReader(io.StringIO(text)) if row["pool"] == "c1")
    assert (float(observed["held_s"]), float(observed["coverage"])) == (3600, 1)
    line = lb("report", "efficiency", "--by", "pool").out.splitlines()[2]
    assert line.split() == ["c1", "1", "60", "min", "0", "s", "cpu=25.0%", "memory=-", "100.0%"]


def test_a_pool_that_was_managed_before_is_as_it_was_then(lb: CommandLine) -> None:
    lb.ok("pool", "open", "box", "cpu=4")
    held = lb.ok("allocate", "box", "cpu=2", "--holder", "ann")["allocation"]["id"]
    lb.ok("release", held, "--holder", "ann")
    managed = one(lb, "--by", "allocation")
    lb.ok("pool", "close", "box")
    lb.ok("pool", "open", "box", "cpu=4", "--observed")
    assert one(lb, "--by", "allocation") == managed
