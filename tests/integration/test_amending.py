"""What is said later about earlier events: ``leasebook correct``, and the same from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

import leasebook
from ledger.errors import InvalidInput
from tests.command_line import CommandLine


@pytest.fixture
def lb(lb: CommandLine, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """Pool ``box``; A3 was held by ``worker`` for task ``train`` and taken back by force (event 4)."""
    monkeypatch.setenv("LEASEBOOK_HOLDER", "op")
    lb.ok("pool", "open", "box", "cpu=4")
    lb.ok("allocate", "box", "cpu=3", "--holder", "worker", "--task", "train", "--tenant", "lab")
    lb.ok("reclaim", "A3", "--force", "--reason", "nobody answered")
    return lb


def test_a_wrong_event_stays_and_everybody_who_asks_is_told_that_it_was_wrong(
    lb: CommandLine,
) -> None:
    before = lb.ok("events", "--limit", "4")["events"]
    answer = lb("correct", "4", "--reason", "it was alive, on another host")
    assert answer.code == 0 and answer.out == "corrected  event 4, by event 5\n"
    assert lb.ok("events", "--limit", "4")["events"] == before
    (event,) = lb.ok("events", "--after", "4")["events"]
    assert (event["type"], event["allocation"], event["tenant"]) == ("corrected", "A3", "lab")
    assert (event["holder"], event["task"], event["pool"]) == ("worker", "train", "box")
    assert event["data"]["corrects"] == 4 and event["data"]["by"] == "op"
    assert "corrected event 4: it was alive, on another host" in lb("why", "A3").out
    (row,) = [r for r in lb.ok("audit", "A3")["rows"] if r["position"] == 4]
    assert row["corrected_by"] == [5]
    assert lb.ok("verify")["ok"] is True
    # It is words alone: what is held where does not change.
    assert lb.ok("show", "A3")["ended_by"] == "forced"


def test_the_same_said_twice_is_recorded_once_and_another_id_says_it_again(
    lb: CommandLine,
) -> None:
    said = ("correct", "#4", "--reason", "a mistake")
    assert lb.ok(*said)["positions"] == [5]
    again = lb.ok(*said)
    assert (again["positions"], again["replayed"]) == ([5], True)
    assert lb.ok("correct", "4", "--reason", "another mistake")["positions"] == [6]
    assert lb.ok(*said, "--id", "once-more")["positions"] == [7]
    conflict = lb("correct", "4", "--reason", "else", "--id", "once-more", "--json")
    assert conflict.code == 5
    assert conflict.json["error"]["reason"] == "command_id_reused"


def test_unchanged_what_if_reproduces_corrections_too(lb: CommandLine) -> None:
    end = lb.ok("events")["events"][2]["at"]
    lb.ok("correct", "4", "--reason", "late", "--ended-at", end, "--ended-by", "crashed")
    lb.ok("allocate", "box", "cpu=4")
    result = lb.ok("whatif")
    assert result["exact"] is True


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (("99", "--reason", "x"), "there is no event 99"),
        (("4", "--reason", "  "), "needs a reason"),
        (("4", "--reason", "x" * 2_001), "at most 2000"),
        (("nought", "--reason", "x"), "nought"),
        (("2", "--reason", "x", "--ended-at", "now"), "is about no allocation"),
        (("4", "--reason", "x", "--ended-by", "crashed"), "needs when"),
        (("4", "--reason", "x", "--ended-at", "#2"), "was granted at"),
        (("4", "--reason", "x", "--ended-at", "now"), "stays given"),
        (("4", "--reason", "x", "--ended-at", "2999-01-01"), "future"),
        (("4", "--reason", "x", "--ended-at", "#3", "--ended-by", "a\nb"), "ending"),
        (("5", "--reason", "x", "--ended-at", "now"), "is held still"),
        (("6", "--reason", "x", "--ended-at", "now"), "was never held"),
    ],
)
def test_what_cannot_be_so_is_refused_in_one_line_and_records_nothing(
    lb: CommandLine, said: tuple[str, ...], says: str
) -> None:
    lb.ok("allocate", "box", "cpu=4")
    assert lb("allocate", "box", "cpu=4", "--enqueue", "--wait", "1h").code == 7
    answer = lb("correct", *said)
    assert answer.code == (4 if said[0] == "99" else 2)
    assert says in answer.err and answer.err.count("\n") == 1
    assert len(lb.ok("events")["events"]) == 6


def test_ends_of_imported_history_are_corrected_by_their_source(
    lb: CommandLine, tmp_path: Path
) -> None:
    jobs = tmp_path / "jobs.csv"
    jobs.write_text("id,began,ended,cores\nj1,2026-01-01T00:00:00,2026-01-01T01:00:00,2\n")
    columns = "id=id,start=began,end=ended,cpu=cores"
    lb.ok("import", str(jobs), "--format", "csv", "--pool", "old", "--map", columns)
    (first,) = lb.ok("events", "--type", "allocated", "--pool", "old")["events"]
    position = str(first["position"])
    answer = lb("correct", position, "--reason", "x", "--ended-at", "2026-01-01T00:30:00Z")
    assert answer.code == 2 and "observed pool" in answer.err
    assert lb.ok("correct", position, "--reason", "the clock was wrong")["outcome"] == "corrected"


def test_the_interface_in_python_says_the_same(tmp_path: Path) -> None:
    with leasebook.open(tmp_path / "ledger.db") as manager:
        manager.open_pool("box", capacity={"cpu": 4})
        handle = manager.allocate({"cpu": 2}, pool="box", holder="w")
        (granted,) = [e for e in manager.events() if e.type == "allocated"]
        handle.release()
        receipt = manager.correct(
            granted.position, "gone at once", ended_at=granted.position, ended_by="crashed"
        )
        (position,) = receipt.positions
        assert (receipt.outcome, position) == ("corrected", granted.position + 2)
        with pytest.raises(InvalidInput, match="there is no event"):
            manager.correct(10_000, "x")
