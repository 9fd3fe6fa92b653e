"""The doctor's checks of a ledger's surroundings: other ledgers, groups, sandbox, packages."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from leasebook.doctor.finding import Finding, Level, size
from leasebook.when import rfc3339

HOMES_MAX: Final = 2_000
"""How many users' homes are looked into: a directory service may know far more."""

MACHINE_LEDGER: Final = Path("/var/lib/leasebook/ledger.db")

FIRST_PID_NAMESPACE: Final = "4026531836"
"""The inode of the pid namespace that the machine started with (PROC_PID_INIT_INO, Linux)."""


def packages() -> Iterator[Finding]:
    """Whether another package bears the name of one of ours."""
    from leasebook.guard import ForeignPackage, check_packages

    try:
        check_packages()
    except ForeignPackage as error:
        yield Finding("packages", "bad", str(error))
    else:
        home = Path(__file__).parents[2]
        yield Finding("packages", "ok", f"Leasebook's own packages are used, from {home}")


# --- other ledgers -------------------------------------------------------------------------------


def other_ledgers(path: Path, homes: Iterable[tuple[str, Path]] | None = None) -> Iterator[Finding]:
    """Ledgers that this machine's users have: two that hand out one machine know not each other.

    ``homes`` are users with their home folders, by default those of the user database. Homes that
    cannot be read, or lie on a network, are named.
    """
    own = os.path.realpath(path)
    found: list[dict[str, Any]] = []
    hidden: list[str] = []
    for who, place, why_not in _candidates(users() if homes is None else homes):
        if why_not is not None:
            hidden.append(f"{place} ({why_not})")
            continue
        try:
            at = place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            hidden.append(f"{place} ({error.strerror})")
            continue
        real = os.path.realpath(place)
        if real != own and all(real != one["path"] for one in found):
            written = rfc3339(at.st_mtime_ns)
            found.append({"user": who, "path": real, "bytes": at.st_size, "written_at": written})
    for one in found:
        yield Finding(
            "other ledgers",
            "note",
            f"{one['user']} has a ledger at {one['path']}, {size(one['bytes'])}, last written"
            f" {one['written_at']}: what it hands out, this one does not know",
            "let both use one ledger (LEASEBOOK_LEDGER) if they hand out the same machine",
            one,
        )
    if hidden:
        listed = ", ".join(hidden[:5]) + (f" and {len(hidden) - 5} more" if len(hidden) > 5 else "")
        hint = "run doctor as root to look there"
        said = f"could not be looked at: {listed}"
        yield Finding("other ledgers", "note", said, hint, {"unreadable": hidden})
    if not found and not hidden:
        yield Finding("other ledgers", "ok", "no other user of this machine has a ledger")


def users() -> list[tuple[str, Path]]:
    """The users of this machine with their home folders, the first :data:`HOMES_MAX`."""
    import pwd

    entries = islice(iter(pwd.getpwall()), HOMES_MAX)
    return [(entry.pw_name, Path(entry.pw_dir)) for entry in entries if entry.pw_dir]


def _candidates(homes: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, Path, str | None]]:
    """(user, where a ledger would lie, why nobody may look there or None), each place once."""
    from leasebook.settings import state_directory
    from ledger.filesystem import MOUNTS, is_network, kind_in

    try:
        table = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        table = ""
    yield "the machine", MACHINE_LEDGER, None
    yield "this user", state_directory() / "ledger.db", None
    seen: set[Path] = set()
    for who, home in homes:
        if home in seen or not home.is_absolute():
            continue
        seen.add(home)
        # A home that is served over a network may hang whoever looks, so the mount table is asked.
        kind = kind_in(table, str(home))
        away = kind == "autofs" or is_network(kind)
        place = home / ".local" / "state" / "leasebook" / "ledger.db"
        yield who, place, f"on {kind}" if away else None


# --- control groups ------------------------------------------------------------------------------


def control_groups() -> Iterator[Finding]:
    """What this machine leaves to us, and whether `leasebook run` can enforce limits.

    That is tried with a group that is removed at once, as nothing else tells for sure.
    """
    from scheduler.processes.cgroup import limits, machine_capacity
    from scheduler.processes.enclosure import Enclosure, EnclosureUnavailable

    limited = limits()
    capacity = machine_capacity()
    facts: dict[str, Any] = {
        "version": limited.version,
        "cpu_milli": capacity.cpu_milli,
        "cpu_basis": capacity.cpu_basis,
        "memory_bytes": capacity.memory_bytes,
        "memory_basis": capacity.memory_basis,
        "enforces": [],
        "missing": {},
    }
    said = (
        f"{'no control groups' if limited.version is None else f'version {limited.version}'};"
        f" {capacity.cpu_milli / 1000:g} processors ({capacity.cpu_basis}),"
        f" {size(capacity.memory_bytes)} ({capacity.memory_basis})"
    )
    level: Level = "note"
    hint = "`leasebook run` measures all the same, and says that its limits are advisory"
    try:
        with Enclosure.create(f"doctor-{os.getpid()}", 1000, 64 * 2**20) as enclosure:
            facts["enforces"] = sorted(enclosure.enforces)
            facts["missing"] = dict(enclosure.missing)
    except EnclosureUnavailable as error:
        said += f"; limits cannot be enforced: {error.reason}"
    else:
        said += f"; {' and '.join(facts['enforces'])} limits can be enforced"
        for what, why in facts["missing"].items():
            said += f"; {what} limits cannot: {why}"
        if not facts["missing"]:
            level, hint = "ok", ""
    yield Finding("cgroup", level, said, hint, facts)


# --- the sandbox ---------------------------------------------------------------------------------


def sandbox(folder: Path) -> Iterator[Finding]:
    """What this process may not do or see: write the ledger's folder, look at other processes."""
    yield _writing(folder)
    yield from _seeing()
    status = _status()
    seccomp = {"0": "off", "1": "strict", "2": "filter"}.get(status.get("Seccomp", ""), "unknown")
    no_new = {"0": False, "1": True}.get(status.get("NoNewPrivs", ""))
    facts = {"seccomp": seccomp, "no_new_privs": no_new}
    if seccomp in ("off", "unknown") and not no_new:
        yield Finding(
            "sandbox", "ok", f"system calls are not filtered (seccomp {seccomp})", "", facts
        )
        return
    said = f"seccomp {seccomp}" + (", no new privileges" if no_new else "")
    yield Finding("sandbox", "note", f"this process is confined: {said}", "", facts)


def _writing(folder: Path) -> Finding:
    """Whether a file can be made in a folder, or where it would be made. It leaves none behind."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    facts = {"path": str(folder), "tried": str(place)}
    try:
        _try_to_write(place)
    except OSError as error:
        said = f"nothing can be written in {place} ({error.strerror})"
        hint = "let the sandbox write there, or name another ledger (LEASEBOOK_LEDGER)"
        return Finding("sandbox", "bad", said, hint, facts)
    return Finding("sandbox", "ok", f"{place} can be written", "", facts)


def _try_to_write(folder: Path) -> None:
    """Make a file without a name, which is gone when it is closed. Raises OSError.

    Asking for permission is not enough: some sandboxes grant it and refuse the act.
    """
    import tempfile

    nameless = getattr(os, "O_TMPFILE", None)
    if nameless is not None:
        with contextlib.suppress(IsADirectoryError):
            try:
                os.close(os.open(folder, nameless | os.O_WRONLY | os.O_CLOEXEC, 0o600))
                return
            except OSError as error:
                # Not every file system can; the errors of a sandbox are real ones.
                if error.errno not in _UNSUPPORTED:
                    raise
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".leasebook-doctor-"):
        pass


def _unsupported() -> frozenset[int]:
    import errno

    return frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.EISDIR})


_UNSUPPORTED: Final = _unsupported()


def _seeing() -> Iterator[Finding]:
    """Whether other processes can be judged from here."""
    from scheduler.processes.identity import pid_namespace
    from scheduler.processes.procfs import proc_shows_our_namespace

    namespace = pid_namespace()
    options = _proc_options()
    hidden = options.get("hidepid", "0") not in ("0", "off")
    facts = {"pid_namespace": namespace or None, "hidepid": options.get("hidepid")}
    if not proc_shows_our_namespace():
        yield Finding(
            "sandbox",
            "warn",
            "/proc is missing or another pid namespace's: no holder's process can be judged here",
            "mount /proc for this namespace; until then leases are by ttl, with heartbeats",
            facts,
        )
    elif hidden and os.geteuid() != 0:
        said = f"/proc hides other users' processes (hidepid={options['hidepid']})"
        hint = "sweeps see this user's processes only: run them as root to see all"
        yield Finding("sandbox", "note", said, hint, facts)
    elif namespace and namespace != FIRST_PID_NAMESPACE:
        said = (
            "this is a pid namespace of its own: processes outside are judged by heartbeats alone"
        )
        yield Finding("sandbox", "note", said, "", facts)
    else:
        yield Finding("sandbox", "ok", "all processes of this machine can be seen", "", facts)


def _status() -> dict[str, str]:
    """The fields of ``/proc/self/status``; empty where there is none."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name: value.strip() for name, _, value in pairs}


def _proc_options(mounts: Path | None = None) -> dict[str, str]:
    """The mount options of ``/proc`` that have a value (``hidepid``); of several, the last's."""
    from ledger.filesystem import MOUNTS

    options: dict[str, str] = {}
    try:
        lines = (mounts or MOUNTS).read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return options
    for line in lines:
        head, _, tail = line.partition(" - ")
        columns, rest = head.split(" "), tail.split(" ")
        if len(columns) > 5 and columns[4] == "/proc" and rest[0] == "proc":
            given = f"{columns[5]},{rest[-1]}".split(",")
            options = dict(one.split("=", 1) for one in given if "=" in one)
    return options


# --- start-up ------------------------------------------------------------------------------------


def bytecode() -> Iterator[Finding]:
    """Whether our modules lie compiled: without that, every command compiles them anew."""
    import importlib.util

    home = Path(__file__).parents[2]
    modules = [home / "ledger" / "writer.py", home / "leasebook" / "settings.py"]
    cached = [Path(importlib.util.cache_from_source(str(module))) for module in modules]
    compiled = all(
        cache.exists() and cache.stat().st_mtime >= module.stat().st_mtime
        for cache, module in zip(cached, modules, strict=True)
        if module.exists()
    )
    facts = {"compiled": compiled, "dont_write_bytecode": sys.dont_write_bytecode}
    if compiled:
        yield Finding("bytecode", "ok", "Leasebook's modules are compiled", "", facts)
        return
    why = ""
    if sys.dont_write_bytecode:
        why = ", and this Python writes none (PYTHONDONTWRITEBYTECODE)"
    folders = " ".join(str(home / name) for name in ("ledger", "projections", "reports"))
    folders += f" {home / 'scheduler'} {home / 'leasebook'}"
    yield Finding(
        "bytecode",
        "note",
        f"Leasebook's modules lie there without bytecode{why}: every command starts slower",
        f"{sys.executable} -m compileall -q {folders}",
        facts,
    )
