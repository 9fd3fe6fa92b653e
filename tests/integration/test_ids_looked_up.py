"""Commands that share a commit have their ids looked up at once: it must come to the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger import writer as writer_module
from ledger.commands import AnyCommand, RaiseAlert
from ledger.receipts import Receipt
from tests.ledgers import Ledger, allocate, check_whole, release, together


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path, request.param)
    made.pool(n1={"cpu": 8000})
    yield made
    made.close()


def _commands() -> list[AnyCommand]:
    """Ids that were used, refused, given twice, another tenant's, and the ledger's own."""
    return [
        allocate("used"),
        allocate("used", 2000),
        allocate("refused"),
        allocate("twice"),
        allocate("twice"),
        allocate("used", tenant="other"),
        allocate("alert"),
        RaiseAlert(command_id="alert", alert="a", message="other words"),
        RaiseAlert(command_id="used", alert="b", message="new"),
        release("gone", "A999"),
        allocate("too much", 9000),
        allocate("too much"),
    ]


UNUSABLE: tuple[AnyCommand, ...] = (allocate("\ud800"), allocate("bad\n"), allocate(""))


def _outcomes(ledger: Ledger, *more: AnyCommand) -> list[Any]:
    assert ledger.do(allocate("used")).outcome == "granted"
    assert ledger.do(allocate("refused", 9000)).outcome == "refused"
    assert ledger.do(RaiseAlert(command_id="alert", alert="a", message="m")).outcome != "refused"
    return [
        (one.outcome, one.positions, one.reason, one.replayed)
        if isinstance(one, Receipt)
        else str(one)
        for one in together(ledger.writer, *_commands(), *more)
    ]


@pytest.mark.parametrize("more", [(), UNUSABLE], ids=["all usable", "some unusable"])
def test_ids_looked_up_at_once_come_to_what_each_alone_comes_to(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[AnyCommand, ...]
) -> None:
    at_once = _outcomes(ledger, *more)
    check_whole(ledger.writer)
    monkeypatch.setattr(writer_module, "LOOKED_UP_AT_ONCE", 1_000)
    (tmp_path / "other").mkdir()
    other = Ledger(tmp_path / "other", "memory")
    other.pool(n1={"cpu": 8000})
    one_by_one = _outcomes(other, *more)
    other.close()
    assert at_once == one_by_one
    assert [each[0] for each in at_once[:6]] == [
        "granted",
        "refused",
        "granted",
        "granted",
        "granted",
        "granted",
    ]
    assert [each[3] for each in at_once[:6]] == [True, False, False, False, True, False]
