"""The command line's verbs on pools, quotas and policies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import CommandLine


@pytest.fixture
def lb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    """A command line on a ledger that is not there yet."""
    ledger = tmp_path / "new" / "ledger.db"
    monkeypatch.setenv("LEASEBOOK_LEDGER", str(ledger))
    monkeypatch.setenv("LEASEBOOK_HOLDER", "me")
    return CommandLine(ledger, capsys)


def nodes_of(pool: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {node["name"]: node["capacity"] for node in pool["nodes"]}


def test_first_pool_begins_the_ledger_and_says_where(lb: CommandLine) -> None:
    answer = lb("pool", "open", "box", "cpu=8", "memory=16GiB", "--label", "model=T4")
    assert answer.code == 0
    assert answer.out == "opened  box  cpu=8 memory=16Gi\n"
    assert answer.err == f"leasebook: the ledger is {lb.ledger}\n"
    shown = lb.ok("pool", "show", "box")
    assert shown["nodes"][0]["labels"] == {"model": "T4"}


def test_nodes_have_amounts_and_labels(lb: CommandLine) -> None:
    opened = lb.ok(
        "pool",
        "open",
        "gpus",
        "--node",
        "n1:cpu=64,gpu=2,label:model=T4",
        "--node",
        "n2:cpu=32,memory=1.5GiB",
    )
    assert nodes_of(opened["pool"]) == {
        "n1": {"cpu": "64", "gpu": "2"},
        "n2": {"cpu": "32", "memory": "1536Mi"},
    }
    placed = lb.ok("allocate", "gpus", "gpu=1", "--select", "model=T4")["allocation"]
    assert placed["placements"][0]["node"] == "n1"
    assert placed["placements"][0]["devices"] == {"gpu": {"0": 1000}}
    assert lb("allocate", "gpus", "gpu=1", "--select", "model=A100").code == 3
    table = lb("pool", "show", "gpus").out
    assert "model=T4" in table and "n2" in table


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("3100..3103:port=1", ["3100", "3101", "3102", "3103"]),
        ("p08..11:slot=1", ["p08", "p09", "p10", "p11"]),
        ("7..7:port=1", ["7"]),
        ("a..b:port=1", ["a..b"]),
    ],
)
def test_range_of_nodes_names_each(lb: CommandLine, given: str, names: list[str]) -> None:
    opened = lb.ok("pool", "open", "many", "--node", given)
    assert list(nodes_of(opened["pool"])) == names


def test_nodes_come_from_a_csv_file(lb: CommandLine, tmp_path: Path) -> None:
    table = tmp_path / "nodes.csv"
    table.write_text(
        "name,cpu,memory,gpu,label:model\nn1,64,256GiB,2,T4\nn2, 32 ,128GiB,,\n", "utf-8"
    )
    opened = lb.ok("pool", "open", "fleet", "--nodes", str(table))
    assert nodes_of(opened["pool"]) == {
        "n1": {"cpu": "64", "memory": "256Gi", "gpu": "2"},
        "n2": {"cpu": "32", "memory": "128Gi"},
    }
    assert [node["labels"] for node in opened["pool"]["nodes"]] == [{"model": "T4"}, {}]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "name,cpu\n",
        "cpu\n4\n",
        "name,cpu\nn1\n",
        "name,cpu\nn1,-4\n",
        "name,cpu\nn1,4\nn1,4\n",
        "name,cpu\nn1,4,5\n",
        'name,cpu\n"n1,4\n',
        "name,Number of Cores\nn1,4\n",
    ],
)
def test_csv_file_that_is_no_table_of_nodes_is_one_line(
    lb: CommandLine, tmp_path: Path, content: str
) -> None:
    table = tmp_path / "nodes.csv"
    table.write_text(content, "utf-8")
    answer = lb("pool", "open", "fleet", "--nodes", str(table))
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.splitlines()) == 1
    assert not lb.ledger.exists()


def test_binary_file_is_no_table_of_nodes(lb: CommandLine, tmp_path: Path) -> None:
    table = tmp_path / "nodes.csv"
    table.write_bytes(b"\xff\xfe\x00name")
    assert lb("pool", "open", "fleet", "--nodes", str(table)).code == 2


def test_host_sizes_the_pool_from_this_machine_and_keeps_a_tenth_free(lb: CommandLine) -> None:
    from scheduler.processes.cgroup import machine_capacity

    machine = machine_capacity()
    opened = lb.ok("pool", "open", "here", "--host", "gpu=1")
    base = opened["pool"]["base_units"]["capacity"]
    assert base["cpu"] == machine.cpu_milli * 90 // 100
    assert machine.memory_bytes * 0.89 < base["memory"] <= machine.memory_bytes * 0.9
    assert base["gpu"] == 1000
    assert "10 % kept free" in opened["basis"]
    assert machine.cpu_basis in opened["basis"]
    event = lb.ok("events", "--type", "pool_opened")["events"][0]
    assert event["data"]["basis"] == opened["basis"]


def test_amounts_given_with_host_replace_the_machines(lb: CommandLine) -> None:
    opened = lb.ok("pool", "open", "here", "--host", "cpu=500m")
    assert opened["pool"]["capacity"]["cpu"] == "500m"


def test_observed_pool_grants_nothing(lb: CommandLine) -> None:
    lb.ok("pool", "open", "elsewhere", "cpu=1", "--observed")
    answer = lb("allocate", "elsewhere", "cpu=1", "--json")
    assert (answer.code, answer.json["reason"]) == (3, "observed_pool")
    assert "observed" in lb("pool", "list").out


def test_resize_changes_one_node_and_keeps_the_rest(lb: CommandLine) -> None:
    lb.ok("pool", "open", "box", "cpu=4", "memory=8GiB")
    resized = lb.ok("pool", "resize", "box", "cpu=6")
    assert resized["pool"]["capacity"] == {"cpu": "6", "memory": "8Gi"}
    lb.ok("pool", "open", "two", "--node", "a:cpu=1", "--node", "b:cpu=1")
    assert lb("pool", "resize", "two", "cpu=2").code == 2
    resized = lb.ok("pool", "resize", "two", "--node", "b:cpu=3")
    assert nodes_of(resized["pool"]) == {"a": {"cpu": "1"}, "b": {"cpu": "3"}}


def test_cordon_finds_the_pool_of_a_node_and_asks_where_several_have_it(lb: CommandLine) -> None:
    lb.ok("pool", "open", "one", "--node", "a:cpu=1", "--node", "b:cpu=1")
    lb.ok("pool", "open", "two", "--node", "b:cpu=1")
    done = lb.ok("pool", "cordon", "a", "--reason", "a fan is broken")
    assert (done["outcome"], done["pool"], done["node"]) == ("node_cordoned", "one", "a")
    ambiguous = lb("pool", "cordon", "b")
    assert ambiguous.code == 2
    assert "one, two" in ambiguous.err and "--pool" in ambiguous.err
    lb.ok("pool", "cordon", "b", "--pool", "one")
    assert lb("allocate", "one", "cpu=1").code == 3
    assert lb("pool", "uncordon", "a").out == "uncordoned  a of one\n"
    assert lb("allocate", "one", "cpu=1").code == 0


def test_closed_pool_grants_nothing_more(lb: CommandLine) -> None:
    lb.ok("pool", "open", "box", "cpu=1")
    lb.ok("pool", "close", "box")
    assert lb("allocate", "box", "cpu=1").code in (3, 4)
    assert "closed" in lb("pool", "list").out


def test_table_of_pools_shows_what_is_free(lb: CommandLine) -> None:
    assert lb("pool", "open", "box", "cpu=4").code == 0
    lb.ok("allocate", "box", "cpu=3")
    head, row = lb("pool", "list").out.splitlines()
    assert head.split()[:3] == ["POOL", "CAPACITY", "IN"]
    assert row.split() == ["box", "cpu=4", "cpu=3", "cpu=1", "1", "0"]


def test_quota_limits_and_is_lifted(lb: CommandLine) -> None:
    lb.ok("pool", "open", "box", "cpu=4")
    done = lb.ok("quota", "set", "cpu=2", "--holder", "me")
    assert done["quota"]["limits"] == {"cpu": "2"}
    answer = lb("allocate", "box", "cpu=3", "--json")
    assert (answer.code, answer.json["reason"]) == (3, "quota_exceeded")
    lb.ok("allocate", "box", "cpu=2")
    assert lb.ok("quota", "list")["quotas"][0]["held"] == {"cpu": "2"}
    assert "cpu=2" in lb("quota", "list").out
    assert lb("quota", "set", "--lift", "--holder", "me").out == "lifted\n"
    assert lb("quota", "list").out == "no quotas\n"


def test_policy_is_set_and_shown(lb: CommandLine) -> None:
    lb.ok("pool", "open", "box", "cpu=4", "--policy", "strategy=best_fit")
    assert lb.ok("policy", "show", "box")["policy"]["strategy"] == "best_fit"
    done = lb.ok("policy", "set", "box", "max_age=2h", "queue_limit=5", "max_priority=normal")
    assert done["policy"]["max_age_s"] == 7200
    assert done["policy"]["queue_limit"] == 5
    assert lb("allocate", "box", "cpu=1", "--priority", "critical").code == 3
    assert lb.ok("policy", "set", "box", "max_age=none")["policy"]["max_age_s"] is None
    assert "max_age_s=none" in lb("policy", "show", "box").out


def test_ledger_is_found_through_a_configuration_upwards(
    lb: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LEASEBOOK_LEDGER")
    (tmp_path / "leasebook.toml").write_text('ledger = "here.db"\n')
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert lb("pool", "open", "box", "cpu=1").code == 0
    assert (tmp_path / "here.db").exists()
    assert oct(os.stat(tmp_path / "here.db").st_mode & 0o777) == "0o600"


def test_budget_is_spent_and_refilled_as_it_was_opened(lb: CommandLine) -> None:
    opened = lb.ok("pool", "open", "tokens", "tokens=100k", "--consumable", "--every", "1h")
    assert opened["pool"]["consumable"] is True
    assert opened["pool"]["policy"]["refill"] == "reset"
    assert opened["pool"]["policy"]["refill_every_s"] == 3600
    lb.ok("allocate", "tokens", "tokens=80k")
    lb.ok("release", "A3", "--consumed", "tokens=60k")
    assert lb.ok("pool", "show", "tokens")["free"] == {"tokens": "40k"}
    assert lb("allocate", "tokens", "tokens=50k").code == 3


def test_a_refill_that_would_never_come_is_bad_usage(lb: CommandLine) -> None:
    for words in (["--refill", "bogus"], ["--refill", "add"], ["--add", "tokens=5k"]):
        answer = lb("pool", "open", "tokens", "tokens=100k", "--consumable", *words)
        assert answer.code == 2
        assert "go with --every" in answer.err
    assert not lb.ledger.exists()
