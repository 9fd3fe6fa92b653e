"""The screen of a replay: events in words on one side, pools, nodes and the queue on the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.layout import Layout
from rich.text import Text

from leasebook.cli.replaying import event_line, uses

if TYPE_CHECKING:
    from leasebook.cli.replaying import Player
    from projections.travel_replay import Frame, NodePicture, PoolPicture

BESIDE_FROM = 90
"""Columns from which on the state stands beside the events, and not above them."""
BAR_MIN, BAR_MAX = 4, 24
EVENTS_LOOKED_AT = 200


def screen(player: Player, console: Console, *, steps: bool) -> RenderableType:
    """The whole screen at the terminal's present size."""
    width, height = console.size
    frame = player.seen[-1]
    room = max(1, height - 2)
    root = Layout()
    body = Layout(ratio=1)
    if width >= BESIDE_FROM:
        left = width * 11 // 20
        body.split_row(
            Layout(_events(player, console, left - 2, room), size=left),
            Layout(_state(frame, console, width - left, room)),
        )
    else:
        state = _state(frame, console, width, max(1, room * 2 // 3))
        tall = len(state.plain.splitlines()) + 1
        events = _events(player, console, width, max(1, room - tall))
        body.split_column(Layout(state, size=min(tall, room - 1) or 1), Layout(events))
    root.split_column(
        Layout(_head(player, width), size=1), body, Layout(_foot(player, width, steps), size=1)
    )
    return root


def _line(width: int, style: str) -> Text:
    return Text(style=style, no_wrap=True, overflow="ellipsis", end="")


def _head(player: Player, width: int) -> Text:
    from leasebook.cli.text import clock_text
    from leasebook.when import rfc3339
    from projections.wording import lasting

    frame = player.seen[-1]
    line = _line(width, "bold reverse")
    line.append(f" {clock_text(rfc3339(frame.at) or '')}  event {player.number}")
    if player.is_over:
        line.append("  the end")
    elif player.running:
        line.append(f"  {player.speed:g} × as fast")
    else:
        line.append("  stopped")
    if player.cut_ns:
        line.append(f"  a gap was cut by {lasting(player.cut_ns)}")
    line.pad_right(max(0, width - line.cell_len))
    return line


def _foot(player: Player, width: int, steps: bool) -> Text:
    keys = "Enter or Space on" if steps else "Space stops and goes on, Enter one step"
    return _line(width, "dim").append(f" {keys}, b back, q quit")


def _events(player: Player, console: Console, width: int, height: int) -> Text:
    """The last events that fit, the shown one at the end."""
    seen = player.seen[-EVENTS_LOOKED_AT:]
    kept: list[Text] = []
    left = height
    for frame in reversed(seen):
        text = Text(event_line(frame), style="bold" if frame is seen[-1] else "dim")
        lines = len(text.wrap(console, max(1, width)))
        if lines > left and kept:
            break
        left -= lines
        kept.append(text)
    return Text("\n").join(reversed(kept))


def _state(frame: Frame, console: Console, width: int, height: int) -> Text:
    lines: list[Text] = []
    # The pool of the event comes first where there is not room for all.
    pools = sorted(frame.pools, key=lambda pool: pool.name != frame.event.pool)
    fair = max(3, height // max(1, len(pools)))
    for pool in pools:
        lines += _pool(pool, console, width, fair)
    for a in frame.queue:
        lines.append(_cut(f"waits: {a.id}  {a.holder}  {_amounts(a.amounts)} of {a.pool}", width))
    if len(lines) > height:
        rest = len(lines) - height + 1
        lines = [*lines[: height - 1], _cut(f"… {rest} lines more", width)]
    return Text("\n").join(lines)


def _pool(pool: PoolPicture, console: Console, width: int, height: int) -> list[Text]:
    waits = f", {pool.waiting} waiting" if pool.waiting else ""
    lines = [_cut(f"{pool.name}  {pool.held} held{waits}", width, "bold")]
    for resource, said, part in uses(pool):
        if part is None:
            lines.append(_cut(f"  {resource} {said}", width))
        else:
            lines.append(_bar_line(f"  {resource}", said, part, console, width))
    if len(pool.nodes) == 1:
        return lines
    busy = sorted(pool.nodes, key=_busy, reverse=True)
    shown = [n for n in busy if n.cordoned or any(n.in_use.values())]
    room = max(0, height - len(lines))
    for node in shown[:room]:
        if pool.unknown:
            lines.append(_cut(f"    {node.name}  {_amounts(node.in_use)}", width))
            continue
        note = " cordoned" if node.cordoned else ""
        lines.append(
            _bar_line(f"    {node.name}{note}", f"{_busy(node):.0%}", _busy(node), console, width)
        )
    return lines


def _busy(node: NodePicture) -> float:
    """The part of a node that is in use, by the resource of which the most is."""
    return max(
        (used / node.capacity[r] for r, used in node.in_use.items() if node.capacity.get(r)),
        default=float(any(node.in_use.values())),
    )


def _bar_line(name: str, said: str, part: float, console: Console, width: int) -> Text:
    names = min(max(8, width // 3), 18)
    length = max(BAR_MIN, min(BAR_MAX, width - names - len(said) - 4))
    full = round(min(1.0, part) * length)
    plain = not console.encoding.lower().startswith("utf")
    style = "red" if part > 0.9 else "yellow" if part > 0.7 else "green"
    line = _cut(name, names)
    line.pad_right(max(0, names - line.cell_len) + 1)
    line.append(("#" if plain else "█") * full, style=style)
    line.append(("." if plain else "░") * (length - full), style="dim")
    line.append(f" {said}")
    line.no_wrap = True
    return line


def _cut(text: str, width: int, style: str = "") -> Text:
    from projections.wording import plain

    kept = len(text) - len(text.lstrip())
    line = Text(" " * kept + plain(text), style=style, no_wrap=True)
    line.truncate(max(1, width), overflow="ellipsis")
    return line


def _amounts(amounts: dict[str, int]) -> str:
    from projections.wording import amounts_text

    return amounts_text(amounts)
