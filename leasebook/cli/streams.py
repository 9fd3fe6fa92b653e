"""stdout and stderr as they are: in any encoding, closed, or where nothing can be written.

An answer that does not fit a stream's encoding comes out escaped: what was decided stands by then, and
must be told in some way. An answer that cannot be written at all is a failure of its own.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import IO, Any

_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")


class Unwritten(OSError):
    """stdout did not take an answer; ``errno`` and ``strerror`` are the system's."""


class _Stdout(io.FileIO):
    """The file under stdout, which tells its own faults from those of every other file."""

    def write(self, data: Any, /) -> int:
        """As of any file. Raises Unwritten, BrokenPipeError."""
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Unwritten(error.errno, error.strerror) from None


@contextlib.contextmanager
def made_ready() -> Iterator[None]:
    """Within it stdout and stderr take every character, stderr is there, and faults of stdout show."""
    out, err = sys.stdout, sys.stderr
    sys.stdout = _watched(out)
    if err is None:
        # Without it, print would write what is meant for stderr to stdout.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        if sys.stdout is not out and sys.stdout is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
        sys.stdout, sys.stderr = out, err


def _watched(out: Any) -> Any:
    """stdout on a file of ours, where it is a file; else as it is."""
    buffer = getattr(out, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, io.FileIO) or isinstance(raw, _Stdout):
        return out
    out.flush()
    ours = _Stdout(raw.fileno(), "wb", closefd=False)
    # Unbuffered (PYTHONUNBUFFERED) it was the file itself.
    below: Any = ours if raw is buffer else io.BufferedWriter(ours)
    return io.TextIOWrapper(
        below,
        encoding=out.encoding,
        errors=out.errors,
        newline="\n",
        line_buffering=out.line_buffering,
        write_through=out.write_through,
    )


def say(line: str) -> None:
    """A line on stderr. Where that does not take it, there is nobody left to tell."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(line, file=sys.stderr, flush=True)


def drop_output() -> None:
    """What is left in the buffer of stdout must not be flushed to where it could not be written."""
    if sys.stdout is None:
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def fitting(text: str, stream: IO[str] | None) -> str:
    """A JSON text in characters that a stream can take: those that it cannot come out escaped."""
    if text.isascii():
        return text
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeError, LookupError):
        import json

        return _BEYOND_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)
    return text
