"""What stands in a row of ``sacct``: amounts, nodes, states, and the usage of its steps."""

from __future__ import annotations

from functools import lru_cache

from leasebook.importers.hostlist import expand
from leasebook.importers.units import duration, number_in, size
from ledger.requests import Amounts, Placement

REQUEUED = frozenset(["REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"])
"""States of a job that waits again; of a run, where the row has a start and an end."""
WAITING_STATES = REQUEUED | {"PENDING"}
PUT_BACK = REQUEUED | {"NODE_FAIL", "PREEMPTED", "BOOT_FAIL"}
"""States of a run after which Slurm may begin the same job once more."""
SETTLED = frozenset(
    ["COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "DEADLINE", "OUT_OF_MEMORY", "REVOKED"]
)
"""States of a job that is over for good."""
ENDINGS = {
    "COMPLETED": "released",
    "FAILED": "released",
    "TIMEOUT": "expired",
    "DEADLINE": "expired",
    "CANCELLED": "forced",
    "REVOKED": "forced",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "crashed",
    "BOOT_FAIL": "crashed",
    "OUT_OF_MEMORY": "crashed",
    **dict.fromkeys(REQUEUED, "forced"),
}
"""The first word of a state → an allocation's ``ended_by``."""

NO_NODES = frozenset({"None assigned", "None", "(null)"})
NO_TIME = frozenset({"", "Unknown", "None", "N/A", "NONE"})
NO_LIMIT = frozenset({"", "UNLIMITED", "Partition_Limit", "INVALID"})
_PER_CPU_FLAGS = (2**63, 2**31)
CORE = 1000


@lru_cache(maxsize=4096)
def tres(text: str) -> dict[str, int]:
    """``billing=8,cpu=8,mem=24000M,gres/gpu:a100=2,node=1`` as ``cpu``, ``memory``, ``gpu``, ``node``.

    In base units, but for ``node``; cards are counted once where they stand with and without their
    type. Raises ValueError.
    """
    found: dict[str, int] = {}
    typed = 0
    for pair in filter(None, text.split(",")):
        name, _, value = pair.partition("=")
        if name == "cpu":
            found["cpu"] = whole(value) * CORE
        elif name == "mem":
            found["memory"] = size(value, "M")
        elif name == "node":
            found["node"] = whole(value)
        elif name == "gres/gpu":
            found["gpu"] = whole(value) * CORE
        elif name.startswith("gres/gpu:"):
            typed += whole(value) * CORE
    if typed and "gpu" not in found:
        found["gpu"] = typed
    return found


def whole(text: str) -> int:
    """A count: ``12``, or ``1.5K`` as Slurm shortens it (in steps of 1000). Raises ValueError."""
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    if text[-1:] == "K" and text[:-1].replace(".", "", 1).isdigit():
        return int(number_in(text[:-1]) * 1000)
    raise ValueError(f"{text[:40]!r} is not a count")


def requested_memory(text: str, cpus: int, nodes: int) -> int:
    """``ReqMem`` in bytes of the whole job; 0 where it asks for none. Raises ValueError.

    ``n`` is per node and ``c`` per CPU. A flag for per CPU that has leaked into the number (2³¹, or
    2⁶³ of newer versions) counts as what it means.
    """
    times = 1
    if text[-1:] in ("n", "c"):
        times = nodes if text[-1] == "n" else cpus
        text = text[:-1]
    if not text or text == "?":
        return 0
    number = text.rstrip("KMGTPE")
    if len(number) > 9 and number.isdigit():
        value = int(number) if len(number) < 40 else 0
        for flag in _PER_CPU_FLAGS:
            # So many kilobytes are two terabytes, which a machine may have; so many M no machine has.
            if value >= flag and text[-1:] != "K":
                return size(f"{value - flag}{text[len(number) :]}", "M") * cpus
    return size(text, "M") * times


def share(total: int, parts: int, unit: int) -> list[int]:
    """A total over so many parts, as even as whole units allow; the shares add up exactly."""
    step = unit if unit > 1 and total % unit == 0 else 1
    each, rest = divmod(total // step, parts)
    return [(each + (index < rest)) * step for index in range(parts)]


def spread(amounts: Amounts, nodes: tuple[str, ...]) -> tuple[Placement, ...]:
    """Amounts over nodes as placements; what a node has none of is left out there."""
    if len(nodes) == 1:
        return (Placement(nodes[0], amounts, {}),)
    shares = {
        resource: share(amount, len(nodes), CORE if resource in ("cpu", "gpu") else 1)
        for resource, amount in amounts.items()
    }
    return tuple(
        Placement(node, {r: given[index] for r, given in shares.items() if given[index]}, {})
        for index, node in enumerate(nodes)
    )


@lru_cache(maxsize=8192)
def sizes(
    cpus: str, asked_cpus: str, asked_memory: str, asked_tres: str, held_tres: str, nodes: str,
    nodelist: str,
) -> tuple[Amounts, Amounts, tuple[Placement, ...]]:  # fmt: skip
    """What was asked, what was held, and where, from the columns as they stand. Raises ValueError.

    The nodes are unknown (no placements) where the list is empty, or says that none was assigned.
    """
    held, asked = tres(held_tres), tres(asked_tres)
    names = () if nodelist in NO_NODES else expand(nodelist)
    core = whole(cpus) if cpus else 0
    given: Amounts = {}
    core = core or held.get("cpu", 0) // CORE
    if core:
        given["cpu"] = core * CORE
    count = len(names) or (whole(nodes) if nodes else 0) or held.get("node", 1)
    asked_core = (whole(asked_cpus) if asked_cpus else 0) or core
    wanted = requested_memory(asked_memory, asked_core, count) if asked_memory else 0
    memory = held.get("memory", 0) or asked.get("memory", 0) or wanted
    if memory:
        given["memory"] = memory
    cards = held.get("gpu", 0) or asked.get("gpu", 0)
    if cards:
        given["gpu"] = cards
    wish = {
        "cpu": asked_core * CORE,
        "memory": asked.get("memory", 0) or wanted or memory,
        "gpu": asked.get("gpu", 0) or cards,
    }
    wish = {resource: amount for resource, amount in wish.items() if amount}
    placed = spread(given, names) if names else ()
    return (given if wish == given else wish), given, placed


def state_of(text: str) -> str:
    """The state alone: ``CANCELLED by 123`` and ``CANCELLED+`` are ``CANCELLED``."""
    return text.partition(" ")[0].rstrip("+").upper()


def time_limit(text: str) -> int | None:
    """A time limit in ns, None where there is none. Raises ValueError."""
    if text in NO_LIMIT:
        return None
    return _limit(text)


@lru_cache(maxsize=1024)
def _limit(text: str) -> int | None:
    return duration(text) or None


def exit_code(text: str) -> int | None:
    """``1:0`` as 1, ``0:9`` (a signal) as 137; None for anything else."""
    code, _, signal = text.partition(":")
    if not (_is_code(code) and (_is_code(signal) or not signal)):
        return None
    return int(code) or (128 + int(signal) if signal and int(signal) else 0)


def _is_code(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def step_memory(rss: str, tasks: str) -> int | None:
    """The memory of one step: its largest task's times its tasks, in bytes. Raises ValueError."""
    if not rss:
        return None
    return size(rss) * (whole(tasks) if tasks else 1)
