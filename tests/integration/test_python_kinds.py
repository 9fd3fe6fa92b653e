"""Whatever kind of value a caller passes, a manager answers within its own family of exceptions."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

import leasebook
from leasebook.kinds import checks
from leasebook.manager import ResourceManager
from ledger.errors import InvalidInput

ODD: tuple[Any, ...] = (
    5, -1, 1.5, float("nan"), "x", "", b"x", [], [1], {}, {"a": 1}, {1: 2}, {"a": object()}, object(),
    True, None, ("a",), {"cpu": "1"}, 10**30, "\ud800", "a\n", "0s",
)  # fmt: skip
WAITING = ("wait", "timeout", "timeout_s")
NOT_ASKED = ("close", "lease")

METHODS = [
    name
    for name, method in inspect.getmembers(ResourceManager, callable)
    if not name.startswith("_") and name not in NOT_ASKED and not isinstance(method, type)
]


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ResourceManager]:
    with leasebook.open(tmp_path_factory.mktemp("kinds") / "ledger.db") as manager:
        manager.open_pool("box", capacity={"cpu": 1000})
        manager.open_pool("calm", capacity={"cpu": 1000})
        yield manager


def needed(manager: ResourceManager) -> dict[str, Any]:
    """A right value for every argument that some method cannot do without."""
    held = manager.allocate({"cpu": 1}, pool="calm", holder="me")
    return {
        "amounts": {"cpu": 1}, "pool": "box", "allocation": held.id, "name": "another", "node": "box",
        "requests": [{"amounts": {"cpu": 1}, "pool": "box"}], "capacity": {"cpu": 1}, "task": "t",
        "holder": "me", "to": "you", "policy": {}, "limits": {}, "position": 1, "reason": "why",
        "outside": {}, "since": 1, "until": 2, "used": {}, "peak": {}, "what": held.id, "when": "now",
        "first": 1, "second": 2, "request": leasebook.MemoryRequest(5, "box"),
    }  # fmt: skip


def test_the_methods_are_found() -> None:
    assert {"allocate", "try_allocate", "allocate_batch", "events", "why", "monitor"} <= {*METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_odd_arguments_are_refused_in_the_house_s_own_exceptions(
    manager: ResourceManager, name: str
) -> None:
    method = getattr(manager, name)
    parameters = inspect.signature(method).parameters.values()
    given = needed(manager)
    required = {p.name: given.get(p.name) for p in parameters if p.default is p.empty}
    required.pop("options", None)
    tried = 0
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        for value in ODD:
            if parameter.name in WAITING and isinstance(value, int | float):
                continue
            tried += 1
            try:
                answer = method(**{**required, parameter.name: value})
                if isinstance(answer, Iterator):
                    list(itertools.islice(answer, 1))
            except leasebook.LeasebookError as error:
                assert "\n" not in str(error)
    assert tried or not parameters
    assert manager.verify().ok


def test_a_wrong_kind_is_named_with_what_would_be_right() -> None:
    def method(self: object, amounts: Any, *, spread: int | None = None, names: str = "") -> None:
        raise AssertionError("not called")

    check = checks(method)
    check(({},), {"spread": None})
    check(({},), {"spread": 3, "unknown": 1})
    with pytest.raises(InvalidInput, match="spread is True, which is not a whole number"):
        check(({},), {"spread": True})
    with pytest.raises(InvalidInput, match="names is None, which is not text"):
        check((), {"names": None})
