"""How a replay is shown: a line for each event, or played in the terminal with the state beside it."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from leasebook.cli.session import print_json

if TYPE_CHECKING:
    from projections.travel_replay import Frame, PoolPicture

SPEED = 10.0
"""How many times as fast as it was, unless the caller says otherwise."""
GAP_S_MAX = 2.0
"""Longer than this nobody waits for the next event: the gap is cut, and the head line says so."""
BACK_MAX = 10_000
"""How many events one can go back."""
LOOK_AGAIN_S = 0.5
"""How often a replay that stands still looks whether the terminal has another size."""
ESCAPE_S = 0.05
"""How soon the rest of an arrow key comes, which begins like Escape."""

_KEYS = {
    b"\r": "next",
    b"\n": "next",
    b"\x1b[C": "next",
    b"n": "next",
    b" ": "pause",
    b"b": "back",
    b"\x1b[D": "back",
    b"\x7f": "back",
    b"q": "quit",
    b"\x1b": "quit",
    b"\x04": "quit",
    b"": "quit",
}


def print_frames(frames: Iterator[Frame], *, json: bool) -> None:
    """One line for each event, in words or as JSON."""
    if json:
        from leasebook.moments import frame_out

        for frame in frames:
            print_json(frame_out(frame))
        return
    count = 0
    for count, frame in enumerate(frames, 1):  # noqa: B007
        print(f"{event_line(frame)}  |  {state_line(frame)}")
    if not count:
        print("nothing happened in between")


def event_line(frame: Frame) -> str:
    """The event of a frame: when, at which position, what in words."""
    from leasebook.cli.text import clock_text
    from leasebook.when import rfc3339
    from projections.sentences import sentence
    from projections.wording import lasting, plain

    event = frame.event
    about = f"{event.allocation}  " if event.allocation else ""
    late = event.recorded_at - event.at
    found = ""
    if frame.at == event.recorded_at and late >= 10**9:
        found = f" ({lasting(late)} before it was written down)"
    when = clock_text(rfc3339(frame.at) or "")
    return f"{when}  #{event.position}  {about}{plain(sentence(event))}{found}"


def state_line(frame: Frame) -> str:
    """The state of a frame in a few words."""
    parts = []
    for pool in frame.pools:
        use = " ".join(f"{r} {said}" for r, said, _ in uses(pool))
        said = [use, f"{pool.held} held", f"{pool.waiting} waiting" if pool.waiting else ""]
        parts.append(f"{pool.name}: {', '.join(part for part in said if part)}")
    return "; ".join(parts) or "no pools"


def uses(pool: PoolPicture) -> Iterator[tuple[str, str, float | None]]:
    """Of each resource of a pool: its name, ``3/4`` in use, and the part of it (None: not known)."""
    from ledger.amounts import format_amounts

    names = [*pool.capacity, *(r for r in pool.in_use if r not in pool.capacity)]
    have = {r: pool.capacity.get(r, 0) for r in names}
    used = {r: pool.in_use.get(r, 0) for r in names}
    shown, of = format_amounts(used), format_amounts(have)
    for r in names:
        if r in pool.unknown:
            yield r, shown[r], None
        else:
            yield r, f"{shown[r]}/{of[r]}", used[r] / have[r] if have[r] else 0.0


# --- keys ----------------------------------------------------------------------------------------


class Keys:
    """Reads single keys from the terminal, and leaves it as it was found. Without one: no keys."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._before: list[Any] | None = None

    @property
    def are_there(self) -> bool:
        """Whether there is a keyboard."""
        return self._fd is not None

    def __enter__(self) -> Keys:
        if self._fd is not None:
            import termios
            import tty

            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._fd is not None and self._before is not None:
            import termios

            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def read(self, within_s: float) -> str | None:
        """What the next key means; None where none comes in time, or another one does."""
        if self._fd is None:
            time.sleep(within_s)
            return None
        if not self._is_ready(within_s):
            return None
        key = os.read(self._fd, 1)
        if key == b"\x1b" and self._is_ready(ESCAPE_S):
            key += os.read(self._fd, 2)
        return _KEYS.get(key)

    def _is_ready(self, within_s: float) -> bool:
        assert self._fd is not None
        return bool(select.select([self._fd], [], [], within_s)[0])


# --- playing -------------------------------------------------------------------------------------


class Player:
    """Where a replay stands: the frames that were seen, which of them is shown, and whether it runs."""

    def __init__(self, frames: Iterator[Frame], *, running: bool, speed: float) -> None:
        self._frames = frames
        self._seen: list[Frame] = []
        self._dropped = 0
        self._index = -1
        self.running = running
        self.speed = speed
        self.is_over = False
        self.cut_ns = 0
        """How much of the gap before the shown event nobody waited for."""

    @property
    def seen(self) -> list[Frame]:
        """The frames up to the shown one."""
        return self._seen[: self._index + 1]

    @property
    def number(self) -> int:
        """Which event is shown, counted from 1."""
        return self._dropped + self._index + 1

    def _fetch(self) -> Frame | None:
        """The frame after the shown one."""
        if self._index + 1 == len(self._seen):
            frame = next(self._frames, None)
            if frame is None:
                return None
            self._seen.append(frame)
            if len(self._seen) > BACK_MAX + 1:
                del self._seen[0]
                self._dropped += 1
                self._index -= 1
        return self._seen[self._index + 1]

    def forward(self) -> bool:
        """Show the next frame; False, and over, where there is none."""
        following = self._fetch()
        if following is None:
            self.is_over, self.running = True, False
            return False
        gap = following.at - self._seen[self._index].at if self._index >= 0 else 0
        self.cut_ns = max(0, gap - int(GAP_S_MAX * 1e9 * self.speed)) if self.running else 0
        self._index += 1
        return True

    def back(self) -> None:
        """Show the frame before; a running replay stops for it."""
        self.running = self.is_over = False
        self.cut_ns = 0
        self._index = max(0, self._index - 1)

    def pause_s(self) -> float:
        """How long the shown frame stands while the replay runs."""
        following = self._fetch()
        if following is None or self._index < 0:
            return 0.0
        gap_s = (following.at - self._seen[self._index].at) / 1e9
        return min(GAP_S_MAX, max(0.0, gap_s) / self.speed)


def play(frames: Iterator[Frame], *, step: bool, speed: float | None) -> None:
    """Play in the terminal until the end, or until the reader leaves. Ctrl-C leaves at once."""
    from rich.console import Console
    from rich.live import Live

    from leasebook.cli.screen import screen

    player = Player(frames, running=not step, speed=speed or SPEED)
    if not player.forward():
        print("nothing happened in between")
        return
    console = Console()
    with (
        Keys() as keys,
        Live(console=console, screen=True, auto_refresh=False, transient=True) as live,
    ):
        while True:
            with contextlib.suppress(BlockingIOError):
                live.update(screen(player, console, steps=step), refresh=True)
            if not player.running and not keys.are_there:
                break
            key = keys.read(player.pause_s() if player.running else LOOK_AGAIN_S)
            if key == "quit":
                break
            _obey(player, key, step=step)
    shown = player.seen[-1]
    print(event_line(shown))
    print(state_line(shown))
    print(f"{player.number} events played" + ("" if player.is_over else ", not to the end"))


def _obey(player: Player, key: str | None, *, step: bool) -> None:
    if key == "back":
        player.back()
    elif key == "next" or (key == "pause" and step):
        player.running = False
        player.forward()
    elif key == "pause":
        player.running = not player.running and not player.is_over
    elif key is None and player.running:
        player.forward()
