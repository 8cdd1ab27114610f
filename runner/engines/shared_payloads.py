"""Outputs some of whose bytes lie in shared memory: their blocks are held on arrival."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

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
