"""Runs on a terminal, under a shell with job control: Ctrl-C, Ctrl-Z, fg, and pipelines."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.run_commands import SMALL, surroundings, types_in, words

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
    pytest.mark.skipif(shutil.which("bash") is None, reason="needs a shell with job control"),
]

LIMIT_S = 30.0

CATCH = """
import os, signal, sys
signal.signal(signal.SIGINT, lambda *_: os.write(1, b"caught"))
os.write(1, b"running")
os.read(0, 9)
sys.exit(6)
"""

GO_ON = """
import os, signal, sys
signal.signal(signal.SIGCONT, lambda *_: os.write(1, b"going on"))
os.write(1, b"running")
os.read(0, 9)
sys.exit(9)
"""


class Session:
    """An interactive shell on a terminal of its own."""

    def __init__(self, folder: Path) -> None:
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            env = surroundings(PS1="ready> ", HISTFILE="/dev/null", TERM="dumb")
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], env)
        self.see("ready> ")

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def see(self, wanted: str) -> str:
        """Read until ``wanted`` shows; what came up to there, which is then forgotten."""
        end = time.monotonic() + LIMIT_S
        while wanted not in self.text:
            ready, _, _ = select.select([self.fd], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{wanted!r} did not show; what did: {self.text!r}"
            try:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
            except OSError as error:
                raise AssertionError(f"the shell is gone; it said {self.text!r}") from error
        before, _, self.text = self.text.partition(wanted)
        return before

    def run(self, line: str) -> None:
        """Type a command, and see the terminal repeat it."""
        self.type(line + "\n")
        self.see("\n")

    def code(self) -> int:
        """The last command's exit code. (The mark is split, so that the echo does not show it.)"""
        self.see("ready> ")
        self.type("echo co''de=$?.\n")
        self.see("code=")
        return int(self.see("."))

    def close(self) -> None:
        try:
            os.kill(self.pid, signal.SIGHUP)
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.close(self.fd)
        os.waitpid(self.pid, 0)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path)
    try:
        yield session
    finally:
        session.close()


@pytest.fixture
def script(tmp_path: Path, book: Path) -> Iterator[str]:
    """A file that starts ``leasebook run`` with a command, as a program's name would."""
    file = tmp_path / "lrun"
    start = shlex.join(words(book, {"amounts": SMALL, "quiet": True}))
    file.write_text(f'#!/bin/sh\nexec {start} "$@"\n')
    file.chmod(0o755)
    yield "./lrun"


def test_an_interactive_command_reads_the_terminal(shell: Session, script: str) -> None:
    shell.run(f"{script} sh -c 'echo na''me; read name; echo hello $name; test -t 0 && exit 3'")
    shell.see("name")
    shell.type("ada\n")
    shell.see("hello ada")
    assert shell.code() == 3


def test_ctrl_c_reaches_the_command_and_the_end_is_recorded(
    shell: Session, script: str, book: Path
) -> None:
    shell.run(f"{script} sh -c 'echo run''ning; read word'")
    shell.see("running")
    shell.type("\x03")
    assert shell.code() == 130
    assert types_in(book)[-1] == "released"


def test_a_command_that_catches_ctrl_c_goes_on(shell: Session, script: str, tmp_path: Path) -> None:
    (tmp_path / "catch.py").write_text(CATCH)
    shell.run(f"{script} {sys.executable} -S catch.py")
    shell.see("running")
    shell.type("\x03")
    shell.see("caught")
    shell.type("\n")
    assert shell.code() == 6


def test_ctrl_z_stops_the_run_as_a_job_and_fg_goes_on(
    shell: Session, script: str, book: Path
) -> None:
    shell.run(f"{script} sh -c 'echo run''ning; read word; echo got $word; exit 8'")
    shell.see("running")
    shell.type("\x1a")
    shell.see("Stopped")
    shell.see("ready> ")
    shell.run("jobs")
    shell.see("lrun")
    assert "released" not in types_in(book), "it is held while the job is stopped"
    shell.see("ready> ")
    shell.run("fg")
    shell.type("later\n")
    shell.see("got later")
    assert shell.code() == 8


def test_a_stopped_job_can_be_stopped_again(shell: Session, script: str, tmp_path: Path) -> None:
    (tmp_path / "go_on.py").write_text(GO_ON)
    shell.run(f"{script} {sys.executable} -S go_on.py")
    shell.see("running")
    for _ in range(3):
        shell.type("\x1a")
        shell.see("Stopped")
        shell.see("ready> ")
        shell.run("fg")
        shell.see("going on")
    shell.type("end\n")
    assert shell.code() == 9


def test_a_job_in_the_background_does_not_take_the_terminal(shell: Session, script: str) -> None:
    shell.run(f"{script} sh -c 'echo back''ground; exit 5' & wait $!")
    shell.see("background")
    assert shell.code() == 5


def test_a_run_in_a_pipeline_shares_its_terminal(shell: Session, script: str) -> None:
    shell.run(f"{script} sh -c 'echo pip''ed; read word' | cat; echo after''wards")
    shell.see("piped")
    shell.type("\x03")
    assert shell.code() == 130, "Ctrl-C ends the pipeline and what stands after it"


def test_a_run_in_a_script_leaves_ctrl_c_to_the_script(
    shell: Session, script: str, tmp_path: Path
) -> None:
    outer = tmp_path / "outer"
    outer.write_text(f"#!/bin/sh\n{script} sh -c 'echo run''ning; read word'\necho went on\n")
    outer.chmod(0o755)
    shell.run("./outer")
    shell.see("running")
    shell.type("\x03")
    before = shell.see("ready> ")
    assert "went on" not in before


def test_the_terminal_is_mended_after_a_command_that_was_killed(
    shell: Session, script: str, tmp_path: Path
) -> None:
    shell.run(f"{script} sh -c 'stty -echo -icanon; kill -KILL $$'; stty -a >modes")
    shell.see("ready> ")
    assert not {"-echo", "-icanon"} & set((tmp_path / "modes").read_text().split())
