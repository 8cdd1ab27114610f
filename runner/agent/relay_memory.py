"""An agent's part in large payloads: see `engines.remote_memory`, which has the picture.

The agent holds the blocks that its workers have made, and the bytes that it was sent, until the supervisor says that
no task needs them. Its registry counts beside that who has what on this machine; a place is used again when both agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from runner.engines.inline_payloads import inline_grant
from runner.shm.registry import NODE_SHIFT
from runner.transport import agent_messages as frames
from runner.transport import framing, kept_items
from runner.transport.agent_messages import decode_body
from runner.transport.frame_link import BLOCK_HEAD, check_place
from runner.transport.framing import FrameError
from runner.transport.messages import Produced, Reply, SharedPayload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.engines.processes import ProcessEngine
    from runner.shm.reader import BlockKey
    from runner.shm.registry import ArenaRegistry, Block
    from runner.transport.frame_link import Frame, FrameLink

#: Blocks by the lease for which they are lent.
Lent = list[tuple[int, list[tuple[int, int]]]]


class RelayMemory:
    """The blocks of one agent, in `registry`."""

    def __init__(self, link: FrameLink, registry: ArenaRegistry) -> None:
        self._link, self._registry = link, registry
        link.place_block = self._place_block
        #: What the supervisor believes to be here: blocks, and the bytes of those for which there was no memory.
        self._kept: dict[BlockKey, Block | bytearray] = {}
        #: The blocks of the grant that comes next.
        self._lent: Lent = []

    # -- from the supervisor ---------------------------------------------------------------------------------

    def _place_block(self, number: int, offset: int, length: int) -> memoryview:
        check_place(number, offset, length)
        if number >> NODE_SHIFT == self._registry.node_number:
            raise FrameError("it sent bytes of an arena that is this machine's own")
        try:
            return self._registry.twin_of(number).room_at(offset, length)
        except (OSError, ValueError):  # no descriptor, no memory or no addresses are left
            return memoryview(bytearray(length))

    def take_block(self, frame: Frame) -> None:
        """Keep a block that has arrived."""
        number, offset = BLOCK_HEAD.unpack(frame.body)
        assert frame.block is not None
        arena = self._registry.find_arena(number)
        if type(frame.block.obj) is bytearray:
            self._kept[number, offset] = frame.block.obj
        elif arena is None or offset in arena.blocks:
            raise FrameError("it sent bytes for a place that is in use")
        else:
            self._kept[number, offset] = arena.block_at(offset, len(frame.block))

    def free_blocks(self, frame: Frame) -> None:
        """Let go of blocks that no task needs."""
        for key in decode_body(frame.body, list[tuple[int, int]]):
            self._kept.pop(key, None)
            arena = self._registry.find_arena(key[0])
            if arena is not None and arena.owner is None:  # a twin: no writer is told
                arena.take_freed_offsets()
        if self._registry.orphans:
            self._registry.close_orphans()

    def close_twins(self, frame: Frame) -> None:
        """Close the twins of arenas that are gone."""
        for number in decode_body(frame.body, list[int]):
            if number >> NODE_SHIFT != self._registry.node_number:
                self._registry.close_twin(number)

    def note_lent(self, frame: Frame) -> None:
        """Note the blocks of the grant that follows."""
        self._lent = decode_body(frame.body, Lent)

    def take_lent(self) -> Lent:
        """Return the blocks of a message that has come, whether its worker is there or not."""
        lent, self._lent = self._lent, []
        return lent

    def pass_message(self, engine: ProcessEngine, slot: int, body: memoryview, lent: Lent) -> None:
        """Hand a message over, with the blocks that it names."""
        found = [(lease, [self._kept.get(key) for key in keys]) for lease, keys in lent]
        if any(type(block) is bytearray for _, blocks in found for block in blocks):
            message = _with_payloads(framing.unpack_whole(body))
            message = inline_grant(message, kept_items.block_reader(self._kept))
            body = memoryview(b"".join(framing.pack_message(message)))
            found = []
        elif any(block is None for _, blocks in found for block in blocks):
            raise FrameError("it lent what this machine does not have")
        engine.send_packed(slot, body, found)

    # -- to the supervisor -----------------------------------------------------------------------------------

    def send_outputs(self, slot: int, generation: int, message: Reply | Produced) -> Reply | Produced:
        """Send the bytes that the supervisor lacks of a message; return the message as it is sent."""
        outputs = []
        for output in message.outputs:
            if type(output.payload) is SharedPayload:
                self._send_blocks(slot, generation, output.payload.blocks)
                output = replace(output, payload=output.payload.data)  # noqa: PLW2901  the same, in other words
            outputs.append(output)
        return replace(message, outputs=tuple(outputs))

    def _send_blocks(self, slot: int, generation: int, blocks: Sequence[Any]) -> None:
        for block in blocks:
            key = block.arena.number, block.offset
            if key not in self._kept:  # and kept while its bytes are under way, whatever its writer does
                self._kept[key] = block
                body = block.arena.bytes_at(block.offset, block.length)
                self._link.gather(frames.MADE, slot, generation, (BLOCK_HEAD.pack(*key), body))

    def close(self) -> None:
        """Let go of everything."""
        self._kept.clear()


def _with_payloads(message: Any) -> Any:
    """Return a grant of which each payload is known to name blocks, or may."""
    parts = tuple([replace(part, payload=SharedPayload(part.payload, ())) for part in message.parts])
    others = tuple([_with_payloads(other) for other in message.other_grants])
    return replace(message, parts=parts, other_grants=others)
