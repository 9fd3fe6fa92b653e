"""Cards that others use: the share of a card's memory that processes of no holder have taken.

    outside = Σ over cards of ⌈1000 × memory of unmanaged processes / memory of the card⌉

Computing and memory cannot be told apart from outside a card, so its memory stands for both, as a
share granted on it does. What holders in sight have taken is theirs; holders that cannot be told
from others are assumed to use all that they hold. There is no slack: no part of a card is kept free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ledger.requests import CARD
from scheduler.probes.finding import NAMED_MAX, Held
from scheduler.probes.holders import Processes, program
from scheduler.processes import gpus
from scheduler.processes.identity import pid_namespace

_FIRST_NAMESPACE: Final = "4026531836"
"""The pid namespace that Linux boots with (include/linux/proc_ns.h). NVML names pids by it."""


def cards_outside(
    capacity: int, held: Sequence[Held], processes: Processes
) -> tuple[int, str] | None:
    """Thousandths of a card of a node's ``capacity`` that others use, and whose they are.

    None where no card can be asked, where the pids that it names mean nothing here, or where the
    driver does not tell what a process has taken.
    """
    wanted = capacity // CARD
    cards = {card.index: card for card in gpus.gpus() if card.index < wanted}
    if not cards or len(cards) < wanted or pid_namespace() != _FIRST_NAMESPACE:
        return None
    managed: set[int] = set()
    assumed = 0
    for one in held:
        if processes.sees(one):
            managed |= {stat.pid for stat in processes.tree(one.processes).values()}
        else:
            assumed += one.amounts.get("gpu", 0)
    taken = dict.fromkeys(cards, 0)
    users: list[tuple[int, int, int]] = []
    for process in gpus.processes_on_gpu():
        if process.gpu_index not in cards or process.pid in managed:
            continue
        if process.memory_bytes is None:
            return None
        taken[process.gpu_index] += process.memory_bytes
        users.append((process.memory_bytes, process.pid, process.gpu_index))
    shares = [min(CARD, -(-used * CARD // cards[i].memory_bytes)) for i, used in taken.items()]
    outside = min(capacity, sum(shares) - assumed)
    if outside <= 0:
        return (0, "")
    words = [f"{program(pid)} on card {i}" for _, pid, i in sorted(users, reverse=True)[:NAMED_MAX]]
    # More than one card's worth is told in whole cards, as amounts of cards are.
    whole = outside if outside <= CARD else -(-outside // CARD) * CARD
    return (min(capacity, whole), ", ".join(words))
