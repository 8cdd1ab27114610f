"""Outputs some of whose bytes lie in shared memory: their blocks are held on arrival."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from runner.shm.writer import ARENA_BYTES, PAGE_SIZE
from runner.transport import kept_items
from runner.transport.framing import FrameError
from runner.transport.messages import Reply, SharedPayload

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.shm.registry import ArenaRegistry, WorkerMemory
    from runner.transport.messages import Grant, Output, Produced


def hold_payloads(
    registry: ArenaRegistry, worker_memory: WorkerMemory | None, outputs: Iterable[Output]
) -> tuple[Output, ...]:
    """Return a worker's outputs with the blocks held that they name; None: a thread worker's."""
    held = []
    for output in outputs:
        blocks = tuple(registry.hold_block(worker_memory, *block_ref) for block_ref in output.block_refs)
        held.append(replace(output, payload=SharedPayload(output.payload, blocks)) if blocks else output)
    return tuple(held)


def hold_message(registry: ArenaRegistry, worker_memory: WorkerMemory, message: Reply | Produced) -> Reply | Produced:
    """Return a process worker's message with the blocks held that it names; let go of what the worker itself did."""
    for output in message.outputs:
        if output.block_refs:
            message = replace(message, outputs=hold_payloads(registry, worker_memory, message.outputs))
            break
    if type(message) is Reply and (worker_memory.lent_blocks or message.still_viewed or message.released):
        registry.note_views(worker_memory, message.still_viewed, message.released)
        for ack in message.acks:
            if not ack.keeps_rest:
                worker_memory.lent_blocks.pop(ack.lease, None)
    return message


def granted_blocks(grant: Grant) -> list[Any]:
    """Return the blocks in which bytes of a grant lie, without those of `other_grants`."""
    return [block for part in grant.parts if type(part.payload) is SharedPayload for block in part.payload.blocks]


def check_place(number: int, offset: int, length: int) -> None:
    """Raise FrameError if a block cannot be there."""
    if offset % PAGE_SIZE or not 0 < length <= ARENA_BYTES - offset:
        raise FrameError(f"it sent a block that cannot be: {length:,} bytes at {offset:,} of arena {number}")


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
