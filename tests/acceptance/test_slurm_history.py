"""A real Slurm log, imported by the command line: day by day it comes to what another accounting system
(Open XDMoD) reports for it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import CommandLine
from tests.real_inputs import real_inputs

HOUR = 3600


@pytest.fixture
def folder() -> Path:
    return real_inputs("slurm_phillips")


def _import(lb: CommandLine, folder: Path, tmp_path: Path) -> dict[str, Any]:
    rejects = str(tmp_path / "rejects.csv")
    log = str(folder / "phillips.log")
    answer: dict[str, Any] = lb.ok("import", log, "--format", "sacct", "--rejects", rejects)
    return answer


def _expected(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "expected_daily.csv").open(newline="") as file:
        return {row["day_utc"]: row for row in csv.DictReader(file)}


def _figures(row: dict[str, Any]) -> dict[str, float]:
    """A row of ours in the words of the other system."""
    granted = row["granted_seconds"]
    return {
        "total_cpu_hours": granted["cpu"] / 1000 / HOUR,
        "total_wallduration_hours": row["held_s"] / HOUR,
        "total_node_hours": row["nodes_seconds"] / HOUR,
        "total_gpu_hours": granted["gpu"] / 1000 / HOUR,
        "job_count": row["allocations_ended"],
        "started_job_count": row["allocations_started"],
        "running_job_count": row["allocations_running"],
        "total_waitduration_hours": row["wait_s"] / HOUR,
    }


def test_eleven_days_of_a_cluster_are_what_another_accounting_system_reports(
    lb: CommandLine, folder: Path, tmp_path: Path
) -> None:
    _import(lb, folder, tmp_path)
    report = lb.ok("report", "utilization", "--by", "day", "--by", "pool")
    expected = _expected(folder)
    assert [row["bucket"] for row in report["rows"]] == list(expected)
    assert len(expected) == 11
    for row in report["rows"]:
        assert row["pool"] == "phillips"
        found = {name: f"{value:.4f}" for name, value in _figures(row).items()}
        wanted = {name: f"{float(expected[row['bucket']][name]):.4f}" for name in found}
        assert found == wanted, row["bucket"]


def test_hours_tenants_and_nodes_come_to_the_same_as_days(
    lb: CommandLine, folder: Path, tmp_path: Path
) -> None:
    _import(lb, folder, tmp_path)
    (whole,) = lb.ok("report", "utilization", "--by", "pool")["rows"]
    for by in (("hour",), ("day", "tenant"), ("holder",), ("node",)):
        keys = [word for key in by for word in ("--by", key)]
        rows = lb.ok("report", "utilization", *keys)["rows"]
        for resource in ("cpu", "gpu", "memory"):
            total = sum(row["granted_seconds"].get(resource, 0) for row in rows)
            # Whole seconds all of it, so that nothing is lost in any division.
            assert total == whole["granted_seconds"][resource], (by, resource)
        assert sum(row["nodes_seconds"] for row in rows) == whole["nodes_seconds"], by
        if by != ("node",):
            # On several nodes at once it is held once, and counts on each.
            assert sum(row["held_s"] for row in rows) == whole["held_s"], by
            assert sum(row["allocations_started"] for row in rows) == whole["allocations_started"]


def test_importing_it_again_changes_neither_the_log_nor_the_report(
    lb: CommandLine, folder: Path, tmp_path: Path
) -> None:
    _import(lb, folder, tmp_path)
    first = lb.ok("report", "utilization", "--by", "day", "--by", "pool")
    again = _import(lb, folder, tmp_path)
    second = lb.ok("report", "utilization", "--by", "day", "--by", "pool")
    assert again["facts"]["new"] == 0
    assert again["facts"]["known"] == again["rows"] == 4_285
    assert second["position"] == first["position"]
    assert second["rows"] == first["rows"]
