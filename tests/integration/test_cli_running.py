"""``leasebook run`` on the command line: what is passed on, which code comes back, who says what."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import CommandLine


@pytest.fixture
def lb(lb: CommandLine) -> CommandLine:
    """A command line whose ledger has pool ``box`` of 4 cores."""
    lb.ok("pool", "open", "box", "cpu=4")
    return lb


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    with process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_command_gets_its_arguments_untouched_and_its_code_comes_back(lb: CommandLine) -> None:
    script = "import sys; print(sys.argv[1:]); sys.exit(3)"
    command = ["--", sys.executable, "-c", script, "--json", "--", "cpu=9", "--help"]
    code, out, err = finished(lb.process("run", "cpu=1", "--pool", "box", *command))
    assert code == 3
    assert out == "['--json', '--', 'cpu=9', '--help']\n"
    assert "exit code 3" in err
    (held,) = lb.ok("events", "--type", "allocated")["events"]
    assert (held["pool"], held["data"]["amounts"]) == ("box", {"cpu": 1000})
    assert lb.ok("list")["allocations"] == []


def test_json_account_goes_to_stderr_since_stdout_is_the_commands(lb: CommandLine) -> None:
    code, out, err = finished(
        lb.process("run", "--json", "cpu=1", "--pool", "box", "--", "echo", "hello")
    )
    assert (code, out) == (0, "hello\n")
    account = json.loads(err.splitlines()[-1])
    assert account["exit_code"] == 0
    assert account["allocation"]["fencing_token"] is None


def test_refused_run_exits_with_124_and_starts_nothing(lb: CommandLine, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    code, out, err = finished(
        lb.process("run", "cpu=100", "--pool", "box", "--", "touch", str(proof))
    )
    assert (code, out) == (124, "")
    assert err.startswith("leasebook: ")
    assert not proof.exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("run",), 125),
        (("run", "cpu=1"), 125),
        (("run", "--"), 125),
        (("run", "--no-such-option", "--", "true"), 125),
        (("run", "cpu=-1", "--", "true"), 125),
        (("run", "--select", "nothing", "--", "true"), 125),
        (("run", "--wait", "soon", "--", "true"), 125),
        (("run", "--", "/"), 126),
        (("run", "--", "no-such-command-anywhere"), 127),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_own_failures_have_codes_that_no_command_is_blamed_for(
    lb: CommandLine, arguments: tuple[str, ...], code: int
) -> None:
    done, out, err = finished(lb.process(*arguments))
    assert (done, out) == (code, "")
    assert len(err.splitlines()) == 1 and err.startswith("leasebook: ")
