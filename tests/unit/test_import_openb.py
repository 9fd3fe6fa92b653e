"""The openb format: given rows of nodes or pods, then an inventory or facts."""

from __future__ import annotations

from pathlib import Path

import pytest

from leasebook.importers.base import Found, Inventory, Item, Options, Reject, Source, WrongFormat
from leasebook.importers.openb import read
from ledger.commands import Fact
from ledger.rules.facts import check_fact
from reports.lives import UNPLACED
from tests.real_inputs import real_inputs

S = 1_000_000_000
NODES = "sn,cpu_milli,memory_mib,gpu,model"
PODS = (
    "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,"
    "creation_time,deletion_time,scheduled_time"
)


def items(tmp_path: Path, *lines: str, **options: object) -> list[Item]:
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(lines) + "\n")
    source = Source(str(path))
    try:
        return list(read(source, Options(**options)))  # type: ignore[arg-type]
    finally:
        source.close()


def one(tmp_path: Path, row: str, **options: object) -> Fact:
    (found,) = items(tmp_path, PODS, row, **options)
    assert isinstance(found, Found)
    check_fact(found.fact)
    return found.fact


def test_a_table_of_nodes_is_an_inventory_from_the_beginning_on(tmp_path: Path) -> None:
    lines = (NODES, "a,32000,1024,0,", "b,64000,2048,2,T4", "b,1,1,0,")
    (inventory,) = items(tmp_path, *lines, origin=5)
    assert isinstance(inventory, Inventory)
    assert (inventory.pool, inventory.at, inventory.complete) == ("openb", 5, False)
    assert [(n.name, n.capacity, n.labels) for n in inventory.nodes] == [
        ("a", {"cpu": 32_000, "memory": 1024 << 20}, None),
        ("b", {"cpu": 64_000, "memory": 2048 << 20, "gpu": 2000}, {"model": "T4"}),
    ]


def test_a_pod_held_from_when_it_was_scheduled_until_it_was_deleted(tmp_path: Path) -> None:
    fact = one(tmp_path, "p,6000,1,1,460,V100|T4,LS,Running,10,40,15", origin=100 * S)
    assert (fact.requested_at, fact.began_at, fact.ended_at) == (110 * S, 115 * S, 140 * S)
    amounts = {"cpu": 6000, "memory": 1 << 20, "gpu": 460}
    assert (fact.request.amounts, fact.request.select) == (amounts, {"model": "T4|V100"})
    assert [(p.node, p.amounts) for p in fact.placements] == [(UNPLACED, amounts)]
    assert (fact.key, fact.holder, fact.ended_by) == ("openb:openb:p", "p", "released")
    assert fact.metadata == {"qos": "LS", "pod_phase": "Running", "gpu_spec": "V100|T4"}


def test_the_share_of_a_gpu_counts_for_each_of_them(tmp_path: Path) -> None:
    assert one(tmp_path, "p,1,1,8,1000,,LS,Running,1,3,2").request.amounts["gpu"] == 8000
    assert "gpu" not in one(tmp_path, "p,1,1,0,0,,LS,Running,1,3,2").request.amounts


def test_a_pod_that_was_never_scheduled_only_asked(tmp_path: Path) -> None:
    deleted = one(tmp_path, "p,1,1,1,1000,,BE,Pending,10,40,")
    assert (deleted.began_at, deleted.placements) == (None, ())
    assert (deleted.requested_at, deleted.ended_at) == (10 * S, 40 * S)
    assert deleted.ended_by == "withdrawn"
    assert one(tmp_path, "p,1,1,1,1000,,BE,Pending,10,,").ended_at is None


def test_a_pod_that_was_not_deleted_is_open(tmp_path: Path) -> None:
    fact = one(tmp_path, "p,1,1,1,1000,,BE,Running,10,,12", pool="mine", tenant="t")
    assert (fact.began_at, fact.ended_at, fact.seen_until) == (12 * S, None, None)
    assert (fact.key, fact.tenant) == ("openb:mine:p", "t")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("p,1,1,1,1000,,BE,Running,10,40", "number of fields"),
        ("p,1,1,1,1000,,BE,Running,10,40,soon", "'soon' as scheduled_time"),
        ("p,-1,1,1,1000,,BE,Running,10,40,20", "'-1' as cpu_milli"),
        ("p,9999999999999,1,1,1000,,BE,Running,10,40,20", "as cpu_milli"),
        ("p,1,1,1,1000,,BE,Running,10,15,20", "deleted before it was scheduled"),
        ("p,1,1,1,1000,,BE,Running,,,", "says of no time"),
        (",1,1,1,1000,,BE,Running,10,15,12", "names no pod"),
    ],
)
def test_a_row_that_cannot_be_understood_is_told_and_the_rest_goes_on(
    tmp_path: Path, row: str, why: str
) -> None:
    good = "g{},1,1,1,1000,,BE,Running,10,40,12"
    found = items(tmp_path, PODS, good.format(1), row, "", good.format(2))
    assert [type(item) for item in found] == [Found, Reject, Found]
    reject = found[1]
    assert isinstance(reject, Reject)
    assert (reject.line, reject.text) == (3, row)
    assert why in reject.reason


@pytest.mark.parametrize("row", ["a,1,1", ",1,1,0,", "a,0,0,0,", "a,x,1,0,"])
def test_a_node_that_cannot_be_understood_is_told(tmp_path: Path, row: str) -> None:
    reject, inventory = items(tmp_path, NODES, row, "b,1000,1,0,")
    assert isinstance(reject, Reject) and reject.line == 2
    assert isinstance(inventory, Inventory) and len(inventory.nodes) == 1


def test_columns_may_stand_in_any_order_and_be_quoted(tmp_path: Path) -> None:
    (inventory,) = items(tmp_path, "model,gpu,sn,cpu_milli,memory_mib", 'T4,1,"a,b",1000,1')
    assert isinstance(inventory, Inventory)
    assert inventory.nodes[0].name == "a,b"


@pytest.mark.parametrize("head", ["", "JobID|State", "sn,cpu_milli", "name,cpu_milli,memory_mib"])
def test_a_table_of_another_format_is_refused(tmp_path: Path, head: str) -> None:
    with pytest.raises(WrongFormat, match="not in the openb format"):
        items(tmp_path, head, "1,2")


def test_the_published_trace_is_understood_to_the_last_row() -> None:
    folder = real_inputs("openb")
    found: list[Item] = []
    for name in ("openb_node_list_gpu_node.csv", "openb_pod_list_default.csv"):
        source = Source(str(folder / name))
        found += read(source, Options())
        source.close()
    inventory, facts = found[0], [item.fact for item in found[1:] if isinstance(item, Found)]
    assert isinstance(inventory, Inventory)
    assert sum(node.capacity.get("gpu", 0) for node in inventory.nodes) == 6_212_000
    assert len(facts) == len(found) - 1 == 8_152
    assert sum(fact.began_at is None for fact in facts) == 897
