"""The coverage floors fail where they should."""

from __future__ import annotations

from typing import Any

import pytest

from tests import coverage_floor


def report(
    lines: tuple[int, int], branches: tuple[int, int], **missing: list[int]
) -> dict[str, Any]:
    files: dict[str, Any] = {
        pattern.replace("*", "leases"): {"missing_lines": []}
        for pattern in coverage_floor.EVERY_LINE
    }
    files |= {f"ledger/{name}.py": {"missing_lines": at} for name, at in missing.items()}
    totals = {
        "covered_lines": lines[0],
        "num_statements": lines[1],
        "covered_branches": branches[0],
        "num_branches": branches[1],
    }
    return {"totals": totals, "files": files}


def test_a_report_on_its_floors_passes() -> None:
    assert coverage_floor.failures(report((95, 100), (90, 100), cli=[4])) == []


def test_too_few_lines_or_branches_overall_fail() -> None:
    below = coverage_floor.failures(report((949, 1000), (899, 1000)))
    assert [line.split(":")[0] for line in below] == ["lines", "branches"]


def test_one_untested_line_of_the_writer_fails_and_is_named() -> None:
    assert coverage_floor.failures(report((99, 100), (99, 100), writer=[7, 10, 11, 12])) == [
        "ledger/writer.py: every line must be tested, lines 7, 10-12 are not"
    ]


def test_a_listed_file_that_was_never_measured_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage_floor, "EVERY_LINE", ("ledger/no_such.py",))
    (line,) = coverage_floor.failures({**report((99, 100), (99, 100)), "files": {}})
    assert line.startswith("ledger/no_such.py: no measured file")
