"""The code that goes into a bundle: what the check imports, found by following its imports.

No list is kept by hand, so that none can fall behind. Only what is imported when a module is loaded
counts: what a function imports for itself (a cipher, a database) is not needed to check a bundle.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from ledger.errors import LedgerUnavailable
from reports.incidents.container import SCRIPT
from reports.incidents.script import START

FIRST = "reports.incidents.script"
REPLACED = {"orjson": "reports.incidents.bare_orjson"}
"""Modules that are no part of the standard library, and what stands in for them."""
_OURS = frozenset({"ledger", "projections", "reports"})


def sources() -> list[tuple[str, bytes]]:
    """Name in the zip → source of every module that the check needs, the first to run in front."""
    found: dict[str, bytes] = {}
    waiting = [FIRST]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            continue
        if top not in _OURS and name not in REPLACED:
            raise LedgerUnavailable(
                f"the check of a bundle would need {name}, which a bare Python has not",
                "this is a fault in the program; please report it",
            )
        path = _path(REPLACED.get(name, name))
        source = path.read_bytes()
        in_zip = name.replace(".", "/")
        found[in_zip + ("/__init__.py" if path.name == "__init__.py" else ".py")] = source
        waiting += _imports(ast.parse(source))
        if "." in name:
            waiting.append(name.rpartition(".")[0])
    return [(SCRIPT, START), *sorted(found.items())]


def _path(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise LedgerUnavailable(
            f"the source of {name} is not installed, and a bundle carries it along",
            "install leasebook with its sources",
        )
    return Path(spec.origin)


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _imports(tree: ast.Module) -> Iterator[str]:
    """The modules that a module imports when it is loaded."""
    for node in _loaded(tree.body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0, "the house imports by full names"
            yield node.module
            if node.module.partition(".")[0] in _OURS:
                whole = (f"{node.module}.{alias.name}" for alias in node.names)
                yield from filter(_is_module, whole)


def _loaded(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when a module is loaded, without what only a type checker reads."""
    for node in body:
        if isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from _loaded(node.body)
            yield from _loaded(node.orelse)
        elif isinstance(node, ast.Try):
            yield from _loaded([*node.body, *node.orelse, *node.finalbody])
            for handler in node.handlers:
                yield from _loaded(handler.body)
        else:
            yield node
