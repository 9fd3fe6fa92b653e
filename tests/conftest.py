"""What every test stands on: no ledger of the machine's user is ever touched, and hypothesis is
steady by default (HYPOTHESIS_PROFILE=explore or soak looks further)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.command_line import CommandLine

# A noisy machine makes slow examples, not wrong ones: neither deadlines nor health checks of time.
settings.register_profile(
    "steady",
    derandomize=True,
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "explore", settings.get_profile("steady"), derandomize=False, max_examples=400, print_blob=True
)
settings.register_profile("soak", settings.get_profile("explore"), max_examples=4000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests may themselves run under `leasebook run` or beside a configured ledger: neither shows
    in here, and what would go into the user's folders goes into a temporary one."""
    folder = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LEASEBOOK_")]:
            patch.delenv(name)
        for kind in ("STATE", "CONFIG", "CACHE", "DATA"):
            patch.setenv(f"XDG_{kind}_HOME", str(folder / kind.lower()))
        yield


@pytest.fixture
def lb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    """A command line in an empty folder, on a ledger that is not there yet; the holder is ``me``.

    Files whose tests begin with something in the ledger have a fixture of this name on top of it.
    """
    ledger = tmp_path / "ledger.db"
    monkeypatch.setenv("LEASEBOOK_LEDGER", str(ledger))
    monkeypatch.setenv("LEASEBOOK_HOLDER", "me")
    monkeypatch.chdir(tmp_path)
    return CommandLine(ledger, capsys)
