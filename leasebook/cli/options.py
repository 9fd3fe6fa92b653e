"""Options and arguments that several verbs share, and how pairs such as ``model=T4`` are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from leasebook.cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=click.Command)


def session_of(ctx: click.Context) -> Session:
    """The session of this run."""
    session = ctx.find_object(Session)
    assert session is not None
    return session


def _keep_ledger(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        session_of(ctx).where = value


def _keep_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        session_of(ctx).json = True


def common_params() -> list[click.Parameter]:
    """``--ledger`` and ``--json``, which every verb and group takes."""
    return [
        click.Option(
            ["--ledger"],
            metavar="PATH",
            expose_value=False,
            callback=_keep_ledger,
            help="The ledger; else $LEASEBOOK_LEDGER, leasebook.toml upwards, or your own.",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_keep_json,
            help="Answer in JSON on stdout: one document, unless said otherwise.",
        ),
    ]


class Verb(click.Command):
    """A command that takes what every verb takes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += common_params()


class VerbGroup(click.Group):
    """A group of verbs, such as ``pool``."""

    command_class = Verb

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += common_params()

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order in which they were defined."""
        return list(self.commands)


def verb(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a verb of this name."""
    return click.command(name, cls=Verb)


def _several(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for one in reversed(decorators):
            function = one(function)
        return function

    return decorate


command_id = click.option(
    "--id",
    "command_id",
    metavar="COMMAND_ID",
    help="An id of yours: the same command under it has one effect, however often it is sent.",
)

claim = _several(
    click.option(
        "--holder", metavar="H", help="Who holds it; else $LEASEBOOK_HOLDER, or user@host."
    ),
    click.option(
        "--token", type=int, metavar="N", help="The fencing token, instead of the holder."
    ),
    click.option("--tenant", metavar="T", help="The tenant; else the allocation's own."),
    command_id,
)
"""What a verb on one allocation takes: ``holder``, ``token``, ``tenant``, ``command_id``."""

allocation = click.argument("allocation", metavar="ALLOCATION")

filters = _several(
    click.option("--pool", metavar="POOL", help="Of this pool only."),
    click.option("--holder", metavar="H", help="Of this holder only."),
    click.option("--task", metavar="TASK", help="For this task only."),
    click.option("--tenant", metavar="T", help="Of this tenant only."),
)


def pairs_in(option: str, given: Iterable[str]) -> dict[str, str]:
    """``["model=T4"]`` → ``{"model": "T4"}``. Raises InvalidInput."""
    from ledger.errors import InvalidInput

    values: dict[str, str] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInput(f"{option} {_short(pair)} is no pair", f"write {option} NAME=VALUE")
        if name in values:
            raise InvalidInput(f"{option} gives {_short(name)} twice", "give each name once")
        values[name] = value
    return values


def amounts_in(given: Iterable[str]) -> dict[str, str]:
    """``["cpu=2", "memory=4GiB"]`` → resource → text, as the mapping reads it. Raises InvalidInput."""
    from ledger.amounts import split_pairs

    return split_pairs(given)


def wait_in(text: str | None) -> str | None:
    """How long a place is kept; ``0`` is no wait. Raises InvalidInput."""
    from ledger.amounts import parse_duration_ns

    if text is None or not parse_duration_ns(text, allow_zero=True):
        return None
    return text


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "…")
