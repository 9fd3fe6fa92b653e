"""Events of the log as CloudEvents 1.0 (https://github.com/cloudevents/spec, JSON format).

``type`` is ``org.leasebook.`` + the event's type + ``.v`` + its schema number, such as
``org.leasebook.allocated.v1``: reverse-DNS as the specification recommends, with the number, so that
a consumer sees when ``data`` means something else. ``source`` is the ledger as a URN; ``id`` is the
position and the beginning of the event's hash, since a ledger restored from a backup may give a
position twice. Extension attributes: ``recordedtime`` and ``sequence`` as the specification's own
extensions of these names have them, and ``tenant``, ``pool``, ``allocation``, ``holder``, ``task``,
``commandid``, ``digest`` and ``chainhash``; what an event does not have is left out.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

from ledger.log import Row
from ledger.times import rfc3339
from projections.wording import plain
from reports.audit.entries import Trail
from reports.audit.writing import row_out, subject_of

Json = dict[str, Any]

TYPE_PREFIX: Final = "org.leasebook."
ID_HASH_DIGITS: Final = 16
_NOT_IN_TYPE: Final = re.compile(r"[^A-Za-z0-9_.-]")


def source_of(ledger_id: str) -> str:
    """The ledger as a URN: ``urn:uuid:…`` where its id is a UUID, else ``urn:leasebook:…``."""
    try:
        return f"urn:uuid:{UUID(ledger_id)}"
    except ValueError:
        return f"urn:leasebook:{quote(ledger_id, safe='') or 'unnamed'}"


def cloud_event(row: Row, source: str, subject: str, data: Json) -> Json:
    """One event in its envelope. ``source`` is :func:`source_of` the ledger's id."""
    known = _NOT_IN_TYPE.sub("_", row.type)
    envelope: Json = {
        "specversion": "1.0",
        "id": f"{row.position}-{row.hash.hex()[:ID_HASH_DIGITS]}",
        "source": source,
        "type": f"{TYPE_PREFIX}{known}.v{row.schema}",
        "time": rfc3339(row.at),
        "subject": subject,
        "datacontenttype": "application/json",
        "recordedtime": rfc3339(row.recorded_at),
        # Text that sorts as the numbers do, as the sequence extension wants it.
        "sequence": f"{row.position:020d}",
        "tenant": row.tenant,
        "pool": row.pool,
        "allocation": row.allocation,
        "holder": row.holder,
        "task": row.task,
        "commandid": row.command_id,
        "digest": row.digest.hex(),
        "chainhash": row.hash.hex(),
    }
    # Attributes hold no control characters and no empty text; data may hold anything.
    kept = {name: plain(value) for name, value in envelope.items() if value}
    return {**kept, "data": data}


IN_ENVELOPE: Final = frozenset(
    {"position", "at", "recorded_at", "type", "tenant", "pool", "allocation", "holder", "task"}
    | {"command_id", "subject"}
)


def trail_cloudevents(trail: Trail) -> list[Json]:
    """A trail as a JSON batch: each entry's sentence, links and fields are its ``data``."""
    source = source_of(trail.rests.ledger_id)
    batch = []
    for entry in trail.entries:
        data = {name: v for name, v in row_out(entry).items() if name not in IN_ENVELOPE}
        batch.append(cloud_event(entry.row, source, subject_of(entry), data))
    return batch
