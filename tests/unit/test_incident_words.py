"""Pseudonyms against all that events can say: no field's name and no word of ours is replaced."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest

import leasebook
import ledger
import scheduler
from ledger.codec import from_row, to_row
from ledger.commands import Fact, OpenPool, RecordFacts
from ledger.errors import Reason
from ledger.events import AnyBody, Corrected
from ledger.log import GENESIS
from ledger.memory_log import MemoryLog
from ledger.requests import NodeSpec, Placement, Request
from ledger.writer import Writer, begin
from projections.sentences import sentence
from reports.incidents.pseudonyms import Pseudonyms
from reports.incidents.vocabulary import KEYS, WORDS
from scheduler.processes.liveness import Liveness, observe
from tests.ledgers import Clock
from tests.unit.command_maker import SECOND
from tests.unit.storage_examples import BODIES, PROCESS, example

NAMES = Pseudonyms(bytes(32), "all")
RESOURCES = {"cpu", "gpu", "memory", "tokens"}
NAMED = {"n1", "n2", "model", "3"} | RESOURCES
"""Keys of the examples that are names of nodes, labels, cards and resources, no fields."""


def keys_in(value: Any) -> Iterator[str]:
    """Every key at any depth."""
    if isinstance(value, dict):
        yield from value
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict | list):
            yield from keys_in(item)


def test_examples_are_of_every_event_type() -> None:
    assert {type(body) for body in BODIES} == set(get_args(AnyBody))


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.TYPE)
def test_names_of_fields_stay_in_every_type_of_event(body: AnyBody) -> None:
    row = to_row(example(5, body), GENESIS)
    before = set(keys_in(orjson.loads(row.data))) - NAMED
    after = set(keys_in(orjson.loads(NAMES.row(row).data)))
    assert before <= after
    assert not {key for key in after if key.startswith(("key-", "text-"))}


def sources_of_facts() -> Iterator[tuple[str, str]]:
    """(file, name) of everything that code puts into the open parts of events, read from the code."""
    open_parts = {"evidence", "details", "truth", "facts"}
    files = [*Path(ledger.__file__).parent.rglob("*.py")]
    files += Path(scheduler.__file__).parent.glob("sweeps/*.py")
    files += [Path(leasebook.__file__).with_name("amending.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_bytes())):
            named: list[ast.expr | None] = []
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name) and target.id in open_parts:
                        named += node.value.keys if isinstance(node.value, ast.Dict) else []
                    if (
                        isinstance(target, ast.Subscript)
                        and ast.unparse(target.value) in open_parts
                    ):
                        named.append(target.slice)
            elif isinstance(node, ast.keyword) and node.arg in open_parts:
                named += node.value.keys if isinstance(node.value, ast.Dict) else []
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Corrected":
                dicts = [arg for arg in node.args if isinstance(arg, ast.Dict)]
                named += [key for each in dicts for key in each.keys]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "_claim":
                named.append(node.args[2])
            for key in named:
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield file.name, key.value


def test_whatever_code_puts_into_facts_evidence_and_details_keeps_its_name() -> None:
    found = set(sources_of_facts())
    # The reading of the code finds what is known to be there.
    assert {("history.py", "granted_before"), ("amending.py", "ended_by")} <= found
    assert {("endings.py", "deadline"), ("leases.py", "grace_until")} <= found
    assert {(file, name) for file, name in found if name not in KEYS} == set()


def test_what_an_observation_tells_keeps_its_names_and_words() -> None:
    evidence = observe(PROCESS).evidence()
    shown = NAMES._fields(dict(evidence))
    assert list(shown) == list(evidence)
    assert shown["liveness"] == "unknown" and shown["how"] == "host"
    assert shown["host"].startswith("host-") and shown["detail"].startswith("text-")
    assert {liveness.value for liveness in Liveness} <= WORDS


def test_a_run_that_was_recorded_later_keeps_the_names_of_its_details() -> None:
    code = ast.parse((Path(leasebook.__file__).parent / "run" / "executing.py").read_bytes())
    spooled = next(
        node
        for node in ast.walk(code)
        if isinstance(node, ast.FunctionDef) and node.name == "_spool_unrecorded"
    )
    entry = next(node for node in ast.walk(spooled) if isinstance(node, ast.Dict))
    names = {key.value for key in entry.keys if isinstance(key, ast.Constant)}
    assert "started_at" in names and names - {"kind"} <= KEYS


def test_correction_of_imported_history_is_told_in_its_own_words() -> None:
    """Records that contradict one another, so that history corrects all that it can correct."""
    log = MemoryLog()
    writer = Writer(log, clock=Clock())
    begin(log, "L", writer)
    nodes = (NodeSpec("n1", {"cpu": 64_000}), NodeSpec("n2", {"cpu": 64_000}))
    writer.execute(OpenPool(command_id="o", pool="jobs", nodes=nodes, kind="observed"))
    asked = Request({"cpu": 1000}, ttl_ns=SECOND)

    def fact(**told: Any) -> Fact:
        return Fact(key="k", tenant="ann", holder=told.pop("holder", "eve"), request=asked, **told)

    day = 86_400 * SECOND
    on = {n: (Placement(n, {"cpu": 1000}, {"cpu": 1000}),) for n in ("n1", "n2")}
    told = [
        fact(seen_from=day + 50, seen_until=day + 60, task="t", placements=on["n1"]),
        fact(seen_from=day + 40, seen_until=day + 60, task="u"),
        fact(requested_at=day, began_at=day + 20, ended_at=day + 99, ended_by="crashed"),
        fact(requested_at=day + 1, began_at=day + 21, ended_at=day + 98, placements=on["n2"]),
        fact(holder="bob", began_at=day + 22, ended_at=day + 97, ended_by="forced"),
    ]
    for number, one in enumerate(told):
        writer.execute(RecordFacts(command_id=f"f{number}", pool="jobs", facts=(one,)))
    said: set[str] = set()
    for row in log.read():
        if row.type == "corrected":
            body, hidden = from_row(row).body, from_row(NAMES.row(row)).body
            assert isinstance(body, Corrected) and isinstance(hidden, Corrected)
            assert hidden.facts.keys() == body.facts.keys()
            assert (hidden.reason, hidden.by) == (body.reason, "import")
            assert "key-" not in sentence(from_row(NAMES.row(row)))
            assert hidden.facts.get("ended_by") == body.facts.get("ended_by")
            said |= body.facts.keys()
    assert {"granted_before", "granted_at", "requested_at", "ended_at", "ended_by"} <= said
    assert {"holder", "task", "placements"} <= said


def test_reasons_are_words() -> None:
    assert {reason.value for reason in Reason} <= WORDS
