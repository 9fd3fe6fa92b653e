"""The openb format: nodes and pods of a cluster that shares GPUs, as two CSV files.

Nodes: ``sn, cpu_milli, memory_mib, gpu, model``. Pods: ``name, cpu_milli, memory_mib, num_gpu,
gpu_milli`` (of each GPU), ``gpu_spec`` (models, ``A|B``), ``creation_time, scheduled_time,
deletion_time`` (seconds). From https://github.com/hkust-adsl/kubernetes-scheduler-simulator
(Apache-2.0).
"""

from __future__ import annotations

from pathlib import Path

from ledger.requests import CARD, NodeSpec, Request
from ledger.rules.validity import check_nodes
from reports.simulate.traces import SECOND, Arrival, BadTrace, asked, at, rows, whole

MEBIBYTE = 2**20
MODEL = "model"
"""The label that says which GPUs a node has."""
CARDS_MAX = 1_000
"""The most GPUs that one node may have."""
_NODE_COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
_POD_COLUMNS = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec")


def read_nodes(path: Path) -> list[NodeSpec]:
    """The nodes of a cluster, in the file's order. Raises BadTrace for a line that is not a node."""
    nodes: dict[str, NodeSpec] = {}
    for where, row in rows(path, _NODE_COLUMNS):
        spec = _node(where, row)
        if spec.name in nodes:
            raise BadTrace(f"{where} names node {spec.name!r} again", "name each node once")
        nodes[spec.name] = spec
    return list(nodes.values())


def _node(where: str, row: dict[str, str]) -> NodeSpec:
    cards = whole(where, row, "gpu")
    if cards > CARDS_MAX:
        raise BadTrace(
            f"{where} has {cards} GPUs on one node", f"at most {CARDS_MAX} are simulated"
        )
    capacity = {
        "cpu": whole(where, row, "cpu_milli"),
        "memory": whole(where, row, "memory_mib") * MEBIBYTE,
        "gpu": cards * CARD,
    }
    capacity = {resource: amount for resource, amount in capacity.items() if amount}
    if not capacity:
        raise BadTrace(f"{where} is a node that has nothing", "take the line out")
    spec = NodeSpec(row["sn"], capacity, {MODEL: row["model"]} if row["model"] else {})
    with at(where):
        check_nodes((spec,))
    return spec


def read_pods(path: Path) -> list[Arrival]:
    """The requests of a trace, in the file's order. Raises BadTrace for a line that is not a pod."""
    return [_arrival(where, row) for where, row in rows(path, _POD_COLUMNS)]


def _arrival(where: str, row: dict[str, str]) -> Arrival:
    cards = whole(where, row, "num_gpu")
    milli = whole(where, row, "gpu_milli") if cards else 0
    if cards and not (0 < milli <= CARD if cards == 1 else milli == CARD):
        raise BadTrace(
            f"{where} asks for {cards} GPUs with {milli} thousandths of each",
            "a share is of one GPU; several are whole",
        )
    amounts = {
        "cpu": whole(where, row, "cpu_milli"),
        "memory": whole(where, row, "memory_mib") * MEBIBYTE,
        "gpu": cards * milli,
    }
    models = "|".join(sorted(set(filter(None, row["gpu_spec"].split("|")))))
    arrived, began, left = (
        _time(where, row, column) for column in ("creation_time", "scheduled_time", "deletion_time")
    )
    since = max((time for time in (arrived, began) if time is not None), default=None)
    if since is not None and left is not None and left < since:
        raise BadTrace(f"{where} ends before it begins", "mend the line or take it out")
    return Arrival(
        row["name"],
        Request(asked(where, amounts), select={MODEL: models} if models else None),
        arrived,
        left,
        began,
        # A table that does not tell when pods were scheduled tells of none that it was not.
        ran=began is not None or "scheduled_time" not in row,
    )


def _time(where: str, row: dict[str, str], column: str) -> int | None:
    return whole(where, row, column) * SECOND if row.get(column) else None
