"""Sentences of imported history: in an observed pool nothing is decided, and no lease runs.

A source tells when a thing was asked for, held and given back; the end of a "lease" in its events is
the time until which it was known to be held.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.events import (
    Allocated,
    Event,
    Expired,
    Queued,
    Reclaimed,
    Released,
    Renewed,
    Transferred,
    Withdrawn,
)
from projections.sentences import request_text, sentence
from projections.wording import lasting, moment_text, plain, words


def observed_sentence(event: Event) -> str:
    """As :func:`projections.sentences.sentence`, of an allocation in an observed pool."""
    body = event.body
    match body:
        case Queued():
            return f"{plain(event.holder)} asked for {request_text(body.request)} of {event.pool}"
        case Allocated():
            seen = ""
            if body.lease_until is not None and body.lease_until > event.at:
                seen = f", and was known to hold it for {lasting(body.lease_until - event.at)}"
            request = replace(body.request, process=None)
            return (
                sentence(replace(event, body=replace(body, lease_until=None, request=request)))
                + seen
            )
        case Renewed() if body.lease_until is not None:
            return f"it was still held at {moment_text(body.lease_until)} UTC"
        case Transferred():
            return sentence(replace(event, body=replace(body, lease_until=None)))
        case Released():
            return f"{plain(body.by)} gave it back"
        case Expired():
            return "it ended: its time limit was over"
        case Reclaimed():
            return f"it ended: {words(body.cause)}"
        case Withdrawn():
            return f"it ended without having held anything: {words(body.cause)}"
        case _:
            return sentence(event)
