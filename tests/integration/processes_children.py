"""Real children for the tests of processes: what they do is told them line by line."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PRELUDE = """
import os, signal, sys, time
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def hear():
    return sys.stdin.readline().strip()
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""


class Child:
    """A Python process with a line to it and a line from it."""

    def __init__(self, code: str, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", PRELUDE + code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )
        self.pid = self.process.pid

    def hear(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def hear_pid(self) -> int:
        return int(self.hear()[0])

    def say(self, line: str = "go") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self) -> int:
        self.process.kill()
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(timeout=20)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        return code


@contextmanager
def child(code: str, **options: Any) -> Iterator[Child]:
    """A child that is gone afterwards, whatever happens."""
    made = Child(code, **options)
    try:
        yield made
    finally:
        made.end()


def eventually(check: Callable[[], bool], limit_s: float = 10.0) -> bool:
    """Whether ``check`` comes true; the limit is for a broken program, not for a slow machine."""
    end = time.monotonic() + limit_s
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
