"""Messages whose payloads lie in shared memory: their blocks are held on arrival, and lent with a grant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from runner.transport.messages import ArenaNotice, Credit, Grant, Produced, Reply, SharedPayload

if TYPE_CHECKING:
    from runner.shm.registry import ArenaRegistry, WorkerMemory


def hold_payloads(registry: ArenaRegistry, worker_memory: WorkerMemory | None, message: Any) -> Any:
    """Return a worker's message with the blocks of its payloads held; None: a thread worker's message.

    Then let go of what a process worker itself no longer needs.
    """
    if type(message) is not Reply and type(message) is not Produced:
        return message
    for output in message.outputs:
        if output.block_refs:
            message = _hold_blocks(registry, worker_memory, message)
            break
    if worker_memory is None:
        return message
    if type(message) is Reply and (worker_memory.lent_blocks or message.still_viewed or message.released):
        registry.note_views(worker_memory, message.still_viewed, message.released)
        for ack in message.acks:
            if not ack.keeps_rest:
                worker_memory.lent_blocks.pop(ack.lease, None)
    if registry.orphans:
        registry.close_orphans()
    return message


def _hold_blocks(registry: ArenaRegistry, worker_memory: WorkerMemory | None, message: Any) -> Any:
    held = []
    for output in message.outputs:
        blocks = tuple(registry.hold_block(worker_memory, *block_ref) for block_ref in output.block_refs)
        held.append(replace(output, payload=SharedPayload(output.payload, blocks)) if blocks else output)
    return replace(message, outputs=tuple(held))


def lend_payloads(registry: ArenaRegistry, worker_memory: WorkerMemory, message: Any) -> tuple[Any, list[ArenaNotice]]:
    """Return a message to a worker with freed offsets added, and the arenas that it must be given before."""
    notices: list[ArenaNotice] = []
    if type(message) is Grant:
        for grant in (message, *message.other_grants):
            blocks: list[Any] = []
            for part in grant.parts:
                if type(part.payload) is SharedPayload:
                    blocks += part.payload.blocks
            if blocks:
                unknown = registry.lend_blocks(worker_memory, grant.lease, blocks)
                notices += [ArenaNotice(number, fd) for number, fd in unknown]
    elif type(message) is not Credit:
        return message, notices
    if worker_memory.arena is not None and worker_memory.arena.freed_offsets:
        message = replace(message, freed_offsets=worker_memory.arena.take_freed_offsets())
    return message, notices
