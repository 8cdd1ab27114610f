"""Grants to machines without shared memory: what lies in arenas travels in the payload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from runner.transport import kept_items
from runner.transport.messages import SharedPayload

if TYPE_CHECKING:
    from runner.transport.messages import Grant


def inline_grant(grant: Grant, read_block: Any = None) -> Grant:
    """Return a grant whose payloads bring along what of them lies in arenas."""
    reading = () if read_block is None else (read_block,)
    parts = []
    before, inlined = None, b""
    for part in grant.parts:
        payload = part.payload
        if type(payload) is SharedPayload:
            if payload is not before:
                before = payload
                try:
                    inlined = kept_items.inline_payload(payload.data, *reading)
                except kept_items.NotKept:  # its reader finds the same, and says so
                    inlined = payload.data
            part = replace(part, payload=inlined)  # noqa: PLW2901  the same part, in other words
        parts.append(part)
    others = tuple([inline_grant(other, read_block) for other in grant.other_grants])
    return replace(grant, parts=tuple(parts), other_grants=others)
