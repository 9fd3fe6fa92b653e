"""How a command learns its size: through the variables that tools read already.

What the user set is never overridden. A run inside a run must be able to make smaller what the
outer one set; ``LEASEBOOK_SIZED`` remembers what that was, and a variable that no longer holds it
is the user's. No token is ever passed on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from ledger.requests import Amounts, Placement

SIZED: Final = "LEASEBOOK_SIZED"
ALLOCATION: Final = "LEASEBOOK_ALLOCATION"
LEDGER: Final = "LEASEBOOK_LEDGER"
HOLDER: Final = "LEASEBOOK_HOLDER"
_WITHHELD: Final = ("LEASEBOOK_TOKEN", "LEASEBOOK_FENCING_TOKEN")

CPU_VARIABLES: Final = (
    "BLIS_NUM_THREADS",
    "CARGO_BUILD_JOBS",
    "CMAKE_BUILD_PARALLEL_LEVEL",
    "CTEST_PARALLEL_LEVEL",
    "GOMAXPROCS",
    "JULIA_NUM_THREADS",
    "LOKY_MAX_CPU_COUNT",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "PYTEST_XDIST_AUTO_NUM_WORKERS",
    "PYTHON_CPU_COUNT",
    "RAYON_NUM_THREADS",
    "UV_CONCURRENT_BUILDS",
    "UV_CONCURRENT_INSTALLS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Variables that take a number of processors, threads or jobs."""

_MIB: Final = 1 << 20
_GO_PERCENT: Final = 90
"""Go's limit is a soft one for its heap; the rest is for what the runtime does not count."""
_NODE_PERCENT: Final = 75
"""Node's is for the old generation alone; the young one, code and buffers come on top."""


def sized_environment(
    environ: Mapping[str, str],
    amounts: Amounts,
    placements: tuple[Placement, ...],
    *,
    allocation: str | None,
    ledger: str | None,
    holder: str | None = None,
    cards_hidden: bool = False,
) -> dict[str, str]:
    """The environment of a command that holds ``amounts`` (base units) at ``placements``.

    ``cards_hidden`` says that the node has cards and none was granted: then none is shown.
    """
    env, sized = _without_sizes(environ)
    wanted = _wanted(amounts, placements, cards_hidden)
    for name, value in wanted.items():
        if name not in env:
            env[name] = sized[name] = value
    for name, extended in _extensions(env, amounts).items():
        sized[name] = extended
        env[name] = extended
    for name in (*_WITHHELD, ALLOCATION):
        env.pop(name, None)
    for name, given in ((ALLOCATION, allocation), (LEDGER, ledger), (HOLDER, holder)):
        if given is not None:
            env[name] = given
    originals = {name: [value, environ_before(environ, name)] for name, value in sized.items()}
    if originals:
        env[SIZED] = json.dumps(originals, separators=(",", ":"), sort_keys=True)
    return env


def environ_before(environ: Mapping[str, str], name: str) -> str | None:
    """What a variable held before any run touched it; None where it was not set."""
    remembered = _remembered(environ).get(name)
    if remembered is not None and environ.get(name) == remembered[0]:
        return remembered[1]
    return environ.get(name)


def _without_sizes(environ: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The environment without what an outer run put there, and an empty record of our own."""
    env = {name: value for name, value in environ.items() if name != SIZED}
    for name in _remembered(environ):
        before = environ_before(environ, name)
        if before is None:
            env.pop(name, None)
        else:
            env[name] = before
    return env, {}


def _remembered(environ: Mapping[str, str]) -> dict[str, tuple[str, str | None]]:
    """What an outer run set: name → (its value, the value before). Anything odd is ignored."""
    try:
        found = json.loads(environ.get(SIZED, "{}"))
        return {
            str(name): (str(now), None if before is None else str(before))
            for name, (now, before) in found.items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}


def cores(amounts: Amounts) -> int | None:
    """Whole processors to tell tools of, at least 1; None where none were asked for."""
    milli = amounts.get("cpu")
    return None if milli is None else max(1, milli // 1000)


def _wanted(
    amounts: Amounts, placements: tuple[Placement, ...], cards_hidden: bool
) -> dict[str, str]:
    wanted: dict[str, str] = {}
    count = cores(amounts)
    if count is not None:
        wanted.update(dict.fromkeys(CPU_VARIABLES, str(count)))
    memory = amounts.get("memory")
    if memory is not None and memory >= _MIB:
        wanted["GOMEMLIMIT"] = f"{max(1, memory * _GO_PERCENT // 100 // _MIB)}MiB"
    cards = [
        card
        for placement in placements
        for card in sorted((placement.devices or {}).get("gpu", {}), key=_as_number)
    ]
    if cards or cards_hidden:
        # CUDA counts the fastest card first unless told to count as NVML and the ledger do.
        wanted["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        wanted["CUDA_VISIBLE_DEVICES"] = ",".join(cards)
    ports = [p.node for p in placements if p.amounts.get("port") and p.node.isdecimal()]
    if ports:
        wanted["PORT"] = ports[0]
    return wanted


def _as_number(card: str) -> tuple[int, str]:
    return (int(card) if card.isdecimal() else 0, card)


def _extensions(env: Mapping[str, str], amounts: Amounts) -> dict[str, str]:
    """``MAKEFLAGS`` and ``NODE_OPTIONS`` with what they lack."""
    extended: dict[str, str] = {}
    count, memory = cores(amounts), amounts.get("memory")
    if count is not None and not has_jobs(env.get("MAKEFLAGS", "")):
        extended["MAKEFLAGS"] = with_jobs(env.get("MAKEFLAGS", ""), count)
    options = env.get("NODE_OPTIONS", "")
    if memory is not None and not re.search(r"--max[-_]old[-_]space[-_]size", options):
        mib = max(1, memory * _NODE_PERCENT // 100 // _MIB)
        extended["NODE_OPTIONS"] = f"{options} --max-old-space-size={mib}".strip()
    return extended


def has_jobs(flags: str) -> bool:
    """Whether make's flags say how many jobs: ``-j8``, ``--jobs``, a job server, or ``kj`` as make
    itself writes single letters.
    """
    words = flags.split(" -- ")[0].split()
    if words and not words[0].startswith("-") and "=" not in words[0] and "j" in words[0]:
        return True
    return any(re.match(r"-[A-Za-z]*j|--job", word) for word in words if word != "--")


def with_jobs(flags: str, count: int) -> str:
    """Make's flags with ``-jN``, before the ``--`` after which only definitions come."""
    before, dashes, definitions = flags.partition("-- ")
    if dashes and (not before or before.endswith(" ")):
        return f"{before}-j{count} -- {definitions}"
    # A definition alone comes after a -- that make leaves out when it reads its own variable.
    return f"-j{count} {flags}" if "=" in flags.split(" ")[0] else f"{flags} -j{count}".strip()
