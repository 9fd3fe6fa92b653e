"""The program: its verbs, each imported when it is called, and the one place where it fails.

Importing all verbs would cost more than most of them take to run, so the list of them is written
down here, with the line of help that ``leasebook --help`` shows; a test keeps it true.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from leasebook.cli.failures import (
    DONE,
    FAILED,
    INTERRUPTED,
    INVALID,
    PIPE_CLOSED,
    Failure,
    failure_from,
)
from leasebook.cli.options import common_params
from leasebook.cli.session import Session, print_json, to_json
from leasebook.cli.streams import Unwritten, drop_output, made_ready, say

VERBS: dict[str, tuple[str, str]] = {
    "pool": ("pools", "Open, show, resize, cordon and close pools."),
    "quota": ("rules", "Limit what a tenant or a holder may hold at once."),
    "policy": ("rules", "Settings that steer a pool's decisions."),
    "allocate": ("allocating", "Ask for capacity of a pool."),
    "wait": ("allocating", "Block until a waiting request is granted."),
    "withdraw": ("tenure", "Give up a place in the queue, or a reservation."),
    "confirm": ("tenure", "Turn a reservation into an allocation."),
    "adjust": ("tenure", "Hold other amounts."),
    "renew": ("tenure", "Extend a lease, or all leases of a holder."),
    "release": ("tenure", "Give an allocation back."),
    "transfer": ("tenure", "Hand an allocation to another holder."),
    "reclaim": ("tenure", "Take an allocation back by force, as the operator."),
    "list": ("looking", "What is held and what waits."),
    "show": ("looking", "One allocation as it is now."),
    "why": ("looking", "Why it waits, was refused or ended."),
    "who": ("looking", "Whose is this process, port or card?"),
    "task": ("tasks", "Say when a task begins and ends."),
    "run": ("running", "Hold while a command runs, and measure what it uses."),
    "report": ("reporting", "What was held, what was used of it, and how strategies compare."),
    "at": ("traveling", "The whole fleet at a moment of the past."),
    "diff": ("traveling", "What differs between two moments."),
    "replay": ("traveling", "Play what happened, event by event, with the state beside it."),
    "import": ("importing", "Record what happened elsewhere, from a file."),
    "events": ("record", "The log's events."),
    "audit": ("auditing", "A trail of what happened that others can follow."),
    "verify": ("record", "Prove that the log is whole and unchanged."),
    "checkpoint": ("record", "Sign the log's head, to be kept elsewhere."),
    "redact": ("amending", "Erase an event's metadata; the proof still holds."),
    "correct": ("amending", "Say that an event was wrong, and how it really was."),
    "incident": ("incidents", "A window of the ledger as one file that proves itself anywhere."),
    "export": ("auditing", "The log, or a table of it, for other tools."),
    "backup": ("upkeep", "Copy the ledger while it is in use."),
    "upgrade": ("upkeep", "Bring an older ledger to this program's format."),
    "alert": ("alerts", "What a person should look at, and that it is over."),
    "doctor": ("upkeep", "Examine the ledger and this machine."),
    "projections": (
        "projecting",
        "The tables beside the ledger: where they stand, rebuild, check.",
    ),
    "sweep": ("upkeep", "Write down what time or a crash has ended."),
    "whatif": ("whatif", "Decide the record again under another policy, size or quota."),
    "simulate": ("simulating", "Decide a trace by the ledger's own rules."),
    "demo": ("upkeep", "See it work: real processes compete for this machine."),
}
"""Verb → (module of :mod:`leasebook.cli`, its line of help)."""


COMPLETION = "_LEASEBOOK_COMPLETE"
"""Set while a shell asks for completions, which click answers."""


class Program(click.Group):
    """``leasebook``: a group whose verbs are imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order of the list."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb."""
        if cmd_name not in VERBS:
            return None
        module = import_module(f"leasebook.cli.{VERBS[cmd_name][0]}")
        found = getattr(module, f"{cmd_name}_command")
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs with their lines of help, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from leasebook import __version__

        print(f"leasebook {__version__}")
        ctx.exit()


def program() -> Program:
    """The command line as click sees it."""
    version = click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_show_version,
        help="Show the version and exit.",
    )
    return Program(
        "leasebook",
        help="Leasebook: who holds what of this machine and fleet, why, and what it was worth.",
        params=[*common_params(), version],
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code. Raises nothing; says what went wrong."""
    session = Session(json="--json" in _own(argv))
    with made_ready():
        return _run(argv, session)


def _run(argv: Sequence[str], session: Session) -> int:
    try:
        code = _invoke(list(argv), session)
        if sys.stdout is not None:
            # A full disk shows here, while it can still be said.
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read the output has enough of it.
        drop_output()
        return PIPE_CLOSED
    except (KeyboardInterrupt, click.Abort):
        return _fail(Failure("interrupted", "interrupted", "", INTERRUPTED), session)
    except click.exceptions.NoArgsIsHelpError as error:
        if session.json:
            return _fail(Failure("invalid", "a verb is missing", "see --help", INVALID), session)
        say(error.format_message())
        return INVALID
    except click.ClickException as error:
        return _fail(_usage_failure(error), session)
    except Unwritten as error:
        drop_output()
        # With --json too: stdout is where nothing can be said.
        failure = _unwritten_failure(error, session)
        say(failure.line())
        return session.code_of_failure(failure.code)
    except Exception as error:
        if os.environ.get("LEASEBOOK_DEBUG") == "1":
            import traceback

            traceback.print_exc()
        return _fail(failure_from(error), session)


def _own(argv: Sequence[str]) -> Sequence[str]:
    """The arguments that are ours: those before a ``--``, behind which a command may follow."""
    return argv[: list(argv).index("--")] if "--" in argv else argv


def _invoke(argv: list[str], session: Session) -> int:
    root = program()
    if COMPLETION in os.environ:
        root.main(argv, prog_name="leasebook", obj=session)
    # click's own main would answer a closed pipe and Ctrl-C in its way, with codes of its own.
    try:
        with root.make_context("leasebook", argv, obj=session) as ctx:
            done: Any = root.invoke(ctx)
    except click.exceptions.Exit as end:
        return end.exit_code
    return done if isinstance(done, int) else DONE


def _usage_failure(error: click.ClickException) -> Failure:
    message = error.format_message().strip().rstrip(".")
    message = message[:1].lower() + message[1:]
    if isinstance(error, click.UsageError):
        verb = error.ctx.command_path if error.ctx is not None else "leasebook"
        return Failure("invalid", message, f"see `{verb} --help`", INVALID)
    return Failure("unavailable", message, "", FAILED)


def _unwritten_failure(error: Unwritten, session: Session) -> Failure:
    """What is so when an answer cannot be written: what was decided before it stands."""
    why = error.strerror or "it cannot be written"
    if not session.writes:
        return Failure("unavailable", f"stdout: {why}", "check where the output goes to", FAILED)
    return Failure(
        "unavailable",
        f"the command was decided and recorded, but its answer cannot be written to stdout: {why}",
        "see `leasebook list` and `leasebook events` for what came of it",
        FAILED,
    )


def _fail(failure: Failure, session: Session) -> int:
    code = failure.code
    if code != INTERRUPTED:
        code = session.code_of_failure(code)
    if not session.json:
        say(failure.line())
    elif session.fails_on_stderr:
        say(to_json(failure.to_json()))
    else:
        try:
            print_json(failure.to_json())
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError:
            # There is no room, or nobody reads any more.
            drop_output()
            say(failure.line())
    return code
