"""``run``: hold while a command runs. What happens then lives in :mod:`leasebook.run`."""

from __future__ import annotations

from typing import Any

import click

from leasebook.cli.failures import code_beside_command
from leasebook.cli.options import Verb, amounts_in, pairs_in, session_of

COMMAND = "leasebook.command"


class RunVerb(Verb):
    """A verb whose line ends in ``-- COMMAND …``, which is passed on untouched."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take what stands behind the first ``--`` away before click reads the rest."""
        session = session_of(ctx)
        session.code_of_failure = code_beside_command
        session.fails_on_stderr = True
        if "--" in args:
            at = args.index("--")
            ctx.meta[COMMAND] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The usage line names the command too."""
        return [*super().collect_usage_pieces(ctx), "--", "COMMAND…"]


@click.command("run", cls=RunVerb)
@click.argument("amounts", nargs=-1, metavar="[RESOURCE=AMOUNT]…")
@click.option("--pool", metavar="POOL", help="Of this pool; else `local`, which is this machine.")
@click.option("--holder", metavar="H", help="Who holds it; else $LEASEBOOK_HOLDER, or user@host.")
@click.option("--task", metavar="TASK", help="What it is for.")
@click.option(
    "--tenant", metavar="T", help="The tenant; else that of the run around this, or default."
)
@click.option(
    "--wait", metavar="TIME", help="How long to wait for its turn; 0 does not wait.  [default: 24h]"
)
@click.option("--priority", metavar="P", default="normal", help="low, normal, high or critical.")
@click.option("--select", multiple=True, metavar="LABEL=VALUE", help="Only on nodes so labelled.")
@click.option("--receipt", metavar="FILE", help="Write what it used to this file, as JSON.")
@click.option(
    "--strays",
    type=click.Choice(["kill", "keep"]),
    default="kill",
    show_default=True,
    help="What becomes of processes that the command leaves behind.",
)
@click.option(
    "--if-unavailable",
    type=click.Choice(["fail", "wait", "proceed"]),
    default="fail",
    show_default=True,
    help="Where the ledger cannot be used; `proceed` goes on without capacity too.",
)
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
@click.pass_context
def run_command(
    ctx: click.Context,
    /,
    amounts: tuple[str, ...],
    select: tuple[str, ...],
    **options: Any,
) -> int:
    """Hold amounts while COMMAND runs, measure what it uses, and release them whatever happens.

    Without a pool it opens `local`, of this machine's size. Exits with COMMAND's code; 124 where it
    was refused, 125 for a failure of Leasebook's own, 126 and 127 as a shell. Standard output is
    COMMAND's alone: with --json the account of the run, or its error, is one line on stderr.
    """
    from leasebook.run.command import run
    from leasebook.run.options import RunOptions
    from ledger.amounts import parse_demands

    session = session_of(ctx)
    command = ctx.meta.get(COMMAND)
    if not command:
        raise click.UsageError("name a command behind --, as in `leasebook run -- make`", ctx)
    asked = amounts_in(amounts) if amounts else {}
    if asked:
        # What can never be right is said before a ledger or a pool is opened for it.
        parse_demands(asked)
    code: int = run(
        session.named(),
        RunOptions(
            amounts=asked,
            select=pairs_in("--select", select),
            as_json=session.json,
            **options,
        ),
        command,
    )
    return code
