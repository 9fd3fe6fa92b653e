"""Refuses to run when a foreign package bears the name of one of Leasebook's own.

``ledger``, ``projections``, ``reports`` and ``scheduler`` are common names: the package index has
others, and so may the folder a command is started in. Code of theirs in place of ours would fail
in strange ways at best, so this is checked before the first of them is imported. For that reason
this module imports none of them, and nothing else that is slow: it runs on every start.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

OWN_PACKAGES = ("ledger", "projections", "reports", "scheduler")

# Every package of ours names the project in its docstring. A foreign one that was installed over
# ours lies in the right place, and only its content tells.
_MARK = b"Leasebook"
_MARK_WITHIN_BYTES = 2048

_ADVICE = (
    "give Leasebook a virtual environment of its own "
    "(python3 -m venv ~/.venvs/leasebook && ~/.venvs/leasebook/bin/pip install leasebook)"
)


class ForeignPackage(ImportError):
    """A package of Leasebook's is missing, or another one would be imported in its place.

    ``name`` is the package, ``path`` the file or folder that is in the way (None where the package
    is missing). The message is one line: what, why, what to do.
    """


def check_packages() -> None:
    """Raise `ForeignPackage` unless each of Leasebook's packages is the one beside `leasebook`.

    Looks each name up as an import would, without importing it, and costs well under 2 ms.
    """
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for name in OWN_PACKAGES:
        _check(name, home)


def check_packages_or_exit() -> None:
    """As `check_packages`, for programs: the message goes to stderr and the exit code is 1."""
    try:
        check_packages()
    except ForeignPackage as error:
        raise SystemExit(f"leasebook: {error}") from None


def _check(name: str, home: str) -> None:
    own = os.path.join(home, name)
    spec = _find(name)
    if spec is None:
        raise _incomplete(name, own, None)
    found, folder = _location(spec)
    if folder != own and os.path.realpath(folder) != os.path.realpath(own):
        raise ForeignPackage(
            f"a foreign package '{name}' is in the way: {found} would be imported "
            f"instead of {own}; {_ADVICE}{_advice_on_path(folder, found)}",
            name=name,
            path=found,
        )
    if not spec.has_location:
        raise _incomplete(name, own, None)
    if not _bears_mark(found):
        raise _incomplete(name, own, found)


def _find(name: str) -> ModuleSpec | None:
    """The spec that `import NAME` would use or has used."""
    module = sys.modules.get(name)
    if module is not None:
        return module.__spec__
    for finder in sys.meta_path:
        spec = finder.find_spec(name, None)
        if spec is not None:
            return spec
    return None


def _location(spec: ModuleSpec) -> tuple[str, str]:
    """The file (or folder, for a namespace) that was found, and the folder it lies in."""
    if spec.has_location and spec.origin is not None:
        return spec.origin, os.path.dirname(spec.origin)
    folders = list(spec.submodule_search_locations or ())
    folder = folders[0] if folders else str(spec.origin)
    return folder, folder


def _bears_mark(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return _MARK in file.read(_MARK_WITHIN_BYTES)
    except OSError:
        # Inside an archive there is no file to read, and nothing that could be installed over it.
        return True


def _incomplete(name: str, own: str, found: str | None) -> ForeignPackage:
    what = (
        f"{found} is not Leasebook's: another distribution was installed over it"
        if found
        else f"Leasebook's package '{name}' is missing from {own}: the installation is incomplete,"
        " or another distribution took it along when it was removed"
    )
    return ForeignPackage(f"{what}; {_ADVICE}", name=name, path=found)


def _advice_on_path(folder: str, found: str) -> str:
    """What else helps, by the search path's entry that the foreign package was found through."""
    if os.path.basename(found).startswith("__init__.") or found == folder:
        entry = os.path.dirname(folder)
    else:
        entry = folder
    listed = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if any(part and os.path.abspath(part) == entry for part in listed):
        return f" and take {entry} off PYTHONPATH"
    if not sys.flags.safe_path and entry == os.getcwd():
        return " and start the `leasebook` command, which does not look into the current folder"
    return ""
