"""``why`` and refusals on the command line, on a real file: who is in the way, of what, and why now."""

from __future__ import annotations

import re

import pytest

from tests.command_line import CommandLine


@pytest.fixture
def lb(lb: CommandLine) -> CommandLine:
    """A command line whose ledger has pool ``box`` of 16 cores and a card."""
    lb.ok("pool", "open", "box", "cpu=16", "gpu=1")
    return lb


def refused(lb: CommandLine, *arguments: str) -> str:
    """Ask, insist on a refusal, and return its line."""
    answer = lb("allocate", *arguments)
    assert answer.code == 3, answer
    return answer.err


def queued(lb: CommandLine, *arguments: str) -> str:
    """Ask, insist on a place in the queue, and return its id."""
    answer = lb("allocate", *arguments, "--enqueue", "--json")
    assert answer.code == 7, answer
    return str(answer.json["allocation"]["id"])


def test_refusal_names_those_alone_who_hold_what_is_lacking(lb: CommandLine) -> None:
    for number in range(11):
        lb.ok("allocate", "box", "cpu=1", "--holder", f"c{number}")
    lb.ok("allocate", "box", "gpu=1", "--holder", "painter")
    said = refused(lb, "box", "gpu=1", "--holder", "late")
    assert "painter (A14) holds gpu=1" in said
    assert "c0" not in said and "more in the way" not in said
    told = lb("why", "--last").out
    assert re.search(r"painter \(A14\) holds gpu=1 since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", told)
    assert "c0" not in told


def test_why_tells_the_present_of_one_that_waits(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=15", "--holder", "ann", "--ttl", "10m")
    waiting = queued(lb, "box", "cpu=4", "--holder", "bob")
    told = lb("why", waiting).out.splitlines()
    for part in (
        f"{waiting} waits: ",
        "short by cpu=3 on box",
        "ann (A3) holds cpu=15 since ",
        "cpu=1 fits now",
        "there may be room at ",
        " UTC, going by the ends of leases",
    ):
        assert part in told[0]
    assert told[1] == "what to do: wait on, or withdraw it and ask for what fits now"
    lb.ok("quota", "set", "cpu=0", "--holder", "bob")
    story = lb.ok("why", waiting)
    assert "holder bob of tenant default may hold 0 cpu" in story["answer"]
    assert "lacks" not in story["answer"] and "ann" not in story["answer"]
    assert story["facts"]["reason"] == "quota_exceeded"
    assert story["facts"]["eta_at"] is None
    lb.ok("quota", "set", "--lift", "--holder", "bob")
    story = lb.ok("why", waiting)
    (blocker,) = story["facts"]["blockers"]
    assert blocker["allocation"] == "A3" and blocker["since"].endswith("Z")
    assert story["facts"]["eta_at"] == blocker["expires_at"]


def test_why_of_one_that_was_granted_tells_of_its_grant(lb: CommandLine) -> None:
    lb.ok("allocate", "box", "cpu=16", "--holder", "ann")
    waiting = queued(lb, "box", "cpu=4", "--holder", "boss")
    lb.ok("release", "A3", "--holder", "ann")
    told = lb("why", waiting).out.splitlines()[0]
    assert told.startswith(f"{waiting} is active: boss got cpu=4 of box on box after waiting ")
    assert "for 15 min unless renewed" in told
    assert "and waits" not in told


def test_node_that_is_kept_at_once_is_not_put_down_to_a_long_wait(lb: CommandLine) -> None:
    lb.ok("policy", "set", "box", "preemption=lower_priority")
    lb.ok("allocate", "box", "cpu=16", "--holder", "ann", "--priority", "low")
    waiting = queued(lb, "box", "cpu=4", "--holder", "boss", "--priority", "high")
    told = lb("why", waiting).out
    assert "boss waits on, and what comes free on box is kept for it" in told
    assert "waited long" not in told
    assert f"{waiting} waits: box is kept for it, but not free yet" in told


def test_one_that_waits_is_not_said_to_hold_what_is_kept_for_it(lb: CommandLine) -> None:
    lb.ok("policy", "set", "box", "overtakes_max=0")
    lb.ok("allocate", "box", "cpu=15", "--holder", "r1")
    waiting = queued(lb, "box", "cpu=4", "--holder", "r2")
    said = refused(lb, "box", "cpu=1", "--holder", "late")
    assert "[R7]" in said
    assert f"r2 ({waiting}) waits for cpu=4, and box is kept for it" in said
    assert "holds" not in said and "waited long" not in said
    told = lb("why", "R7").out
    assert f"r2 ({waiting}) waits for cpu=4 since " in told
    assert " UTC, and box is kept for it" in told
    assert "holds" not in told
    other = refused(lb, "box", "cpu=1", "--tenant", "other")
    assert "another tenant waits for cpu=4" in other and "r2" not in other
    trail = lb("audit", "--holder", "late").out
    assert f"r2 ({waiting}) waiting for cpu=4 since " in trail


def test_two_different_requests_are_two_refusals(lb: CommandLine) -> None:
    first = refused(lb, "box", "cpu=1", "--select", "model=zzz")
    second = refused(lb, "box", "cpu=1", "--spread", "9")
    again = refused(lb, "box", "cpu=1", "--spread", "9")
    assert "[R3]" in first and "[R4]" in second and "[R4]" in again
    assert "labels" in lb("why", "R3").out
    assert "over 9 nodes" in lb("why", "R4").out


# --- alerts --------------------------------------------------------------------------------------


def test_circle_of_holders_is_listed_and_cleared_and_told_again(lb: CommandLine) -> None:
    assert lb("alert", "list").out == "no alert is pending\n"
    lb.ok("allocate", "box", "cpu=16", "--holder", "ann")
    lb.ok("allocate", "box", "gpu=1", "--holder", "bob")
    queued(lb, "box", "gpu=1", "--holder", "ann")
    queued(lb, "box", "cpu=1", "--holder", "bob")
    (alert,) = lb.ok("alert", "list")["alerts"]
    assert alert["alert"] == "hold_and_wait:A5,A6"
    assert alert["raised_at"].endswith("Z")
    told = lb("alert", "list").out
    assert "hold_and_wait:A5,A6: ann and bob each wait for what the others hold" in told
    cleared = lb("alert", "clear", alert["alert"], "--reason", "seen", "--id", "mine")
    assert (cleared.code, cleared.out) == (0, "cleared  hold_and_wait:A5,A6\n")
    replay = lb.ok("alert", "clear", alert["alert"], "--reason", "seen", "--id", "mine")
    assert replay["replayed"] is True
    assert lb("alert", "clear", alert["alert"], "--reason", "other", "--id", "mine").code == 5
    (event,) = lb.ok("events", "--type", "alert_cleared")["events"]
    assert event["data"]["reason"] == "seen"
    queued(lb, "box", "gpu=1", "--holder", "ann")
    assert lb.ok("alert", "list")["alerts"][0]["alert"] == alert["alert"]


def test_what_cannot_be_cleared_says_so(lb: CommandLine) -> None:
    unknown = lb("alert", "clear", "smoke")
    assert (unknown.code, unknown.err) == (
        4,
        "leasebook: no alert 'smoke' is pending; see `leasebook alert list`\n",
    )
    clock = lb("alert", "clear", "clock_jumped")
    assert clock.code == 2 and "--accept-clock" in clock.err
