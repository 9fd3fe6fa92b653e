"""Pools, nodes and cards as they are now, and table ``capacity``: how much there was when."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from ledger.requests import CARD, CARD_RESOURCES
from projections.tables.base import (
    ENDS,
    GRANTS,
    LIVE,
    MOVES,
    Handler,
    Projection,
    Rows,
    Seen,
    Table,
    each,
)
from projections.tables.pool_tables import (
    CAPACITY,
    DEVICES,
    NODE_RESOURCES,
    NODES,
    POOL_RESOURCES,
    POOLS,
)


class Pools(Projection):
    """Pools and their nodes. ``in_use`` includes what is ``spent`` of a consumable.

    Both may come to more than a cell holds: they stop at 2⁶³ − 1 then, ``beyond`` has what they are,
    and view ``pool_resources`` adds that up, as REAL.

    ``capacity`` is NULL where no event said how much there is: an import may place on such nodes.
    """

    name: ClassVar[str] = "pools"
    version: ClassVar[int] = 3
    tables: ClassVar[tuple[Table, ...]] = (POOLS, NODES, NODE_RESOURCES, DEVICES, CAPACITY)
    views: ClassVar[dict[str, str]] = {"pool_resources": POOL_RESOURCES}

    def __init__(self) -> None:
        self._pools = Rows(POOLS, whole=True)
        self._nodes = Rows(NODES)
        self._amounts = Rows(NODE_RESOURCES)
        self._devices = Rows(DEVICES)
        self._capacity = Rows(CAPACITY)
        self.rows = {
            "pools": self._pools,
            "nodes": self._nodes,
            "node_resources": self._amounts,
            "devices": self._devices,
            "capacity": self._capacity,
        }
        # Pool → the latest time at which anything is said of its capacity.
        self._latest: dict[str, int] = {}

    def forget(self) -> None:
        """As :meth:`Projection.forget`."""
        super().forget()
        self._latest.clear()

    def handlers(self) -> dict[str, Handler]:
        """As :meth:`Projection.handlers`."""
        return {
            "pool_opened": self._opened,
            "pool_resized": self._resized,
            "pool_closed": self._closed,
            "node_joined": self._joined,
            "node_left": self._left,
            "node_cordoned": self._cordoned,
            "node_uncordoned": self._cordoned,
            "policy_set": self._policy_set,
            "capacity_observed": self._observed,
            "replenished": self._replenished,
            **each((*GRANTS, *MOVES), self._flow),
            **each(ENDS, self._ended),
        }

    # --- pools and nodes -------------------------------------------------------------------------

    def _pool(self, e: Seen) -> dict[str, Any]:
        row = self._pools.get((e.pool,))
        if row is None:
            raise ValueError(f"{e.type} is about {e.pool}, a pool that was never opened")
        self._pools.put((e.pool,), row)
        return row

    def _opened(self, e: Seen) -> None:
        assert e.pool is not None
        data = e.data
        for key, _ in list(self._nodes.under(e.pool)):
            self._remove(e.pool, key[1], e.at)
        policy = dict(data.get("policy", {}))
        row = self._pools.new(
            pool=e.pool,
            kind=data.get("kind", "managed"),
            consumable=int(data.get("consumable", False)),
            closed=0,
            nodes=0,
            opened_at=e.at,
            basis=data.get("basis") or None,
            policy=policy,
        )
        self._pools.put((e.pool,), row)
        for spec in data["nodes"]:
            self._add(e.pool, spec, e.at)
        row["nodes"] = len(data["nodes"])

    def _add(self, pool: str, spec: dict[str, Any], at: int) -> None:
        node = spec["name"]
        labels = spec.get("labels") or {}
        row = self._nodes.new(pool=pool, node=node, cordoned=0, joined_at=at, labels=labels)
        self._nodes.put((pool, node), row)
        for resource, amount in spec["capacity"].items():
            self._size(pool, node, resource, amount, at)

    def _amount(self, pool: str, node: str, resource: str) -> dict[str, Any]:
        key = (pool, node, resource)
        row = self._amounts.change(key)
        if row is None:
            row = self._amounts.new(
                pool=pool, node=node, resource=resource, in_use=0, spent=0, outside=0
            )
            self._amounts.put(key, row)
        return row

    def _size(self, pool: str, node: str, resource: str, amount: int, at: int) -> None:
        row = self._amount(pool, node, resource)
        self._end_capacity(pool, node, resource, row["capacity_since_at"], at)
        row["capacity"], row["capacity_since_at"] = amount, at
        since = self._capacity.new(
            pool=pool, node=node, resource=resource, since_at=at, amount=amount
        )
        self._capacity.put((pool, node, resource, at), since)
        if resource in CARD_RESOURCES:
            self._count_cards(pool, node, resource, amount // CARD)

    def _end_capacity(
        self, pool: str, node: str, resource: str, since: int | None, at: int
    ) -> None:
        key = (pool, node, resource, since)
        row = None if since is None else self._capacity.get(key)
        if row is None:
            return
        if at <= row["since_at"]:
            self._capacity.drop(key)
            return
        row["until_at"] = at
        self._capacity.put(key, row)

    def _cut(self, pool: str, sizes: dict[str, Iterable[str] | None], at: int) -> None:
        """What was said of these nodes' resources (None: of all) for times from ``at`` on is gone.

        An inventory may come after a newer one. Who speaks last is right from its time on.
        """
        latest = self._latest.get(pool)
        if latest is None:
            rows = self._capacity.under(pool)
            times = [row["until_at"] or row["since_at"] for _, row in rows]
            latest = max(times, default=at)
        self._latest[pool] = max(latest, at)
        if at >= latest:
            return
        for key, row in list(self._capacity.under(pool)):
            resources = sizes.get(key[1], ())
            if resources is not None and key[2] not in resources:
                continue
            if row["since_at"] >= at:
                self._capacity.drop(key)
            elif row["until_at"] is None or row["until_at"] > at:
                row["until_at"] = at
                self._capacity.put(key, row)

    def _count_cards(self, pool: str, node: str, resource: str, count: int) -> None:
        wanted = {str(index) for index in range(count)}
        for key, row in list(self._devices.under(pool, node, resource)):
            if key[3] in wanted:
                wanted.discard(key[3])
                row["capacity"] = CARD
                self._devices.put(key, row)
            elif row["in_use"]:
                row["capacity"] = 0
                self._devices.put(key, row)
            else:
                self._devices.drop(key)
        for card in wanted:
            self._card(pool, node, resource, card)["capacity"] = CARD

    def _card(self, pool: str, node: str, resource: str, card: str) -> dict[str, Any]:
        key = (pool, node, resource, card)
        row = self._devices.get(key)
        if row is None:
            row = self._devices.new(pool=pool, node=node, resource=resource, card=card, in_use=0)
        self._devices.put(key, row)
        return row

    def _remove(self, pool: str, node: str, at: int) -> None:
        self._nodes.drop((pool, node))
        for key, row in list(self._amounts.under(pool, node)):
            self._end_capacity(pool, node, key[2], row["capacity_since_at"], at)
            if row["in_use"]:
                # What was observed there has not ended with it.
                row["capacity"] = row["capacity_since_at"] = None
                self._amounts.put(key, row)
            else:
                self._amounts.drop(key)
        for key, _ in list(self._devices.under(pool, node)):
            self._devices.drop(key)

    def _resized(self, e: Seen) -> None:
        assert e.pool is not None
        self._cut(e.pool, {spec["name"]: spec["capacity"] for spec in e.data["nodes"]}, e.at)
        for spec in e.data["nodes"]:
            row = self._nodes.get((e.pool, spec["name"]))
            if row is None:
                raise ValueError(f"pool_resized is about {spec['name']}, which is not in {e.pool}")
            if spec.get("labels") is not None:
                row["labels"] = spec["labels"]
            row["joined_at"] = min(row["joined_at"], e.at)
            self._nodes.put((e.pool, spec["name"]), row)
            for resource, amount in spec["capacity"].items():
                self._size(e.pool, spec["name"], resource, amount, e.at)

    def _closed(self, e: Seen) -> None:
        self._pool(e).update(closed=1, closed_at=e.at)

    def _joined(self, e: Seen) -> None:
        assert e.pool is not None
        self._pool(e)["nodes"] += 1
        spec = e.data["node"]
        self._cut(e.pool, {spec["name"]: spec["capacity"]}, e.at)
        self._add(e.pool, e.data["node"], e.at)

    def _left(self, e: Seen) -> None:
        assert e.pool is not None
        self._pool(e)["nodes"] -= 1
        self._cut(e.pool, {e.data["node"]: None}, e.at)
        self._remove(e.pool, e.data["node"], e.at)

    def _cordoned(self, e: Seen) -> None:
        key = (e.pool, e.data["node"])
        row = self._nodes.get(key)
        if row is None:
            raise ValueError(f"{e.type} is about {key[1]}, which is not in {e.pool}")
        if e.type == "node_cordoned":
            row.update(cordoned=1, cordoned_at=e.at, cordon_reason=e.data.get("reason") or None)
        else:
            row.update(cordoned=0, cordoned_at=None, cordon_reason=None)
        self._nodes.put(key, row)

    def _policy_set(self, e: Seen) -> None:
        if e.pool is None:
            return
        row = self._pool(e)
        before = row["policy"]
        after = row["policy"] = {**before, **e.data["policy"]}
        probe = before.get("probe", "none")
        same = (probe, before.get("probe_host")) == (
            after.get("probe", "none"),
            after.get("probe_host"),
        )
        if probe != "none" and not same:
            # Who saw it looks no more, so that it would stand for ever.
            for key, _ in list(self._nodes.under(e.pool)):
                self._see(e.pool, key[1], {}, {}, None)

    def _observed(self, e: Seen) -> None:
        assert e.pool is not None
        data = e.data
        outside = data["outside"]
        basis = {r: text for r, text in data.get("basis", {}).items() if r in outside}
        self._see(e.pool, data["node"], outside, basis, e.at)

    def _see(
        self, pool: str, node: str, outside: dict[str, int], basis: dict[str, str], at: int | None
    ) -> None:
        row = self._nodes.get((pool, node))
        if row is None:
            raise ValueError(f"something was seen on {node}, which is not in {pool}")
        row.update(outside_basis=basis or None, outside_seen_at=at)
        self._nodes.put((pool, node), row)
        for key, amounts in list(self._amounts.under(pool, node)):
            if amounts["outside"] and key[2] not in outside:
                self._amount(*key)["outside"] = 0
        for resource, amount in outside.items():
            self._amount(pool, node, resource)["outside"] = amount

    def _replenished(self, e: Seen) -> None:
        """What is available after the refill says how much of what was spent stays spent."""
        assert e.pool is not None
        available = e.data["available"]
        for _, row in list(self._amounts.under(e.pool)):
            spent = row["spent"]
            if spent:
                held = row["in_use"] - spent
                stays = (row["capacity"] or 0) - held - available.get(row["resource"], 0)
                row = self._amount(e.pool, row["node"], row["resource"])
                row["in_use"] -= spent - stays
                row["spent"] = stays
        self._pool(e)["refilled_at"] = e.at

    # --- what is in use --------------------------------------------------------------------------

    def _flow(self, e: Seen) -> None:
        """Whatever begins or ends to be held now, on nodes and on cards."""
        life = e.life
        if life is None or life.parent is not None:
            return
        pool = life.pool
        for span in e.opened:
            if span.until is None:
                self._amount(pool, span.node, span.resource)["in_use"] += span.amount
        for span in e.closed:
            self._amount(pool, span.node, span.resource)["in_use"] -= span.amount
        for span in e.removed:
            if span.until is None:
                self._amount(pool, span.node, span.resource)["in_use"] -= span.amount
        if e.let_go is not None:
            self._use_cards(pool, e.let_go, -1)
        if e.taken is not None:
            self._use_cards(pool, e.taken, 1)

    def _use_cards(self, pool: str, placements: Iterable[dict[str, Any]], sign: int) -> None:
        for placement in placements:
            devices = placement.get("devices")
            if not devices:
                continue
            for resource, shares in devices.items():
                for card, amount in shares.items():
                    row = self._card(pool, placement["node"], resource, card)
                    row["in_use"] += sign * amount
                    if not row["in_use"] and row["capacity"] == 0:
                        self._devices.drop((pool, placement["node"], resource, card))

    def _ended(self, e: Seen) -> None:
        """What was really consumed is gone until the next refill; what nobody settled, wholly."""
        self._flow(e)
        life = e.life
        if life.parent is not None or life.granted_at is None or e.was is None:
            return
        if e.was[0] not in LIVE or life.kind == "observed":
            return
        pool = self._pools.get((life.pool,))
        if pool is None or not pool["consumable"]:
            return
        consumed = e.data.get("consumed") if e.type in ("released", "reclaimed") else None
        for placement in life.placements:
            gone = placement["amounts"] if consumed is None else consumed
            for resource, amount in gone.items():
                row = self._amount(life.pool, placement["node"], resource)
                row["in_use"] += amount
                row["spent"] += amount
