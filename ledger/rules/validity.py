"""Validity: what can never be right, whatever the book says. Raises InvalidInput; records nothing.

The doors check input too, and word it closer to what was typed. This is the wall behind them: no
command that passes here can break the accounts.
"""

from __future__ import annotations

from typing import Any

from ledger.amounts import AMOUNT_MAX, RESOURCES_MAX, check_name, check_resource_name
from ledger.errors import InvalidInput
from ledger.policy import STRATEGIES
from ledger.requests import CARD, CARD_RESOURCES, PRIORITIES, Amounts, NodeSpec, Request

MAX_TIME_NS = 10 * 366 * 86_400 * 1_000_000_000
"""Ten years: the longest ttl, wait or age."""
MAX_BATCH = 10_000
MAX_NODES = 20_000
MAX_LABELS = 64
MAX_CARDS = 10_000
"""Of one resource on one node; each is kept account of."""
BASIS_MAX = 500


def check_amounts(amounts: Amounts, *, least: int = 1) -> None:
    """Whole base units, from ``least`` to 2⁶³ − 1, of 1 to 32 resources; cards whole or one's share."""
    if not 1 <= len(amounts) <= RESOURCES_MAX:
        raise InvalidInput(
            f"{len(amounts)} resources were named; it takes 1 to {RESOURCES_MAX}",
            "name what is needed, such as cpu=2",
        )
    for resource, amount in amounts.items():
        check_resource_name(resource)
        if type(amount) is not int or not least <= amount <= AMOUNT_MAX:
            raise InvalidInput(
                f"{amount!r} base units of {resource} is not an amount: it takes a whole number"
                f" from {least} to 2^63-1",
                "give a positive amount",
            )
        if resource in CARD_RESOURCES and amount > CARD and amount % CARD:
            raise InvalidInput(
                f"{resource} comes in cards: {amount / CARD:g} is neither whole cards nor a share"
                " of one",
                "ask for whole cards, or for less than one",
            )


def check_basis(basis: dict[str, str]) -> None:
    """What a probe says of its figures: by resource, one short line of text each."""
    if len(basis) > RESOURCES_MAX:
        raise InvalidInput(f"a basis for {len(basis)} resources", f"give at most {RESOURCES_MAX}")
    for resource, text in basis.items():
        check_resource_name(resource)
        if len(text) > BASIS_MAX or not text.isprintable():
            raise InvalidInput(
                f"the basis for {resource} is not one line of at most {BASIS_MAX} characters",
                "name programs and pids, and nothing else",
            )


def check_time(what: str, value: int | None) -> None:
    """A duration in ns, from 1 to :data:`MAX_TIME_NS`; None where none is given."""
    if value is not None and not (type(value) is int and 0 < value <= MAX_TIME_NS):
        raise InvalidInput(
            f"{what} of {value!r} ns is not a duration from 1 ns to 10 years", "give another"
        )


def check_correction(allocation: str | None, facts: dict[str, Any]) -> None:
    """What a person may say of an earlier event: when an allocation really ended, and how."""
    if facts.keys() - {"ended_at", "ended_by"}:
        raise InvalidInput(
            "a correction tells when and how an allocation ended", "say all else in its reason"
        )
    at, by = facts.get("ended_at"), facts.get("ended_by")
    if facts and (allocation is None or type(at) is not int or not 0 <= at < 2**63):
        raise InvalidInput(
            "a correction's facts tell when an allocation ended", "name the time, in ns since 1970"
        )
    if by is not None:
        check_name("ending", by)


def check_request(request: Request) -> None:
    """A request that some pool could meet."""
    check_amounts(request.amounts)
    if request.priority not in PRIORITIES:
        raise InvalidInput(
            f"there is no priority {request.priority!r}", f"choose one of {', '.join(PRIORITIES)}"
        )
    if request.strategy is not None and request.strategy not in STRATEGIES:
        raise InvalidInput(
            f"there is no strategy {request.strategy!r}", f"choose one of {', '.join(STRATEGIES)}"
        )
    if (request.ttl_ns is None) == (request.process is None):
        raise InvalidInput(
            "an allocation is bound by a ttl or by a process, by exactly one of them",
            "give a ttl or a pid",
        )
    check_time("ttl", request.ttl_ns)
    check_time("max_age", request.max_age_ns)
    check_time("wait", request.wait_ns)
    check_time("reserve", request.reserve_ns)
    for label, wanted in (request.select or {}).items():
        check_name("label", label)
        check_name("label's value", wanted)
    if request.most is not None:
        _check_range(request)
    if request.spread is not None and not 0 <= request.spread <= MAX_NODES:
        raise InvalidInput(
            f"a spread over {request.spread} nodes is out of range", f"give 0 to {MAX_NODES}"
        )
    if request.sticky is not None:
        check_name("sticky key", request.sticky)


def _check_range(request: Request) -> None:
    assert request.most is not None
    check_amounts(request.most)
    upside_down = [r for r, least in request.amounts.items() if request.most.get(r, 0) < least]
    if request.most.keys() != request.amounts.keys() or upside_down:
        raise InvalidInput(
            f"the range of {', '.join(upside_down) or 'a resource'} is upside down",
            "give the least first, such as cpu=2..8",
        )
    if request.spread is not None:
        raise InvalidInput(
            "a range cannot be spread over nodes", "give exact amounts, or no spread"
        )


def check_nodes(nodes: tuple[NodeSpec, ...], *, least: int = 0) -> None:
    """1 to 20,000 nodes with names of their own; cards in whole cards."""
    if not 1 <= len(nodes) <= MAX_NODES:
        raise InvalidInput(
            f"{len(nodes)} nodes were given; it takes 1 to {MAX_NODES}", "name at least one"
        )
    names = set()
    for node in nodes:
        check_name("node", node.name)
        if node.name in names:
            raise InvalidInput(f"node {node.name!r} was given twice", "name each node once")
        names.add(node.name)
        check_amounts(node.capacity, least=least)
        for resource, amount in node.capacity.items():
            if resource in CARD_RESOURCES and amount % CARD:
                raise InvalidInput(
                    f"node {node.name!r} cannot have {amount / CARD:g} of {resource}: a node's"
                    " cards are whole",
                    "give a whole number",
                )
            if resource in CARD_RESOURCES and amount > MAX_CARDS * CARD:
                raise InvalidInput(
                    f"node {node.name!r} cannot have {amount // CARD} of {resource}: a node has at"
                    f" most {MAX_CARDS} cards",
                    "give it fewer, or name its nodes",
                )
        if node.labels is not None and len(node.labels) > MAX_LABELS:
            raise InvalidInput(
                f"node {node.name!r} has {len(node.labels)} labels, more than {MAX_LABELS}",
                "give fewer",
            )
        for label, value in (node.labels or {}).items():
            check_name("label", label)
            check_name("label's value", value)
