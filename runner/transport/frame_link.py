"""The connection between the supervisor and an agent on another machine: frames, never blocking at either end.

    | kind 1 | slot 4 | generation 4 | length 8 |  body ...  |

What does not fit into the connection waits in a buffer, and reading takes whatever has arrived. Each end says which
kinds it takes, and how long each may be: anything else is a `FrameError`, and the connection is given up. The body of a
worker's message is as `framing` makes it, of others a struct of `agent_messages`.

Silence has no heartbeats of ours: the kernels ask each other whether they are there (`watch_silence`), so a machine
under load, or a stopped process, never looks like one that is gone.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from runner.transport.framing import FrameError, WireBuffer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FRAME_HEAD = struct.Struct("<BIIQ")
_MAX_IOV = 64
#: Where all links of a process read, one after the other: as in `socket_link`.
_READ_BUFFER = memoryview(bytearray(1 << 18))
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


class FrameLink:
    """One end. `bounds`: the kinds that it takes, and how many bytes each may have."""

    def __init__(self, stream: ByteStream, bounds: Mapping[int, int]) -> None:
        self._stream = stream
        self._bounds = bounds
        self._unsent: deque[WireBuffer] = deque()
        #: The beginning of frames that have not arrived whole, and how long the first of them is once that is known.
        self._partial = bytearray()
        self._first_length = 0
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
        was_waiting = bool(self._unsent)
        self._unsent.append(FRAME_HEAD.pack(kind, slot, generation, sum(map(len, body))))
        self._unsent.extend(each for each in body if len(each))
        if not was_waiting:
            self.flush()

    def flush(self) -> None:
        """Write what the connection takes; one that has ended takes nothing."""
        while self._unsent:
            if self.end_reason:
                self._unsent.clear()
                return
            try:
                sent = self._stream.sendmsg([self._unsent[at] for at in range(min(_MAX_IOV, len(self._unsent)))])
            except BlockingIOError:
                return
            except OSError as error:
                self.end_reason = error.strerror or str(error) or type(error).__name__
                return
            while sent and sent >= len(self._unsent[0]):
                sent -= len(self._unsent.popleft())
            if sent:
                self._unsent[0] = memoryview(self._unsent[0])[sent:]

    def receive(self) -> list[Frame]:
        """Return the frames that have arrived whole. `end_reason` says when there will be no more."""
        frames: list[Frame] = []
        for _ in range(_MAX_READS):
            try:
                got = self._stream.recv_into(_READ_BUFFER)
            except BlockingIOError:
                return frames
            except OSError as error:
                self.end_reason = error.strerror or str(error) or type(error).__name__
                return frames
            if not got:
                self.end_reason = "the connection was closed"
                return frames
            try:
                self._parse(_READ_BUFFER[:got], frames)
            except FrameError as error:
                self.end_reason = str(error)
                return frames
        return frames

    def _parse(self, data: memoryview, frames: list[Frame]) -> None:
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
            self._first_length = FRAME_HEAD.size + length
            if left < self._first_length:
                break
            body = whole[at + FRAME_HEAD.size : at + self._first_length]
            # Copied where the buffer is read into again; what has been put together is nobody else's.
            frames.append(Frame(kind, slot, generation, memoryview(bytes(body)) if whole is data else body))
            at += self._first_length
            self._first_length = FRAME_HEAD.size
        self._partial += whole[at:]

    def close(self) -> None:
        """Close the connection."""
        self._unsent.clear()
        self._stream.close()


def watch_silence(sock: socket.socket, seconds: float) -> None:
    """Have the kernel end a connection whose other machine has not answered for so long; it asks when nobody speaks.

    Buffers are left to the kernel: what may be set is mostly less than what it takes by itself.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    pause = max(1, int(seconds / 5))
    options = {
        "TCP_KEEPIDLE": pause,
        "TCP_KEEPINTVL": pause,
        "TCP_KEEPCNT": max(1, int(seconds / pause) - 1),
        "TCP_USER_TIMEOUT": int(seconds * 1000),
    }
    for name, value in options.items():
        if hasattr(socket, name):
            with contextlib.suppress(OSError):  # a system that has the word and not the thing
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
