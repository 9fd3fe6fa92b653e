"""Three workers share four cores through a ledger; one of them waits its turn.

Run it with: python examples/fleet.py
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import leasebook


def work(book: leasebook.ResourceManager, name: str) -> None:
    """Hold two cores for a moment. Whoever finds none free waits for them."""
    with book.lease({"cpu": 2}, pool="box", holder=name, task="example", wait="30s") as held:
        print(f"{name} holds {held.amounts} as {held.id}")


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        leasebook.open(Path(folder) / "ledger.db") as book,
    ):
        book.open_pool("box", capacity={"cpu": 4})
        workers = [
            threading.Thread(target=work, args=(book, f"worker-{number}")) for number in range(3)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        for event in book.events():
            print(event.position, event.type, event.holder or "")
        print("whole:", book.verify().ok)


if __name__ == "__main__":
    main()
