"""Starting the command: its enclosure, its process group, and what the child does before it is it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from leasebook.run.options import cannot_start
from leasebook.run.terminal import Terminal
from ledger.requests import Amounts
from scheduler.processes.enclosure import Enclosure, EnclosureUnavailable

_PR_SET_PDEATHSIG: Final = 1
_LEFT_OVER: Final = re.compile(r"leasebook-A[0-9]+-([0-9]+)")


@dataclass(frozen=True, slots=True)
class Limits:
    """Which limits the kernel holds the command to, and why not the others.

    ``enforced`` holds ``cpu`` and ``memory`` or fewer; ``advisory`` maps a limit that was granted
    and is not enforced to the reason. ``version`` is the control groups'.
    """

    enforced: frozenset[str]
    advisory: dict[str, str]
    version: int | None = None


def enclose(allocation: str, amounts: Amounts) -> tuple[Enclosure | None, Limits]:
    """A control group for what was granted, where the system allows one."""
    wanted = {what: amounts[what] for what in ("cpu", "memory") if amounts.get(what)}
    if not wanted:
        return None, Limits(frozenset(), {})
    try:
        made = Enclosure.create(
            f"{allocation}-{os.getpid()}", wanted.get("cpu"), wanted.get("memory")
        )
    except EnclosureUnavailable as error:
        return None, Limits(frozenset(), dict.fromkeys(wanted, error.reason))
    _remove_left_over(made)
    return made, Limits(made.enforces, dict(made.missing), made.version)


def _remove_left_over(made: Enclosure) -> None:
    """Remove empty groups beside this one whose runs are gone. The kernel keeps those in use."""
    for directory in {directory.parent for directory in made.directories()}:
        with contextlib.suppress(OSError):
            for entry in os.scandir(directory):
                match = _LEFT_OVER.fullmatch(entry.name)
                if match and not os.path.exists(f"/proc/{match[1]}"):
                    with contextlib.suppress(OSError):
                        os.rmdir(entry.path)


@dataclass(slots=True)
class Command:
    """A command that was started, and the group that it is in (None: none)."""

    process: subprocess.Popen[bytes]
    enclosure: Enclosure | None
    limits: Limits


def start(
    argv: Sequence[str],
    env: Mapping[str, str],
    terminal: Terminal,
    handled: Sequence[int],
    enclosure: Enclosure | None,
    limits: Limits,
) -> Command:
    """Start the command. ``handled`` are signals to reset in it.

    Where it cannot be moved into its group it runs outside, and the limits say so. Raises
    CannotStart.
    """
    try:
        return Command(_popen(argv, env, terminal, handled, enclosure), enclosure, limits)
    except subprocess.SubprocessError:
        # Something failed in the child before the command: only the enclosure can.
        if enclosure is None:
            raise
        enclosure.remove()
        why = "the command could not be moved into its control group"
        names = sorted(limits.enforced)
        advisory = {**limits.advisory, **dict.fromkeys(names, why)}
        process = _popen(argv, env, terminal, handled, None)
        return Command(process, None, Limits(frozenset(), advisory))


def _popen(
    argv: Sequence[str],
    env: Mapping[str, str],
    terminal: Terminal,
    handled: Sequence[int],
    enclosure: Enclosure | None,
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(argv),
            env=dict(env),
            process_group=0 if terminal.own_group else None,
            preexec_fn=_preparation(terminal, handled, enclosure),
        )
    except OSError as error:
        if enclosure is not None:
            enclosure.remove()
        raise cannot_start(argv, error) from None


def _preparation(
    terminal: Terminal, handled: Sequence[int], enclosure: Enclosure | None
) -> Callable[[], None]:
    """What the child does between fork and exec. Everything it needs is looked up before.

    It joins its enclosure, so that nothing ever runs outside; takes the terminal, as its parent
    does too, so that neither has to be first; resets signals; and asks to be sent TERM when its
    parent dies, for the moment in which the guardian does not know it yet.
    """
    linux = sys.platform.startswith("linux")
    prctl = ctypes.CDLL(None).prctl if linux else None
    parent = os.getpid()

    # No coverage is written down by a process that becomes another program.
    def prepare() -> None:  # pragma: no cover
        if enclosure is not None:
            enclosure.join()
        signal.set_wakeup_fd(-1)
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
        if terminal.mode == "foreground":
            terminal.take_for(os.getpid())
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(125)

    return prepare
