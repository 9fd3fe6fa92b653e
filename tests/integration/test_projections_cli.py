"""``leasebook projections``, and the catching up that runs beside the sweeps."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

import pytest

from ledger.sqlite_driver import sqlite3
from ledger.sqlite_log import SqliteLog
from projections.engine import Engine, views_path
from scheduler.jobs import catch_up_logged
from tests.command_line import CommandLine


@pytest.fixture
def lb(lb: CommandLine) -> CommandLine:
    """A command line whose ledger has pool ``box``, of which a core is held."""
    lb.ok("pool", "open", "box", "cpu=4")
    lb.ok("allocate", "box", "cpu=1")
    return lb


def change(ledger: Path, statement: str) -> None:
    with closing(sqlite3.connect(str(views_path(ledger)))) as connection:
        connection.execute(statement)
        connection.commit()


def test_status_changes_nothing_and_says_what_is_absent(lb: CommandLine) -> None:
    document = lb.ok("projections", "status")
    assert {each["state"] for each in document["projections"]} == {"absent"}
    assert not [name for name in document["projections"] if name["position"]]
    assert "absent" in lb("projections", "status").out


def test_rebuild_makes_them_and_check_proves_them(lb: CommandLine) -> None:
    done = lb.ok("projections", "rebuild")
    assert done["position"] == done["head"] and done["failed"] == []
    assert lb.ok("projections", "check") == {"ok": True, "difference": None, "unchecked": []}
    states = {e["name"]: e["state"] for e in lb.ok("projections", "status")["projections"]}
    assert set(states.values()) == {"live"}


def test_check_names_the_first_difference_with_exit_code_6(lb: CommandLine) -> None:
    lb.ok("projections", "rebuild")
    change(lb.ledger, "UPDATE node_resources SET in_use = 7")
    answer = lb("projections", "check", "--json")
    assert answer.code == 6
    difference = answer.json["difference"]
    assert (difference["table"], difference["column"]) == ("node_resources", "in_use")
    assert (difference["live"], difference["rebuilt"]) == (7, 1000)
    said = lb("projections", "check")
    assert "in_use is 7, should be 1000" in said.out
    assert "leasebook projections rebuild pools" in said.err
    lb.ok("projections", "rebuild", "pools")
    assert lb("projections", "check").code == 0


def test_failed_projection_shows_in_the_status_and_is_retried_by_a_rebuild(lb: CommandLine) -> None:
    lb.ok("projections", "rebuild")
    change(
        lb.ledger,
        "UPDATE projections SET state = 'failed', error = 'it broke', failed_position = 2"
        " WHERE name = 'steps'",
    )
    answer = lb("projections", "status")
    assert answer.code == 0
    assert "stopped at 2: it broke" in answer.out
    assert lb.ok("projections", "check")["unchecked"] == ["steps"]
    assert lb.ok("projections", "rebuild", "steps")["failed"] == []


def test_unknown_projection_is_one_line(lb: CommandLine) -> None:
    answer = lb("projections", "rebuild", "nonsense")
    assert answer.code == 2
    assert answer.err.count("\n") == 1 and "no projection 'nonsense'" in answer.err


def test_views_that_cannot_be_made_are_one_line(lb: CommandLine) -> None:
    views_path(lb.ledger).unlink(missing_ok=True)
    views_path(lb.ledger).mkdir()
    answer = lb("projections", "rebuild")
    assert answer.code == 1
    assert answer.err.count("\n") == 1


def test_job_beside_the_sweeps_catches_up_and_logs_what_goes_wrong(
    lb: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    with SqliteLog.open(lb.ledger) as log:
        views = views_path(lb.ledger)
        catch_up_logged(log, views)
        with Engine(log, views) as engine:
            assert {status.behind for status in engine.status()} == {0}
        with caplog.at_level(logging.ERROR, "leasebook.sweeps"):
            catch_up_logged(log, lb.ledger.parent / "no" / "views.db")
    assert "projections failed to catch up" in caplog.text


def test_damaged_projections_are_told_of_and_made_anew_by_the_command_that_is_named(
    lb: CommandLine,
) -> None:
    lb.ok("projections", "rebuild")
    path = views_path(lb.ledger)
    path.write_bytes(b"this is no database" * 100)
    for verb in (
        ("report", "utilization", "--by", "pool"),
        ("projections", "status"),
        ("projections", "check"),
        ("projections", "rebuild", "steps"),
        ("export", "--what", "spans", "--out", str(lb.ledger.with_name("s.jsonl"))),
    ):
        answer = lb(*verb)
        assert answer.code == 1 and answer.err.count("\n") == 1, verb
        assert f"{path} is damaged" in answer.err
        assert "run `leasebook projections rebuild`" in answer.err
    told = lb("doctor").out
    assert f"{path} is damaged" in told and "run `leasebook projections rebuild`" in told
    found = {f["name"]: f["level"] for f in lb("doctor", "--json").json["findings"]}
    assert (found["projections"], found["ledger"]) == ("bad", "ok")
    done = lb.ok("projections", "rebuild")
    assert done["position"] == done["head"] and done["failed"] == []
    assert lb.ok("projections", "check")["ok"]
    found = {f["name"]: f["level"] for f in lb("doctor", "--json").json["findings"]}
    assert found["projections"] == "ok"
