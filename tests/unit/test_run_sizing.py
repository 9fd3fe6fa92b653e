"""How much a run takes where nobody says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import leasebook
from leasebook.run.sizing import (
    MIB,
    default_amounts,
    ensure_local,
    fair_share,
    kept_free,
    machine_pool,
)
from ledger.nodes import Node, node_from
from ledger.requests import NodeSpec, Placement

GIB = 1 << 30


def node(capacity: dict[str, int], in_use: dict[str, int] | None = None) -> Node:
    made = node_from(NodeSpec("n", capacity))
    return made.plus(Placement("n", in_use, {}), 1) if in_use else made


@pytest.mark.parametrize(
    ("capacity", "in_use", "share"),
    [
        ({"cpu": 8000, "memory": 32 * GIB}, {}, {"cpu": 4000, "memory": 16 * GIB}),
        ({"cpu": 7200, "memory": 9 * GIB}, {}, {"cpu": 3000, "memory": 4608 * MIB}),
        ({"cpu": 1800}, {}, {"cpu": 900}),
        ({"cpu": 8000}, {"cpu": 5000}, {"cpu": 1000}),
        ({"cpu": 8000}, {"cpu": 8000}, {"cpu": 1000}),
        ({"memory": 2 * GIB}, {"memory": 2 * GIB}, {"memory": 512 * MIB}),
        ({"port": 1}, {}, {"port": 1}),
        ({"gpu": 4000, "vram": 64}, {}, {"gpu": 1000, "vram": 1}),
        ({"cpu": 1}, {}, {"cpu": 1}),
    ],
)
def test_a_fair_share_is_half_of_what_is_free_and_never_too_little_to_work(
    capacity: dict[str, int], in_use: dict[str, int], share: dict[str, int]
) -> None:
    assert fair_share(node(capacity, in_use)) == share


@given(st.integers(1, 1 << 20), st.integers(1, 1 << 45), st.integers(0, 100))
def test_a_fair_share_fits_the_node_when_it_is_empty(cpu: int, memory: int, used: int) -> None:
    in_use = {"cpu": cpu * used // 100, "memory": memory * used // 100}
    share = fair_share(node({"cpu": cpu, "memory": memory}, in_use))
    assert 0 < share["cpu"] <= cpu
    assert 0 < share["memory"] <= memory


def test_a_tenth_is_kept_free() -> None:
    assert kept_free(2000) == 1800
    capacity, basis = machine_pool()
    assert capacity["cpu"] > 0
    assert capacity["memory"] % MIB == 0
    assert "10 % kept free" in basis


def test_local_is_opened_once_and_again_after_it_was_closed() -> None:
    with leasebook.open(":memory:") as manager:
        first = ensure_local(manager)
        assert first is not None
        assert "cpu=" in first
        assert ensure_local(manager) is None
        manager.close_pool("local")
        assert ensure_local(manager) is not None


def test_two_runs_that_open_local_at_once_use_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from leasebook.run import sizing

    with leasebook.open(":memory:") as manager:
        ensure_local(manager)
        answers = iter([False, True])
        monkeypatch.setattr(sizing, "_is_open", lambda book, now: next(answers))
        assert ensure_local(manager) is None


def test_cards_are_a_part_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from scheduler.processes import gpus

    cards = [gpus.Gpu(i, f"uuid-{i}", "T4", 16 * GIB) for i in range(2)]
    monkeypatch.setattr(gpus, "gpus", lambda: cards)
    assert machine_pool()[0]["gpu"] == 2000, "whole cards, none of them kept free"


def test_what_others_were_seen_to_use_is_not_shared() -> None:
    made = node({"cpu": 8000}, {"cpu": 2000})
    made.outside = {"cpu": 2000}
    assert fair_share(made) == {"cpu": 2000}


def test_the_roomiest_node_that_may_be_used_is_shared() -> None:
    with leasebook.open(":memory:") as manager:
        nodes = {"small": {"cpu": 2}, "big": {"cpu": 16}, "odd": {"cpu": 64}}
        manager.open_pool("p", nodes=nodes, labels={"small": {"disk": "ssd"}})
        manager.cordon("p", "odd")
        found = default_amounts(manager, pool="p")
        assert found is not None
        assert found[0] == {"cpu": 8000}
        found = default_amounts(manager, pool="p", select={"disk": "ssd"})
        assert found is not None
        assert found[0] == {"cpu": 1000}
        assert default_amounts(manager, pool="p", select={"disk": "tape"}) is None
        assert default_amounts(manager, pool="nowhere") is None


def test_a_parent_shares_what_it_holds() -> None:
    with leasebook.open(":memory:") as manager:
        manager.open_pool("p", capacity={"cpu": 16})
        parent = manager.allocate({"cpu": 4}, pool="p")
        found = default_amounts(manager, pool="p", parent=parent.id)
        assert found is not None
        assert found[0] == {"cpu": 2000}


def test_history_sizes_a_task_but_never_beyond_the_node() -> None:
    second = 1_000_000_000
    with leasebook.open(":memory:") as manager:
        manager.open_pool("p", capacity={"cpu": 4, "memory": "8GiB"})
        handle = manager.allocate({"cpu": 4, "memory": "8GiB"}, pool="p", task="t")
        began = manager.ledger.writer.read(lambda book, now: now)
        manager.record_usage(
            handle.id,
            since=began,
            until=began + 10 * second,
            used={"cpu": 39_000, "memory": 10 * GIB},
            peak={"memory": GIB},
            samples=10,
        )
        handle.release()
        found = default_amounts(manager, pool="p", task="t")
        assert found is not None
        amounts, why = found
        assert amounts["cpu"] == 4000, "4.68 were suggested, and there are four"
        assert GIB < amounts["memory"] < 2 * GIB
        assert why == "as the last runs of t suggest"
        other = default_amounts(manager, pool="p", task="another")
        assert other is not None
        assert "fair share" in other[1]
