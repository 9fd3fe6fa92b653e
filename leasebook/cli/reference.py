"""``docs/cli.md``: the reference of every verb, written from the verbs themselves.

``python -m leasebook.cli.reference FILE`` writes it; a test fails while it is out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from leasebook.cli.app import program
from leasebook.cli.session import Session

WIDTH = 96

HEAD = """# The command line

Every verb takes `--ledger PATH` and `--json`, before the verb or behind it. Without `--ledger` it
is `$LEASEBOOK_LEDGER`, else what a `leasebook.toml` names, from the current folder upwards, else
what `/etc/leasebook/leasebook.toml` names, else a file of your own under `$XDG_STATE_HOME`.
`pool open`, `run` and `demo` begin a ledger where there is none; the other verbs say so.

Amounts: `cpu=2`, `gpu=500m`, `memory=4GiB`, `tokens=200k`. Durations: seconds, or `90s`, `15m`,
`2h`, `7d`. Times in: `06:49`, `2026-11-22T06:49:00Z`, `30m-ago`, `now`, or a position, `#1234`.

| exit code | means |
|---|---|
| 0 | done; for `allocate` and its replays: it is held |
| 1 | the infrastructure failed, or Leasebook itself; nothing was decided unless that is said |
| 2 | bad usage or invalid input |
| 3 | refused |
| 4 | there is no such thing |
| 5 | a conflict: a stale token, a command id used for something else, ended already, there already |
| 6 | the verification failed |
| 7 | it waits |
| 128 + n | signal n ended it: Ctrl-C is 130, TERM 143 |
| 141 | whoever read its output went away |

An answer that cannot be written, as to a full disk, is exit code 1 too: the message says that the
command was decided and recorded. What stdout cannot show in its encoding comes out escaped (`\\u2192`).

`run` exits with its command's code, with 124 where it was refused, with 125 for a failure of its own,
126 where the command cannot be executed and 127 where there is none. An error is one line on stderr:
what, why, what to do. With `--json` it is `{"error": {"reason", "message", "hint"}}` on stdout, and of
`run` on stderr, since stdout is its command's; a refused `allocate` prints its whole result.
"""

_COMMON = frozenset({"ledger", "json"})


def leaves(
    command: click.Command, ctx: click.Context
) -> Iterator[tuple[click.Command, click.Context]]:
    """Every verb that does something, groups resolved, with its context."""
    if not isinstance(command, click.Group):
        yield command, ctx
        return
    for name in command.list_commands(ctx):
        inner = command.get_command(ctx, name)
        assert inner is not None
        yield from leaves(inner, click.Context(inner, info_name=name, parent=ctx))


def render() -> str:
    """The whole document."""
    root = program()
    ctx = click.Context(root, info_name="leasebook", obj=Session())
    return "\n".join([HEAD, *(_section(verb, inner) for verb, inner in leaves(root, ctx))])


def _section(verb: click.Command, ctx: click.Context) -> str:
    formatter = click.HelpFormatter(width=WIDTH)
    own = [p for p in verb.params if isinstance(p, click.Option) and p.name not in _COMMON]
    records = [r for r in (p.get_help_record(ctx) for p in own) if r is not None]
    if records:
        formatter.write_dl(records)
    usage = " ".join([ctx.command_path, *verb.collect_usage_pieces(ctx)])
    shown = "\n".join(line.rstrip() for line in formatter.getvalue().splitlines())
    parts = [f"## {ctx.command_path}", _prose(verb.help or ""), "```text", usage]
    return "\n".join(
        [*parts[:1], "", parts[1], "", *parts[2:], *([shown] if shown else []), "```", ""]
    )


def _prose(text: str) -> str:
    """A help text's paragraphs, each on one line."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def main(arguments: list[str]) -> None:
    """Write the document to the file named first."""
    Path(arguments[0]).write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
