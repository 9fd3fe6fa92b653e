"""``leasebook demo``: a fleet of real processes competes for a pool of this machine, and all shows.

``fleet`` is the script and the processes, ``workers`` what each of them does, ``telling`` what is
said of it. Nothing is acted: the processes are real, and every figure comes from the ledger's log.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ledger.errors import LimitExceeded

if TYPE_CHECKING:
    from leasebook.demo.telling import Telling
    from leasebook.manager import ResourceManager

POOL: Final = "demo"
LEDGER: Final = "demo.db"
POOLS_MAX: Final = 10_000
PASSED: Final = 0
UNPROVEN: Final = 6


def main(where: str | None = None, quick: bool = False, as_json: bool = False) -> int:
    """Play the demo on the ledger at ``where`` (else its own beside the user's); the exit code.

    With ``as_json`` one document goes to stdout and the progress to stderr. 0 when all went as it
    should and the log was proven whole, 6 when it was not. Raises LeasebookError, KeyboardInterrupt,
    SystemExit (SIGTERM, SIGHUP: 128 + n); no process and no open pool is left behind either way.
    """
    import sys

    from leasebook import open as open_ledger
    from leasebook.demo.telling import Telling, facts, tables
    from leasebook.settings import state_directory

    telling = Telling(sys.stderr if as_json else sys.stdout)
    with open_ledger(where or str(state_directory() / LEDGER)) as manager, _ending_on_term():
        after = manager.ledger.writer.read(lambda book, now: book.position)
        pool = _play(manager, after, quick, telling)
        found = facts(manager, pool, after)
    if as_json:
        from leasebook.cli.session import print_json

        print_json(found)
    else:
        telling.plain("\n" + tables(found))
    return PASSED if found["verify"]["ok"] else UNPROVEN


@contextlib.contextmanager
def _ending_on_term() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the demo as Ctrl-C does, so that it sees its processes home.

    What is ignored, as SIGHUP under ``nohup``, stays ignored.
    """
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    ours = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = [(number, signal.signal(number, stop)) for number in ours]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _play(manager: ResourceManager, after: int, quick: bool, telling: Telling) -> str:
    """Open a pool, play, close it; its name."""
    from leasebook.demo.fleet import Fleet, play
    from leasebook.demo.telling import place_of

    telling.note(f"the ledger is {place_of(manager)}")
    pool = _open_pool(manager)
    with Fleet(manager, pool, after, telling) as fleet:
        fleet.start(quick)
        play(fleet, telling)
    return pool


def _open_pool(manager: ResourceManager) -> str:
    """Open a pool of this machine under a name that this ledger has not had yet."""
    import os

    from leasebook.run.sizing import machine_pool
    from ledger.errors import Reason, Refused
    from ledger.requests import NodeSpec

    capacity, basis = machine_pool()
    node = os.uname().nodename.strip()[:200]
    spec = NodeSpec(node if node.isprintable() and node else POOL, capacity)
    taken = manager.ledger.writer.read(lambda book, now: set(book.pools))
    for number in range(1, POOLS_MAX):
        name = POOL if number == 1 else f"{POOL}-{number}"
        if name in taken:
            continue
        try:
            manager.open_pool(name, nodes=[spec], basis=basis)
        except Refused as refusal:
            # Another demo on this ledger may have been quicker.
            if refusal.reason is not Reason.ALREADY_EXISTS:
                raise
        else:
            return name
    raise LimitExceeded(
        f"this ledger has had {POOLS_MAX} pools of the demo", "give another with --ledger"
    )
