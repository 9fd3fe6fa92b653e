"""When Python looks for circular garbage: not while many rows are read, of which none comes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No search for circular garbage inside. For work that makes many values and no circles: the search
    would look through all of them in vain, for a tenth of the time.

    Threads share the setting, so another thread's work may end it early, which costs time and no more.
    """
    if not gc.isenabled():
        yield
        return
    try:
        # In here, so that no interrupt leaves it off.
        gc.disable()
        yield
    finally:
        gc.enable()
