"""Pseudonyms: the same events and the same state, with nobody's name in them.

A name becomes ``holder-3fa94c1b20d4``: the beginning of an HMAC under a key that is made for one
bundle and thrown away. The same name is the same pseudonym throughout the bundle, and another one in
the next. Whatever text is not known to be a word of ours is replaced: a field that nobody thought of
shows too little, not too much. Numbers stay, and metadata is left out.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

from ledger.canonical import checked_json, loads
from ledger.fields import dump, load
from ledger.log import Row
from reports.incidents.vocabulary import KEYS, KIND_OF, OURS, RESOURCES, SAID, WORDS

_ITEM = re.compile(r"(?<=.)#\d{1,4}\Z", re.ASCII)
_ID = re.compile(r"[AR]\d{1,19}\Z")


class Pseudonyms:
    """One mapping of names. ``key`` (32 random bytes) is the secret.

    ``mode`` is ``people``, where pools, nodes and labels keep their names, or ``all``.
    """

    def __init__(self, key: bytes, mode: str = "people") -> None:
        self._key = key
        self._all = mode == "all"
        self._known: dict[tuple[str, str], str] = {}

    def name(self, kind: str, text: str) -> str:
        """The pseudonym of a text that is a name of some kind."""
        if (
            not text
            or (kind == "tenant" and text == "default")
            or (kind == "holder" and text in OURS)
            or (kind in ("node", "pool", "label") and not self._all)
        ):
            return text
        known = self._known.get((kind, text))
        if known is None:
            said = hmac.new(self._key, f"{kind}\n{text}".encode(), sha256).hexdigest()
            known = said if kind == "digest" else f"{kind}-{said[:12]}"
            self._known[kind, text] = known
        return known

    def row(self, row: Row) -> Row:
        """A row with other names. Its digest and hash are still the original's."""
        return row._replace(
            tenant=self.name("tenant", row.tenant),
            pool=self._maybe("pool", row.pool),
            holder=self._maybe("holder", row.holder),
            task=self._maybe("task", row.task),
            command_id=self._maybe("command", row.command_id),
            data=checked_json(self._fields(loads(row.data))).decode(),
            metadata=None,
        )

    def book(self, data: bytes) -> bytes:
        """A dumped book with other names, as it would be dumped itself."""
        plain = loads(data)
        plain["pools"] = [[self.name("pool", n), self._pool(p)] for n, p in plain["pools"]]
        plain["allocations"] = [self._fields(a) for a in plain["allocations"]]
        plain["quotas"] = [
            [
                self.name("tenant", tenant),
                self._maybe("holder", holder),
                self._maybe("pool", pool),
                limits,
            ]
            for tenant, holder, pool, limits in plain["quotas"]
        ]
        plain["cohorts"] = [
            [self.name("tenant", tenant), self._maybe("pool", pool), self.name("cohort", cohort)]
            for tenant, pool, cohort in plain["cohorts"]
        ]
        plain["tasks"] = [
            [self.name("tenant", tenant), self.name("task", task), at]
            for tenant, task, at in plain["tasks"]
        ]
        plain["alerts"] = {
            self.name("alert", n): self._fields(alert) for n, alert in plain["alerts"].items()
        }
        plain["holders"] = [
            [self.name("tenant", tenant), self.name("holder", holder), self._fields(process)]
            for tenant, holder, process in plain["holders"]
        ]
        plain["recent_refusals"] = [
            [self._refusal(key), where] for key, where in plain["recent_refusals"]
        ]
        return dump(load(checked_json(plain)))

    # --- inside ----------------------------------------------------------------------------------

    def _maybe(self, kind: str, text: str | None) -> str | None:
        return None if text is None else self.name(kind, text)

    def _command(self, text: str) -> str:
        """A command's id in a book, behind which the number of an item may stand: that stays."""
        item = _ITEM.search(text)
        end = len(text) if item is None else item.start()
        return self.name("command", text[:end]) + text[end:]

    def _text(self, text: str, kind: str = "text") -> str:
        if kind == "command":
            return self._command(text)
        if kind == "text" and (text in WORDS or _ID.match(text)):
            return text
        return self.name(kind, text)

    def _fields(self, plain: dict[str, Any]) -> dict[str, Any]:
        return {
            (key if key in KEYS else self.name("key", key)): self._field(key, value)
            for key, value in plain.items()
        }

    def _field(self, key: str, value: Any) -> Any:
        special = _SPECIAL.get(key)
        if special is not None and isinstance(value, (dict, list)):
            return special(self, value)
        if key in RESOURCES and _is_numbers(value):
            return value
        if key == "ledger_id":
            return value
        if key in SAID and isinstance(value, str):
            return value if value in WORDS else self.name("text", value)
        return self._value(value, KIND_OF.get(key, "text"))

    def _value(self, value: Any, kind: str) -> Any:
        if isinstance(value, str):
            return self._text(value, kind)
        if isinstance(value, list):
            return [self._value(item, kind) for item in value]
        if isinstance(value, dict):
            return self._fields(value)
        return value

    def _by_node(self, plain: dict[str, Any]) -> dict[str, Any]:
        """Node → amounts: a shortfall, what was spent."""
        return {self.name("node", node): amounts for node, amounts in plain.items()}

    def _basis(self, plain: dict[str, Any]) -> dict[str, Any]:
        """Resource → how it was measured."""
        return {resource: self._value(how, "text") for resource, how in plain.items()}

    def _labels(self, plain: dict[str, Any]) -> dict[str, Any]:
        """Label → value, or values to choose from."""
        return {
            self.name("label", label): "|".join(
                self.name("label", each) for each in str(value).split("|")
            )
            for label, value in plain.items()
        }

    def _node(self, plain: dict[str, Any]) -> dict[str, Any]:
        named = self._fields({k: v for k, v in plain.items() if k != "name"})
        return {"name": self.name("node", plain["name"]), **named}

    def _nodes(self, plain: list[Any]) -> list[Any]:
        return [
            self._node(node) if isinstance(node, dict) else self.name("node", str(node))
            for node in plain
        ]

    def _pool(self, plain: dict[str, Any]) -> dict[str, Any]:
        """A pool of a dumped book. The shapes of its mix hold labels."""
        changed = dict(plain)
        changed["policy"] = self._fields(plain["policy"])
        changed["nodes"] = self._nodes(plain["nodes"])
        for node in changed["nodes"]:
            node["outside_basis"] = self._basis(node.pop("outside_basis", {}))
        changed["spent"] = self._by_node(plain["spent"])
        changed["sticky"] = [
            [
                self.name("tenant", tenant),
                self.name("sticky", key),
                [self.name("node", node) for node in nodes],
            ]
            for tenant, key, nodes in plain["sticky"]
        ]
        changed["habits"] = [[self.name("task", task), *habit] for task, *habit in plain["habits"]]
        shapes = [
            [amounts, sorted([*pair] for pair in self._labels(dict(select)).items())]
            for amounts, select in plain["mix"]["shapes"]
        ]
        changed["mix"] = {"shapes": shapes, "recent": plain["mix"]["recent"]}
        return changed

    def _refusal(self, key: list[Any]) -> list[Any]:
        """What makes two refusals the same, as :func:`ledger.evolve.refusal_key` lists it."""
        tenant, holder, task, pool, allocation, verb, reason, asked = key
        if asked and isinstance(asked[0], str):
            message, *short = asked
            named = sorted([self.name("node", node), *rest] for node, *rest in short)
            asked = [self._text(message), *named]
        return [
            self.name("tenant", tenant),
            self._maybe("holder", holder),
            self._maybe("task", task),
            self._maybe("pool", pool),
            allocation,
            verb,
            reason,
            asked,
        ]


def _is_numbers(value: Any) -> bool:
    """Whether nothing but numbers stands at the ends."""
    if isinstance(value, dict):
        return all(map(_is_numbers, value.values()))
    return value is None or isinstance(value, int)


_SPECIAL: Final[dict[str, Callable[[Pseudonyms, Any], Any]]] = {
    "shortfall": Pseudonyms._by_node,
    "spent": Pseudonyms._by_node,
    "basis": Pseudonyms._basis,
    "outside_basis": Pseudonyms._basis,
    "labels": Pseudonyms._labels,
    "select": Pseudonyms._labels,
    "node": Pseudonyms._node,
    "nodes": Pseudonyms._nodes,
}
