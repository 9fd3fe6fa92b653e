"""SWF, openb and OpenStack files through the command line, until the report that they are read for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import CommandLine
from tests.unit.test_import_openb import NODES, PODS
from tests.unit.test_import_openstack import HISTORY
from tests.unit.test_import_swf import HEADER, job

HOUR = 3600


def _rows(lb: CommandLine, *keys: str) -> list[dict[str, Any]]:
    words = [word for key in keys for word in ("--by", key)]
    rows: list[dict[str, Any]] = lb.ok("report", "utilization", *words)["rows"]
    return rows


def _twice(lb: CommandLine, *arguments: str) -> dict[str, Any]:
    """Import, and again, which adds nothing."""
    first: dict[str, Any] = lb.ok("import", *arguments)
    second = lb.ok("import", *arguments)
    assert second["events"] == 0
    assert second["facts"]["known"] == sum(second["facts"].values())
    return first


def test_a_log_in_the_standard_workload_format(lb: CommandLine, tmp_path: Path) -> None:
    lines = (
        job(),
        job(job=2, submit=3000, run=7200, procs=16),
        "broken",
        job(job=3, submit=4000, run=-1, cpu=600),
        job(job=4, submit=5000, status=5, procs=-1, run=-1),
        job(job=4, submit=5000, status=2),
    )
    (tmp_path / "machine.swf").write_text(HEADER + "\n".join(lines) + "\n")
    answer = _twice(lb, "machine.swf", "--format", "swf")
    assert (answer["rows"], answer["facts"]["new"], answer["open"]) == (5, 4, 1)
    assert answer["skipped"] == 1
    assert [reject["line"] for reject in answer["rejects"]["first"]] == [11]
    (row,) = _rows(lb, "pool")
    assert row["granted_seconds"] == {"cpu": 1000 * (4 * 100 + 16 * 7200 + 4 * 600)}
    assert row["capacity_seconds"]["cpu"] > 0
    # All processors are taken when the third job begins.
    assert row["over_capacity"]["cpu"]["most"] == 4000
    assert (row["allocations_started"], row["allocations_ended"]) == (3, 2)


def test_a_log_of_nothing_but_parts_of_jobs_is_refused_with_the_reason(
    lb: CommandLine, tmp_path: Path
) -> None:
    lines = (job(status=3), job(status=4), job(job=2, status=2))
    (tmp_path / "parts.swf").write_text(HEADER + "\n".join(lines) + "\n")
    answer = lb("import", "parts.swf", "--format", "swf")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "only parts of jobs: 3 lines of status 2, 3 or 4" in answer.err
    assert not lb.ledger.exists()


def test_nodes_and_pods_of_an_openb_trace(lb: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "nodes.csv").write_text(f"{NODES}\na,8000,1024,2,T4\nb,8000,1024,0,\n")
    pods = ["p,6000,1,1,500,T4,LS,Running,0,3600,0", "q,1000,1,0,0,,LS,Pending,60,1800,"]
    (tmp_path / "pods.csv").write_text("\n".join([PODS, *pods]) + "\n")
    origin = ("--origin", "2023-01-01T00:00:00Z")
    assert lb("import", "nodes.csv", "--format", "openb", *origin).code == 0
    _twice(lb, "pods.csv", "--format", "openb", *origin)
    (row, _) = _rows(lb, "hour", "pool")
    assert row["bucket"] == "2023-01-01T00:00:00Z"
    assert row["granted_seconds"] == {
        "cpu": 6000 * HOUR,
        "gpu": 500 * HOUR,
        "memory": (1 << 20) * HOUR,
    }
    assert row["capacity_seconds"]["cpu"] == 16_000 * HOUR
    assert row["capacity_seconds"]["gpu"] == 2000 * HOUR
    assert row["allocations_started"] == 1


def test_openstack_notifications_and_hypervisors_that_come_and_go(
    lb: CommandLine, tmp_path: Path
) -> None:
    for day, names in (("18", ("h1", "h2")), ("19", ("h1",))):
        listed = [{"hypervisor_hostname": n, "vcpus": "2", "memory_mb": "8192"} for n in names]
        path = tmp_path / f"hypervisors_2018-04-{day}.json"
        path.write_text(json.dumps({"hypervisors": listed}))
        assert lb("import", path.name, "--format", "openstack").code == 0
    late, early = HISTORY[6:], [*HISTORY[:6], {"event_type": "volume.create.end"}]
    for name, records in (("late.json", late), ("early.json", early)):
        (tmp_path / name).write_text(json.dumps(records))
        answer = _twice(lb, name, "--format", "openstack")
    assert (answer["skipped"], answer["rejects"]["count"]) == (1, 0)
    first, second = _rows(lb, "day", "pool")
    ada, bob = 2 * 10 + 4 * 2, 2 * 20
    assert first["granted_seconds"]["cpu"] == (ada + bob) * 1000 * HOUR
    assert first["capacity_seconds"]["cpu"] == 2 * 2000 * 24 * HOUR
    # Both were on a hypervisor of two processors for three hours; then one had four on the other.
    assert first["over_capacity"]["cpu"]["over_s"] == (3 + 2) * HOUR
    assert second["granted_seconds"]["cpu"] == 2 * 1000 * HOUR
    assert second["capacity_seconds"]["cpu"] == 2000 * 24 * HOUR
    tenants = {row["tenant"] for row in _rows(lb, "tenant")}
    assert tenants == {"physics"}


@pytest.mark.parametrize("format", ["swf", "openb", "openstack"])
def test_a_file_of_another_format_leaves_the_ledger_as_it_was(
    lb: CommandLine, tmp_path: Path, format: str
) -> None:
    (tmp_path / "text.txt").write_text("this is a letter, not a log\n")
    lb.ok("pool", "open", "box", "cpu=1")
    before = len(lb.ok("events")["events"])
    answer = lb("import", "text.txt", "--format", format)
    assert answer.code == 2
    assert "text.txt" in answer.err and answer.err.count("\n") == 1
    assert len(lb.ok("events")["events"]) == before
