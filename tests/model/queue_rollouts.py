"""Which strategy a grant must name: the request's own, the roll-out's, or the pool's."""

from __future__ import annotations

from hashlib import sha256

from ledger.events import Allocated, Event, Reserved
from ledger.policy import Policy
from tests.model.queue_wrong import wrong_unless


def in_share(asked_as: str, permille: int) -> bool:
    """Whether a request falls into a share: by the first 64 bits of a SHA-256, modulo 1,000.

    So it is in every larger share too, in whatever pool, and however often it is decided again.
    """
    return int.from_bytes(sha256(asked_as.encode()).digest()[:8], "big") % 1000 < permille


def judge_strategy(event: Event, body: Allocated | Reserved, policy: Policy, asked_as: str) -> None:
    """A grant names the strategy that placed it, by the policy of the moment and who asked.

    ``asked_as`` is the id of the command that asked, with ``#`` and its number for one of a batch:
    see :func:`tests.model.queue_state.asked_as`.
    """
    rolled = policy.rollout_strategy is not None and in_share(asked_as, policy.rollout_permille)
    wanted = policy.rollout_strategy if rolled else policy.strategy
    if body.request.strategy is not None:
        wanted = body.request.strategy
    wrong_unless(
        body.strategy == wanted, event, f"{asked_as} goes by {wanted}, not by {body.strategy}"
    )
