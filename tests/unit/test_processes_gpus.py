"""Cards by NVML: what a driver tells, and nothing where there is none."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from scheduler.processes import gpus
from scheduler.processes.gpus import Gpu, GpuProcess


class Driver:
    """NVML's calls as nvidia-ml-py has them, for two cards, of which the second fails."""

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index == 1:
            raise RuntimeError("GPU is lost")
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> bytes:
        return b"GPU-aa"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "Tesla T4"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=16 << 30)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        return [
            SimpleNamespace(pid=5, usedGpuMemory=100),
            SimpleNamespace(pid=6, usedGpuMemory=None),
        ]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: int) -> list[Any]:
        return [SimpleNamespace(pid=5, usedGpuMemory=100), SimpleNamespace(pid=7, usedGpuMemory=9)]


@pytest.fixture(autouse=True)
def _ask_anew() -> Iterator[None]:
    gpus._nvml.cache_clear()
    yield
    gpus._nvml.cache_clear()


def with_module(monkeypatch: pytest.MonkeyPatch, module: object) -> None:
    def load(name: str) -> object:
        assert name == "pynvml"
        if isinstance(module, Exception):
            raise module
        return module

    monkeypatch.setattr(importlib, "import_module", load)


@pytest.mark.parametrize("error", [ImportError("no package"), OSError("broken library")])
def test_without_nvml_there_are_no_cards_and_no_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with_module(monkeypatch, error)
    assert gpus.gpus() == []
    assert gpus.processes_on_gpu() == []
    assert gpus.memory_by_pid() is None
    assert not gpus.available()


def test_a_package_without_a_driver_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDriver(Driver):
        def nvmlInit(self) -> None:
            raise RuntimeError("NVML Shared Library Not Found")

    with_module(monkeypatch, NoDriver())
    assert gpus.gpus() == []


def test_a_card_that_fails_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with_module(monkeypatch, Driver())
    assert gpus.gpus() == [Gpu(0, "GPU-aa", "Tesla T4", 16 << 30)]


def test_a_process_in_both_lists_counts_once_and_unknown_memory_stays_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_module(monkeypatch, Driver())
    assert gpus.processes_on_gpu() == [
        GpuProcess(5, 0, "GPU-aa", 100),
        GpuProcess(6, 0, "GPU-aa", None),
        GpuProcess(7, 0, "GPU-aa", 9),
    ]
    assert gpus.memory_by_pid() == {5: 100, 7: 9}
