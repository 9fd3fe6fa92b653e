"""``leasebook whatif`` and ``leasebook simulate`` as somebody types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ledger.rules.strategies import STRATEGIES
from tests.command_line import CommandLine

NODES = "sn,cpu_milli,memory_mib,gpu,model\nn-0,8000,8192,2,A\nn-1,8000,8192,2,B\n"
PODS = """name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,creation_time,deletion_time
p-0,1000,1024,2,1000,,0,100
p-1,1000,1024,2,1000,,10,50
p-2,1000,1024,1,500,A,20,60
p-3,1000,1024,1,500,,30,90
p-4,1000,1024,1,500,,,
"""
TABLE = """began,seconds,cores,mem,who
2026-11-22T06:00:00Z,60,2,512,ann
2026-11-22T06:00:10Z,60,2,512,bob
2026-11-22T06:00:20Z,,2,512,ann
"""


@pytest.fixture
def recorded(lb: CommandLine) -> CommandLine:
    lb.ok("pool", "open", "box", "cpu=2")
    first = lb.ok("allocate", "box", "cpu=2", "--holder", "a", "--task", "t")
    lb("allocate", "box", "cpu=1", "--holder", "b", "--task", "t")
    lb.ok("release", first["allocation"]["id"], "--holder", "a")
    lb.ok("allocate", "box", "cpu=1", "--holder", "c")
    return lb


def files(folder: Path) -> tuple[str, str]:
    nodes, pods = folder / "nodes.csv", folder / "pods.csv"
    nodes.write_text(NODES)
    pods.write_text(PODS)
    return str(nodes), str(pods)


def test_unchanged_the_record_comes_out_exactly(recorded: CommandLine) -> None:
    document = recorded.ok("whatif")
    assert document["exact"] is True
    assert document["same_events"] == document["last_position"]
    assert document["parted_at"] is None
    assert document["changes"] == {}
    assert "exactly as recorded" in recorded("whatif").out


def test_a_record_that_the_rules_do_not_lead_to_is_told_by_its_first_difference_and_exit_code_6(
    recorded: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.ok("pool", "open", "two", "--node", "n1:cpu=2", "--node", "n2:cpu=4")
    with monkeypatch.context() as other:
        other.setitem(STRATEGIES, "best_fit", STRATEGIES["worst_fit"])
        recorded.ok("allocate", "two", "cpu=1", "--holder", "c", "--strategy", "best_fit")
    answer = recorded("whatif", "--json")
    assert answer.code == 6
    found = json.loads(answer.out)
    assert found["exact"] is False
    assert "placements" in str(found["first_difference"]["differs_in"])
    assert recorded("whatif").code == 6
    # What a change makes of it is another question, which this answers with what it has to assume.
    assert recorded("whatif", "--ttl", "1h").code == 0


def test_a_larger_node_grants_what_was_refused(recorded: CommandLine) -> None:
    document = recorded.ok("whatif", "--size", "box:box:cpu=4")
    assert document["recorded"]["refused"] == 1
    assert document["simulated"]["refused"] == 0
    assert document["recorded"]["unmet"] == {"box": {"cpu": "1"}}
    assert document["simulated"]["unmet"] == {}
    fate = document["fates"][0]
    assert fate["recorded"]["state"] == "refused"
    assert fate["simulated"]["wait_s"] == 0
    text = recorded("whatif", "--size", "box:cpu=4").out
    assert "fates part at event" in text
    assert "never granted of box" in text
    # Nothing was written.
    assert recorded.ok("whatif")["last_position"] == document["last_position"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--size", "cpu=4"], "is no size"),
        (["--size", "box:n9:cpu=4"], "has no node 'n9'"),
        (["--quota", "cpu=4"], "is no quota"),
        (["--policy", "colour=red"], "colour"),
        (["--pool", "nowhere", "--nodes", "1"], "no pool 'nowhere'"),
        (["--strategy", "wishful"], "wishful"),
        (["--ttl", "soon"], "soon"),
        (["--since", "#999"], "nothing was recorded"),
        (["--nodes", "-1"], "cannot be taken away"),
        (["--nodes", "-99"], "cannot be taken away"),
        (["--nodes", "99999999"], "may have 20000"),
        (["--pool", "nowhere"], "no pool 'nowhere'"),
        (["--size", "box:box:cpu=4", "--size", "box:box:cpu=2"], "gives cpu of box:box twice"),
        (["--size", "box:box:cpu=-4"], "negative"),
        (["--quota", "ann:cpu=1", "--quota", "ann:gpu=1"], "gives 'ann' twice"),
        (["--quota", "a\x01:cpu=1"], "tenant"),
        (["--ttl", "0"], "more than zero"),
        (["--order", "fair", "--policy", "order=fifo"], "say the same thing"),
        (["--all-requests"], "goes with a --strategy"),
        (["--since", "#4", "--until", "#2"], "ends before it begins"),
        (["--until", "2000-01-01"], "nothing was recorded"),
        (["--since", "2099-01-01"], "nothing was recorded"),
    ],
)
def test_what_cannot_be_asked_is_one_clear_line(
    recorded: CommandLine, options: list[str], says: str
) -> None:
    answer = recorded("whatif", *options)
    assert answer.code == 2
    assert says in answer.err
    assert answer.err.count("\n") == 1


def test_a_ledger_that_cannot_be_read_is_one_clear_line(
    recorded: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "empty.db").touch()
    (tmp_path / "junk.db").write_bytes(b"junk" * 2_000)
    for name, code in (("none.db", 1), ("empty.db", 1), ("junk.db", 2)):
        answer = recorded("whatif", "--ledger", str(tmp_path / name))
        assert (answer.code, answer.err.count("\n"), answer.out) == (code, 1, "")


def test_text_and_json_tell_the_same_figures(recorded: CommandLine) -> None:
    asked = ("whatif", "--size", "box:box:cpu=4")
    document, text = recorded.ok(*asked), recorded(*asked).out
    for name, key in (("requests", "asked"), ("granted", "granted"), ("refused", "refused")):
        row = next(line.split() for line in text.splitlines() if line.startswith(name))
        assert row[-2:] == [str(document[side][key]) for side in ("recorded", "simulated")]
    for said in document["assumptions"]:
        assert f"- {said}" in text
    assert len(document["fates"]) == document["differing"]
    assert text.count("1 request fares otherwise") == (document["differing"] == 1)


def test_one_event_alone_comes_out_too(recorded: CommandLine) -> None:
    document = recorded.ok("whatif", "--since", "#3", "--until", "#4")
    assert (document["exact"], document["same_events"]) == (True, 1)
    assert "this one event comes out" in recorded("whatif", "--since", "#3", "--until", "#4").out


def test_every_change_can_be_given_at_once(recorded: CommandLine) -> None:
    document = recorded.ok(
        "whatif", "--since", "#3", "--pool", "box", "--strategy", "best_fit", "--order", "fifo",
        "--nodes", "+1", "--quota", "default:cpu=3", "--ttl", "10m", "--policy", "max_age=1h",
        "--all-requests",
    )  # fmt: skip
    assert document["changes"]["strategy"] == "best_fit"
    assert document["first_position"] == 3
    assert document["simulated"]["asked"] == 3


def test_a_trace_with_lifetimes_waits_and_ends(lb: CommandLine, tmp_path: Path) -> None:
    nodes, pods = files(tmp_path)
    document = lb.ok(
        "simulate", "--nodes", nodes, "--pods", pods, "--strategy", "best_fit", "--nodes-first", "1"
    )
    (row,) = document["rows"]
    assert document["without_a_time"] == 1
    # p-0 holds both cards to 100; p-1 comes at 10 and gets them at 100, beyond the last arrival.
    assert (row["granted"], row["waited"]) == (1, 3)
    assert row["waiting_at_end"] == 3
    assert row["utilization"]["gpu"] == 1.0


def test_strategies_are_set_side_by_side(lb: CommandLine, tmp_path: Path) -> None:
    nodes, pods = files(tmp_path)
    answer = lb(
        "simulate", "--nodes", nodes, "--pods", pods, "--strategy", "best_fit", "--strategy",
        "fragmentation_aware", "--wait", "0",
    )  # fmt: skip
    assert answer.code == 0, answer
    assert "best_fit  fragmentation_aware" in answer.out
    assert "requests have no time of arrival" in answer.out


def test_arrivals_only_gives_means_and_spread_over_seeds(lb: CommandLine, tmp_path: Path) -> None:
    nodes, pods = files(tmp_path)
    document = lb.ok(
        "simulate", "--nodes", nodes, "--pods", pods, "--arrivals-only", "--seeds", "3",
        "--inflate", "1.5",
    )  # fmt: skip
    assert document["seeds"] == 3
    assert {row["strategy"] for row in document["rows"]} == {
        "random",
        "best_fit",
        "fragmentation_aware",
    }
    for row in document["rows"]:
        assert 0 <= row["allocated"]["min"] <= row["allocated"]["mean"] <= row["allocated"]["max"]
        assert row["allocated"]["max"] <= 100


def test_any_table_can_be_a_trace(lb: CommandLine, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(TABLE)
    document = lb.ok(
        "simulate", "--format", "csv", "--pods", str(trace), "--node", "2*cpu=2,memory=4GiB",
        "--map", "start=began,duration=seconds,cpu=cores,memory=mem:MiB,holder=who",
    )  # fmt: skip
    (row,) = document["rows"]
    assert (row["granted"], row["waited"]) == (2, 1)
    assert document["nodes"] == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("p-1,1000", "p-1,many"), "line 3"),
        (lambda text: text + "p-9,1\n", "line 7"),
        (lambda text: TABLE, "has no column"),
        (lambda text: "", "has no column"),
    ],
)
def test_a_broken_trace_is_one_clear_line(
    lb: CommandLine, tmp_path: Path, change: object, says: str
) -> None:
    nodes, pods = files(tmp_path)
    assert callable(change)
    Path(pods).write_text(change(PODS))
    answer = lb("simulate", "--nodes", nodes, "--pods", pods)
    assert answer.code == 2
    assert says in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--strategy", "wishful"], "no strategy 'wishful'"),
        (["--cut", "0"], "between 0 and 1"),
        (["--speedup", "-1"], "above 0"),
        (["--arrivals-only", "--inflate", "-1"], "above 0"),
        (["--pods", "/nowhere.csv"], "no file /nowhere.csv"),
    ],
)
def test_what_cannot_be_simulated_is_one_clear_line(
    lb: CommandLine, tmp_path: Path, options: list[str], says: str
) -> None:
    nodes, pods = files(tmp_path)
    answer = lb("simulate", "--nodes", nodes, "--pods", pods, *options)
    assert answer.code == 2
    assert says in answer.err
