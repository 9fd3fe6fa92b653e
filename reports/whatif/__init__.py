"""What-if: a stretch of the record decided again, as it was or under another policy.

Every outcome carries its full request, so its command can be rebuilt
(:mod:`reports.whatif.commands`, :mod:`reports.whatif.actions`) and decided again by the writer's own
steps (:mod:`reports.whatif.replay`).
Unchanged, the record comes out again, event for event. Changed (:mod:`reports.whatif.changes`), fates
part somewhere, and :func:`ask` says where, and what both come to. Nothing is written.
"""

from __future__ import annotations

from reports.whatif.asking import Answer, Changes, Differing, ask

__all__ = ["Answer", "Changes", "Differing", "ask"]
