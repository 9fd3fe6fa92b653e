"""The house's order, read from the source: purity of the decisions, names, first lines.

That imports between the five packages go one way is import-linter's check (`make lint`).
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

import ledger

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ledger", "projections", "reports", "scheduler", "leasebook")

# Where decisions are made: no clock, randomness, environment or I/O (rule 1 of the design).
DECISIONS = ("ledger.decide", "ledger.book", "ledger.evolve", "ledger.rules")

# From the standard library the pure part takes only what computes. Clocks, randomness, files,
# processes, threads, locales and logging are all outside of this list.
# fmt: off
PURE_STDLIB = frozenset({
    "__future__", "abc", "base64", "binascii", "bisect", "collections", "contextlib", "copy",
    "dataclasses", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "hmac", "itertools",
    "json", "math", "numbers", "operator", "re", "string", "struct", "types", "typing",
})
# fmt: on
# Of the dependencies: canonical JSON, and arithmetic on whole columns; both are functions of their
# arguments. numpy serves a cache (`ledger.rules.tables`) that changes no decision.
PURE_DEPENDENCIES = frozenset({"numpy", "orjson"})
# Builtins that reach outside, or whose result differs from process to process (hash of a str, id).
IMPURE_BUILTINS = frozenset({"open", "print", "input", "exec", "eval", "__import__", "hash", "id"})
# It writes initialisers as source, from the fields of our own classes and nothing else, and is where
# values get their __hash__.
EXCUSED = {("ledger.quick", "exec"), ("ledger.quick", "hash")}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def nodes_at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but what only the type checker sees."""
    for child in ast.iter_child_nodes(tree):
        if _is_type_checking(child):
            assert isinstance(child, ast.If)
            for other in child.orelse:
                yield other
                yield from nodes_at_run_time(other)
            continue
        yield child
        yield from nodes_at_run_time(child)


def imports_of(name: str, source: str) -> set[str]:
    """The modules that a module imports anywhere in it, as full names."""
    found: set[str] = set()
    is_package = name in MODULES and MODULES[name].name == "__init__.py"
    for node in nodes_at_run_time(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            # `from ledger import amounts` imports a module, `from ledger.amounts import X` a name.
            members = {f"{base}.{alias.name}" for alias in node.names}
            found |= (members & MODULES.keys()) or {base}
    return found


def impurities(name: str, source: str) -> list[str]:
    """What in this source is neither a computation nor a module of the ledger."""
    problems = []
    for imported in sorted(imports_of(name, source)):
        top = imported.split(".")[0]
        if top != "ledger" and top not in PURE_STDLIB | PURE_DEPENDENCIES:
            problems.append(f"{name} imports {imported}")
    for node in nodes_at_run_time(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in IMPURE_BUILTINS
            and (name, node.func.id) not in EXCUSED
        ):
            problems.append(f"{name}:{node.lineno} calls {node.func.id}()")
    return problems


def reachable(starts: set[str]) -> set[str]:
    """The ledger's modules that these import, directly or through each other."""
    seen: set[str] = set()
    waiting = list(starts)
    while waiting:
        name = waiting.pop()
        if name in seen or name not in MODULES:
            continue
        seen.add(name)
        waiting += [m for m in imports_of(name, MODULES[name].read_text()) if m != "ledger"]
    return seen


def decision_modules() -> set[str]:
    return {
        name
        for name in MODULES
        for room in DECISIONS
        if name == room or name.startswith(room + ".")
    }


@pytest.mark.parametrize("room", DECISIONS)
def test_the_room_of_decisions_exists(room: str) -> None:
    assert room in MODULES


def test_decisions_and_all_that_they_import_are_pure() -> None:
    modules = reachable(decision_modules())
    problems = [p for name in sorted(modules) for p in impurities(name, MODULES[name].read_text())]
    assert problems == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from datetime import datetime",
        "import os.path",
        "import sqlite3",
        "from random import choice",
        "from uuid_utils import uuid7",
        "import threading",
        "def f():\n    import secrets",
        "x = open('f')",
        "x = hash('a')",
        "from scheduler.sweeps import sweep",
    ],
)
def test_the_check_of_purity_sees(source: str) -> None:
    assert impurities("ledger.decide", source)


@pytest.mark.parametrize(
    "source",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from datetime import datetime",
        "from ledger.amounts import Amounts\nimport math",
        "x = event.hash(1)",
    ],
)
def test_the_check_of_purity_lets_pass(source: str) -> None:
    assert impurities("ledger.decide", source) == []


def dependencies() -> set[str]:
    """The import names of everything that pyproject.toml declares, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(chain(project["dependencies"], *project["optional-dependencies"].values()))
    matches = [re.match(r"[A-Za-z0-9._-]+", line) for line in lines]
    declared = {re.sub(r"[-_.]+", "-", m.group()).lower() for m in matches if m}
    names = {name.replace("-", "_") for name in declared}
    for module, distributions in packages_distributions().items():
        if declared & {re.sub(r"[-_.]+", "-", d).lower() for d in distributions}:
            names.add(module)
    return names


def test_no_module_has_the_name_of_a_dependency_or_of_a_standard_one() -> None:
    taken = dependencies() | sys.stdlib_module_names
    assert {"sqlite3", "click", "apscheduler", "uuid_utils"} <= taken
    clashes = [
        name for name in MODULES if (last := name.split(".")[-1]) in taken and last[0] != "_"
    ]
    assert clashes == []


@pytest.mark.parametrize("package", PACKAGES)
def test_package_names_leasebook_in_its_first_lines(package: str) -> None:
    """By this the guard tells our packages from foreign ones that were installed over them."""
    assert "Leasebook" in MODULES[package].read_text()[:1000]


def test_every_module_says_what_lives_there() -> None:
    silent = [
        name for name, path in MODULES.items() if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def _imports_within_ledger(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module in ("ledger", "ledger.rules"):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ledger."):
            found.add((node.module or "").rpartition(".")[2])
    return found


def test_the_reading_order_of_the_ledger_names_every_module_once_and_after_what_it_imports() -> (
    None
):
    files = {f.stem: f for f in (ROOT / "ledger").rglob("*.py") if f.stem != "__init__"}
    _, _, listed = (ledger.__doc__ or "").partition("Reading order")
    rooms = re.findall(r":\s([a-z_,;\s]+)\.", listed)
    order = [name for room in rooms for name in re.findall(r"\w+", room)]
    assert sorted(order) == sorted(files)
    place = {name: number for number, name in enumerate(order)}
    for name, file in files.items():
        for other in _imports_within_ledger(file):
            assert place[other] < place[name], f"{name} imports {other}, which stands later"
