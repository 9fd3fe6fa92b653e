"""Settings: which ledger, and who is calling, where nobody says so."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ledger.errors import InvalidInput

CONFIG_NAME = "leasebook.toml"
MACHINE_CONFIG = Path("/etc/leasebook/leasebook.toml")
LOCAL_POOL = "local"
DEFAULT_TTL_NS = 15 * 60 * 1_000_000_000


def state_directory() -> Path:
    """Where a user's ledger lies unless they say otherwise (XDG base directories)."""
    base = os.environ.get("XDG_STATE_HOME")
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "state"
    return root / "leasebook"


def key_directory() -> Path:
    """Where the keys that sign checkpoints lie, readable by their owner only."""
    return state_directory() / "keys"


def _from_config(path: Path) -> str | None:
    """The ledger that a configuration file names; a relative one is beside the file."""
    import tomllib

    try:
        settings = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}", "mend the file") from None
    ledger = settings.get("ledger")
    if ledger is None:
        return None
    if not isinstance(ledger, str) or not ledger:
        raise InvalidInput(
            f"{path} gives {ledger!r} as its ledger, which is no path", 'write ledger = "path"'
        )
    return ledger if "://" in ledger else str(path.parent / Path(ledger).expanduser())


def which_ledger(given: str | None = None) -> str:
    """The ledger to use: as given, else ``$LEASEBOOK_LEDGER``, else ``leasebook.toml`` from here
    upwards, else the machine's configuration, else one file under the user's state directory.
    """
    found = given or os.environ.get("LEASEBOOK_LEDGER")
    if found:
        return found
    here = Path.cwd()
    for path in [*(folder / CONFIG_NAME for folder in (here, *here.parents)), MACHINE_CONFIG]:
        if path.is_file():
            found = _from_config(path)
            if found:
                return found
    return str(state_directory() / "ledger.db")


def ledger_path(where: str) -> Path:
    """The path that a ledger's name stands for. Raises InvalidInput for an address."""
    for scheme in ("postgresql://", "postgres://", "http://", "https://"):
        if where.startswith(scheme):
            raise InvalidInput(
                f"this version opens ledgers in files only, not {scheme}…", "give a path"
            )
    if not where or "\0" in where:
        raise InvalidInput("an empty name is no ledger", "give a path")
    return Path(where).expanduser()


def default_holder() -> str:
    """``$LEASEBOOK_HOLDER``, else ``user@host``."""
    named = os.environ.get("LEASEBOOK_HOLDER")
    if named:
        return named
    import pwd

    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    return f"{user}@{os.uname().nodename}"


def program_name() -> str:
    """The name of this program, never its command line."""
    return Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
