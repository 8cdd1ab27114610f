"""The connection between the supervisor and an agent on another machine: frames, never blocking at either end.

    | kind 1 | slot 4 | generation 4 | length 8 |  body ...  |

What does not fit into the connection waits in a buffer, and reading takes whatever has arrived. Each end says which
kinds it takes, and how long each may be: anything else is a `FrameError`, and the connection is given up. The body of a
worker's message is as `framing` makes it, of others a struct of `agent_messages`.

Frames of one kind hold the bytes of a block in shared memory: they are written from where they are, and read into where
`place_block` says, without a copy between. Who hands them over keeps the block until the other end knows it.

    | kind 1 | slot 4 | generation 4 | length 8 |  number 8 | offset 8 |  bytes ...  |

Silence has no heartbeats of ours: the kernels ask each other whether they are there (`watch_silence`), so a machine
under load, or a stopped process, never looks like one that is gone.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from runner.shm.writer import ARENA_BYTES, PAGE_SIZE
from runner.transport.framing import FrameError, WireBuffer
from runner.transport.linux_only import limit_silence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FRAME_HEAD = struct.Struct("<BIIQ")
#: Before the bytes of a block: its arena's number, and its offset there.
BLOCK_HEAD = struct.Struct("<QQ")
#: A rest of a block that is shorter goes through the buffer: with what follows it takes one call.
_DIRECT_BYTES = 1 << 12
_MAX_IOV = 64
#: What is gathered goes out at once if it is as much, so that the other end begins with it.
_MAX_GATHERED_BYTES = 1 << 16
#: Where all links of a process read, one after the other: as in `socket_link`.
_READ_BUFFER = memoryview(bytearray(1 << 18))
#: Between blocks come short frames: then this is read at once, and more of the next block goes to its place directly.
_SHORT_READ = _READ_BUFFER[:_DIRECT_BYTES]
#: A link reads so many buffers at most before others have their turn.
_MAX_READS = 16


class ByteStream(Protocol):
    """The calls of a socket that a link needs. BlockingIOError: not now; any other OSError: it has ended."""

    def fileno(self) -> int:
        """Return the descriptor to wait for."""

    def sendmsg(self, buffers: list[Any], /) -> int:
        """Write what it takes of some buffers; return how many bytes."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Read what has arrived; return how many bytes, 0 at the end."""

    def close(self) -> None:
        """Close it."""


class Frame(NamedTuple):
    """A frame that has arrived whole."""

    kind: int
    slot: int
    generation: int
    body: memoryview
    #: The bytes of a block, where they have been read into; the body is then what stands before them.
    block: memoryview | None = None


class FrameLink:
    """One end. `bounds`: the kinds that it takes, and how many bytes each may have; `block_kind` has blocks."""

    def __init__(self, stream: ByteStream, bounds: Mapping[int, int], block_kind: int = -1) -> None:
        self._stream = stream
        self._bounds = bounds
        self._block_kind = block_kind
        #: Returns where the bytes of a block go, of a (number, offset, length); FrameError: nowhere.
        self.place_block: Callable[[int, int, int], memoryview] = _refuse_block
        self._unsent: deque[WireBuffer] = deque()
        self._unsent_bytes = 0
        #: The connection took nothing at the last try: the next one is made when it can.
        self._is_full = False
        #: The beginning of frames that have not arrived whole, and how long the first of them is once that is known.
        self._partial = bytearray()
        self._first_length = 0
        #: A block of which not all has arrived, and where the rest goes.
        self._block_frame: Frame | None = None
        self._block_rest = memoryview(b"")
        #: A stream may need room for all that it has read, as no selector sees that (see `encryption`).
        self._least_read = max(_DIRECT_BYTES, getattr(stream, "least_read", 0))
        #: What came last was a block.
        self._follows_block = False
        #: Why nothing more can be sent or will arrive; empty while it goes on.
        self.end_reason = ""

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._stream.fileno()

    @property
    def wants_to_write(self) -> bool:
        """Return True if something waits until the other end has read."""
        return bool(self._unsent)

    def send(self, kind: int, slot: int = 0, generation: int = 0, body: Sequence[WireBuffer] = ()) -> None:
        """Hand a frame over; what the connection does not take now goes out with `flush`."""
        self.gather(kind, slot, generation, body)
        if not self._is_full:
            self.flush()

    def gather(self, kind: int, slot: int = 0, generation: int = 0, body: Sequence[WireBuffer] = ()) -> None:
        """Hand over a frame that goes out with the next `flush`, together with others: each call costs as much."""
        length = sum(map(len, body))
        self._unsent.append(FRAME_HEAD.pack(kind, slot, generation, length))
        self._unsent.extend([each for each in body if len(each)])
        self._unsent_bytes += FRAME_HEAD.size + length
        if self._unsent_bytes >= _MAX_GATHERED_BYTES and not self._is_full:
            self.flush()

    def flush(self) -> None:
        """Write what the connection takes; one that has ended takes nothing."""
        while self._unsent:
            if self.end_reason:
                self._unsent.clear()
                return
            try:
                self._is_full = True
                sent = self._stream.sendmsg([self._unsent[at] for at in range(min(_MAX_IOV, len(self._unsent)))])
            except BlockingIOError:
                return
            except OSError as error:
                self.end_reason = error.strerror or str(error) or type(error).__name__
                return
            self._is_full = False
            self._unsent_bytes -= sent
            while sent and sent >= len(self._unsent[0]):
                sent -= len(self._unsent.popleft())
            if sent:
                self._unsent[0] = memoryview(self._unsent[0])[sent:]

    def receive(self) -> list[Frame]:
        """Return the frames that have arrived whole. `end_reason` says when there will be no more."""
        frames: list[Frame] = []
        for _ in range(_MAX_READS):
            is_direct = len(self._block_rest) >= self._least_read
            buffer = self._block_rest if is_direct else _SHORT_READ if self._follows_block else _READ_BUFFER
            try:
                got = self._stream.recv_into(buffer)
            except BlockingIOError:
                return frames
            except OSError as error:
                self.end_reason = error.strerror or str(error) or type(error).__name__
                return frames
            if not got:
                self.end_reason = "the connection was closed"
                return frames
            if is_direct:
                self._advance_block(got, frames)
                continue
            try:
                self._parse(buffer[:got], frames)
            except FrameError as error:
                self.end_reason = str(error)
                return frames
            if got < len(buffer):  # a selector says when there is more
                return frames
        return frames

    def _advance_block(self, count: int, frames: list[Frame]) -> None:
        """Note that more of a block is where it goes."""
        self._block_rest = self._block_rest[count:]
        if not self._block_rest and self._block_frame is not None:
            frames.append(self._block_frame)
            self._block_frame = None

    def _begin_block(self, head: Frame, length: int, data: memoryview, frames: list[Frame]) -> int:
        """Take what there is of a block; return how many bytes."""
        if length <= 0:
            raise FrameError("it sent a block without bytes")
        number, offset = BLOCK_HEAD.unpack(head.body)
        block = self.place_block(number, offset, length)
        if len(block) != length:
            raise FrameError(f"it sent {length:,} bytes for a place of {len(block):,}")
        self._block_frame, self._block_rest = head._replace(block=block), block
        self._follows_block = self._least_read == _DIRECT_BYTES
        return self._take_rest(data, frames)

    def _take_rest(self, data: memoryview, frames: list[Frame]) -> int:
        count = min(len(self._block_rest), len(data))
        self._block_rest[:count] = data[:count]
        self._advance_block(count, frames)
        return count

    def _parse(self, data: memoryview, frames: list[Frame]) -> None:
        if len(data) == _DIRECT_BYTES:  # more than short frames, unless a block begins here
            self._follows_block = False
        if self._block_frame is not None:
            data = data[self._take_rest(data, frames) :]
        if self._partial:
            self._partial += data
            if len(self._partial) < self._first_length:
                return
            whole, self._partial = memoryview(self._partial), bytearray()
        else:
            whole = data
        at, self._first_length = 0, FRAME_HEAD.size
        while (left := len(whole) - at) >= FRAME_HEAD.size:
            kind, slot, generation, length = FRAME_HEAD.unpack_from(whole, at)
            if kind not in self._bounds:
                raise FrameError(f"it sent what is not a message (kind {kind})")
            if length > self._bounds[kind]:
                raise FrameError(f"it announced a message of {length:,} bytes (kind {kind})")
            is_block = kind == self._block_kind
            self._first_length = FRAME_HEAD.size + (BLOCK_HEAD.size if is_block else length)
            if left < self._first_length:
                break
            body = whole[at + FRAME_HEAD.size : at + self._first_length]
            # Copied where the buffer is read into again; what has been put together is nobody else's.
            frame = Frame(kind, slot, generation, memoryview(bytes(body)) if whole is data else body)
            at += self._first_length
            if is_block:
                at += self._begin_block(frame, length - BLOCK_HEAD.size, whole[at:], frames)
            else:
                frames.append(frame)
            self._first_length = FRAME_HEAD.size
        self._partial += whole[at:]

    def close(self) -> None:
        """Close the connection."""
        self._unsent.clear()
        self._block_frame, self._block_rest = None, memoryview(b"")
        self._stream.close()


def check_place(number: int, offset: int, length: int) -> None:
    """Raise FrameError if a block cannot be there."""
    if offset % PAGE_SIZE or not 0 < length <= ARENA_BYTES - offset:
        raise FrameError(f"it sent a block that cannot be: {length:,} bytes at {offset:,} of arena {number}")


def _refuse_block(number: int, offset: int, length: int) -> memoryview:
    raise FrameError(f"it sent {length:,} bytes of shared memory ({number}, {offset}) where none are taken")


def watch_silence(sock: socket.socket, seconds: float) -> None:
    """Have the kernel end a connection whose other machine has not answered for so long; it asks when nobody speaks.

    Buffers are left to the kernel: what may be set is mostly less than what it takes by itself.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    limit_silence(sock, seconds)
