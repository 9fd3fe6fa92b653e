"""Corners of what sources tell: notices of one instance, inventories without a time, corrections."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.commands import Correct, Fact, OpenPool, RecordFacts
from ledger.errors import InvalidInput
from ledger.receipts import fold_allocation
from ledger.requests import NodeSpec, Placement, Request
from ledger.rules.history import Life, Notice
from tests.ledgers import Ledger

CPU = {"cpu": 1000}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path, "memory")
    made.do(OpenPool(command_id="p", pool="far", nodes=(), kind="observed"))
    yield made
    made.close()


def tell(ledger: Ledger, *facts: Fact, **inventory: Any) -> int:
    """How many events it wrote."""
    before = len(ledger.events())
    ledger.do(RecordFacts(command_id="", pool="far", facts=facts, **inventory))
    return len(ledger.events()) - before


def life(ledger: Ledger) -> Life:
    return Life(event for event in ledger.events() if event.allocation is not None)


def notice(**said: Any) -> Notice:
    return Notice(key="i1", holder="ann", request=Request(CPU), **said)


def on(node: str) -> tuple[Placement, ...]:
    return (Placement(node, CPU, {}),)


def test_a_notice_of_what_only_waited_so_far_tells_where_it_began(ledger: Ledger) -> None:
    tell(ledger, Fact(key="i1", holder="ann", request=Request(CPU), requested_at=5))
    assert life(ledger).granted_at is None
    tell(ledger, notice(began_at=9, placements=on("n1")))
    known = life(ledger)
    assert (known.requested_at, known.granted_at, known.placements) == (5, 9, on("n1"))


@pytest.mark.parametrize("order", [(7, 9), (9, 7)])
def test_of_two_creations_of_an_instance_the_earlier_one_counts(
    ledger: Ledger, order: tuple[int, int]
) -> None:
    for at in order:
        tell(ledger, notice(began_at=at, placements=on(f"n{at}")))
    known = life(ledger)
    assert (known.granted_at, known.placements) == (7, on("n7"))
    assert tell(ledger, notice(began_at=9, placements=on("n9"))) == 0


def test_an_inventory_without_a_time_speaks_of_now_and_only_of_what_is_otherwise(
    ledger: Ledger,
) -> None:
    nodes = (NodeSpec("n1", CPU), NodeSpec("n2", CPU))
    assert tell(ledger, nodes=nodes) == 2
    assert tell(ledger, nodes=nodes) == 0
    assert tell(ledger, nodes=(NodeSpec("n1", {"cpu": 2000}),)) == 1
    there = ledger.writer.read(
        lambda book, now: {n.name: dict(n.capacity) for n in book.pools["far"].space.nodes.values()}
    )
    assert there == {"n1": {"cpu": 2000}, "n2": CPU}


def test_an_older_inventory_says_nothing_again_where_a_later_part_was_silent(
    ledger: Ledger,
) -> None:
    tell(ledger, nodes=(NodeSpec("n2", CPU),), nodes_at=30)
    tell(ledger, nodes=(NodeSpec("n1", {"cpu": 3000}),), nodes_at=10)
    told = [(event.type, event.at) for event in ledger.events() if event.pool == "far"][1:]
    assert told == [("node_joined", 30), ("node_joined", 10)]


def test_much_metadata_is_measured_and_kept_or_refused(ledger: Ledger) -> None:
    many = {f"name-{n}": "value" for n in range(20)}
    tell(ledger, Fact(key="k", holder="ann", request=Request(CPU), began_at=1, metadata=many))
    assert ledger.events()[-1].metadata == many
    far_too_much = {f"name-{n}": "v" * 190 for n in range(100)}
    with pytest.raises(InvalidInput, match="16 KiB"):
        tell(
            ledger,
            Fact(key="l", holder="ann", request=Request(CPU), began_at=1, metadata=far_too_much),
        )


def test_a_correction_tells_of_an_end_and_of_nothing_else(ledger: Ledger) -> None:
    tell(ledger, notice(began_at=9, placements=on("n1")))
    assert fold_allocation(e for e in ledger.events() if e.allocation == "A3") is not None
    with pytest.raises(InvalidInput, match="tells when and how"):
        ledger.do(
            Correct(
                command_id="c",
                corrects=3,
                reason="x",
                by="op",
                facts={"granted_at": 1},
                allocation="A3",
            )
        )
