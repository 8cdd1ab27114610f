"""Outputs some of whose bytes lie in shared memory: their blocks are held on arrival."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from runner.transport.messages import SharedPayload

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.shm.registry import ArenaRegistry, WorkerMemory
    from runner.transport.messages import Output


def hold_payloads(
    registry: ArenaRegistry, worker_memory: WorkerMemory | None, outputs: Iterable[Output]
) -> tuple[Output, ...]:
    """Return a worker's outputs with the blocks held that they name; None: a thread worker's."""
    held = []
    for output in outputs:
        blocks = tuple(registry.hold_block(worker_memory, *block_ref) for block_ref in output.block_refs)
        held.append(replace(output, payload=SharedPayload(output.payload, blocks)) if blocks else output)
    return tuple(held)
