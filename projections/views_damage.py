"""When ``NAME.views.db`` is damaged: how that shows, what is said of it, and taking the file away.

Nothing is lost by that: all that is in it can be made anew from the log.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ledger.errors import LeasebookError, LedgerCorrupt, LedgerReadOnly, LedgerUnavailable
from ledger.forks import no_fork
from ledger.sqlite_driver import DRIVER_ERRORS, connect, translate
from ledger.sqlite_file import needs_immutable


class ViewsDamaged(LedgerUnavailable):
    """The file of the projections is damaged. The log is not concerned, and it can be made anew."""


MAKE_ANEW = "run `leasebook projections rebuild`: it is made anew from the log"


@contextmanager
def speaking_of(path: Path) -> Iterator[None]:
    """The driver's errors leave as the house's, with what to do about a file that can be made anew."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise _translated(error, path) from error
    except OSError as error:
        raise LedgerReadOnly(
            f"{path} cannot be written ({error.strerror or error})",
            "check the permissions of the file and its folder",
        ) from error


def _translated(error: Exception, path: Path) -> LeasebookError:
    found = translate(error, path)
    if isinstance(found, LedgerCorrupt):
        return ViewsDamaged(f"{path} is damaged ({error})", MAKE_ANEW)
    return found


_GONE = ".leasebook-gone/none"
"""Where a link leads that stands in the place of a damaged file while that is being taken away."""


def require_place(path: Path) -> None:
    """Raise ViewsDamaged where whoever took a damaged file away was broken off in between."""
    try:
        gone = os.readlink(path) == _GONE
    except OSError:
        # It is a file, as it should be, or nothing yet.
        return
    if gone:
        raise ViewsDamaged(f"{path} is damaged (it was to be made anew)", MAKE_ANEW)


def damage(path: Path) -> str | None:
    """What is wrong with the file as a database, None where nothing is or it is not there.

    Looks at every page, and writes nothing. Raises LedgerUnavailable where it cannot be looked at.
    """
    try:
        require_place(path)
        if not path.exists():
            return None
        with speaking_of(path), no_fork():
            immutable = needs_immutable(path)
            with contextlib.closing(connect(path, read_only=True, immutable=immutable)) as views:
                ((found,),) = views.execute("PRAGMA quick_check(1)").fetchall()
    except ViewsDamaged as error:
        return error.message
    except LedgerUnavailable:
        if path.exists():
            raise
        # Somebody has taken it away at this moment.
        return None
    return None if found == "ok" else f"{path} is damaged ({' '.join(str(found).split())})"


def discard(path: Path) -> None:
    """Take a damaged file away, with its write-ahead log and its index.

    Others may have it open, or open it at this moment. Those that have it go on with what was here,
    and notice at their next turn. A new file must never meet the old log, which SQLite would take for
    its own: so until that is gone a link that leads nowhere stands in the file's place.
    """
    real = Path(os.path.realpath(path)) if path.exists() else path
    with speaking_of(path):
        link = real.with_name(f"{real.name}.{os.getpid()}.{threading.get_ident()}.gone")
        os.symlink(_GONE, link)
        os.replace(link, real)
        for suffix in ("-wal", "-shm", "-journal"):
            real.with_name(real.name + suffix).unlink(missing_ok=True)
        real.unlink(missing_ok=True)
