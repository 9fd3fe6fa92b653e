"""Cards and who uses them, by NVIDIA's NVML where its package and a driver are there.

Nothing here raises: a machine without cards, a driver that fails or a card that refuses to tell
gives less, never an error.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card: NVML's index, its lasting uuid, its model's name and its memory in bytes."""

    index: int
    uuid: str
    model: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """One process on one card. ``memory_bytes`` is None where the driver does not tell.

    NVML names pids as the host's initial pid namespace does; in a container they may not match.
    """

    pid: int
    gpu_index: int
    gpu_uuid: str
    memory_bytes: int | None


@functools.lru_cache(maxsize=1)
def _nvml() -> Any:
    """NVML, started; None where it is not there. Asked once: drivers do not appear meanwhile."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # A broken driver fails in ways of its own; none may spread.
        return None
    return nvml


def available() -> bool:
    """Whether NVML answers on this machine."""
    return _nvml() is not None


def gpus() -> list[Gpu]:
    """The machine's cards in NVML's order; empty where there are none."""
    nvml = _nvml()
    found = []
    for index in range(_ask(lambda: int(nvml.nvmlDeviceGetCount())) or 0 if nvml else 0):
        card = _ask(functools.partial(_card, nvml, index))
        if card is not None:
            found.append(card)
    return found


def processes_on_gpu() -> list[GpuProcess]:
    """Who computes or draws on which card now; empty where that cannot be told."""
    found: dict[tuple[int, int], GpuProcess] = {}
    for card in gpus():
        for kind in ("Compute", "Graphics"):
            for process in _ask(functools.partial(_running, _nvml(), card, kind)) or ():
                # One process may be in both lists, with the same memory in both.
                found.setdefault((card.index, process.pid), process)
    return list(found.values())


def memory_by_pid() -> dict[int, int] | None:
    """Bytes of card memory by pid over all cards; None where no card can be asked."""
    if not available():
        return None
    used: dict[int, int] = {}
    for process in processes_on_gpu():
        if process.memory_bytes is not None:
            used[process.pid] = used.get(process.pid, 0) + process.memory_bytes
    return used


def _card(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        model=_text(nvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
    )


def _running(nvml: Any, card: Gpu, kind: str) -> list[GpuProcess]:
    ask = getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses")
    handle = nvml.nvmlDeviceGetHandleByIndex(card.index)
    return [
        GpuProcess(
            pid=int(process.pid),
            gpu_index=card.index,
            gpu_uuid=card.uuid,
            memory_bytes=None if process.usedGpuMemory is None else int(process.usedGpuMemory),
        )
        for process in ask(handle)
    ]


def _ask(call: Callable[[], _T]) -> _T | None:
    try:
        return call()
    except Exception:  # One card that fails must not hide the others.
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
