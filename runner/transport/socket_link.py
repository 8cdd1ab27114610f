"""The two ends of a process worker's private socket.

The worker's end blocks. The supervisor's end never does: what does not fit into the socket waits in a buffer, and
reading takes whatever has arrived, so that a slow or dead worker costs the others nothing.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from runner.transport import framing
from runner.transport.messages import ArenaNotice

if TYPE_CHECKING:
    from runner.transport.messages import FromWorker, ToWorker

_BUFFER = 1 << 20
_MOST_IOV = 64
#: Room for descriptors beside what arrives, and the flag that keeps them out of children.
_BESIDE = socket.CMSG_SPACE(64) if hasattr(socket, "CMSG_SPACE") else 0
_CLOEXEC: int = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
#: Where the supervisor reads; one for all its links, because each read is parsed before the next one begins.
#: (A fresh buffer for each read costs more than the read: its pages must be mapped anew.)
_SCRATCH = memoryview(bytearray(1 << 18))


def connected_pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair, with room for a chunk in each direction."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in (ours, theirs):
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):  # a smaller buffer only costs a wake-up
                end.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    return ours, theirs


class WorkerLink:
    """The worker's end: blocking, used by one thread for each direction."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._fds: deque[int] = deque()
        sock.setblocking(True)

    def fileno(self) -> int:
        """For selectors and event loops."""
        return self._socket.fileno()

    def send(self, message: FromWorker) -> None:
        """Write a whole message."""
        buffers = framing.pack_message(message)
        beside = _carrying(message.fd) if type(message) is ArenaNotice else []
        left = _advance(buffers, self._socket.sendmsg(buffers[:_MOST_IOV], beside))
        while left:
            left = _advance(left, self._socket.sendmsg(left[:_MOST_IOV]))

    def receive(self) -> Any:
        """Return the next message; raise `EOFError` when the supervisor is gone."""
        header, payload = framing.read_prefix(self._read(framing.PREFIX_STRUCT.size))
        body = self._read(header + payload)
        return _with_fd(framing.unpack_message(body[:header], body[header:]), self._fds)

    def has_message(self, timeout: float = 0.0) -> bool:
        """Return True if a message (or its beginning) arrives within `timeout` seconds."""
        return bool(select.select([self._socket], [], [], timeout)[0])

    def _read(self, length: int) -> memoryview:
        view = whole = memoryview(bytearray(length))
        while view:
            got, beside, _, _ = self._socket.recvmsg_into([view], _BESIDE, _CLOEXEC)
            if beside:
                self._fds.extend(_fds_of(beside))
            if not got:
                raise EOFError
            view = view[got:]
        return whole

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _advance(buffers: list[framing.WireBuffer], sent: int) -> list[framing.WireBuffer]:
    """Return the rest of some buffers of which `sent` bytes have been sent."""
    for at, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *buffers[at + 1 :]]
        sent -= len(buffer)
    return []


def _carrying(fd: int) -> list[Any]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []


def _fds_of(beside: list[Any]) -> list[int]:
    """The descriptors that came beside some bytes; they are ours to close."""
    fds = array.array("i")
    for level, kind, data in beside:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _with_fd(message: Any, fds: deque[int]) -> Any:
    """An `ArenaNotice` with the descriptor that came along; one that did not arrive (no room for it) leaves -1."""
    if type(message) is ArenaNotice:
        return replace(message, fd=fds.popleft() if fds else -1)
    return message


class SupervisorLink:
    """The supervisor's end: never blocks. Whole messages out, whatever has arrived in."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        sock.setblocking(False)
        self._out: deque[memoryview] = deque()
        #: The first bytes of messages that carry a descriptor, in order: each goes out by itself, with it.
        self._carried: deque[tuple[memoryview, int]] = deque()
        self._fds: deque[int] = deque()
        #: The beginning of a message that has not arrived whole, and how long it will be when that is known.
        self._in = bytearray()
        self._length = 0
        #: All bytes that have arrived; whether some of them are no message.
        self.received_bytes = 0
        self.is_garbled = False

    @property
    def has_partial_message(self) -> bool:
        """True if the beginning of a message has arrived, and not its end."""
        return bool(self._in)

    def fileno(self) -> int:
        """For the selector."""
        return self._socket.fileno()

    @property
    def wants_to_write(self) -> bool:
        """True if something waits until the worker has read."""
        return bool(self._out)

    def send(self, message: ToWorker) -> None:
        """Hand a message over; what the socket does not take now goes out with `flush`."""
        buffers = framing.pack_message(message)
        fd = message.fd if type(message) is ArenaNotice else -1
        if fd < 0 and not self._out and len(buffers) <= _MOST_IOV:  # the usual message goes out whole
            buffers = _advance(buffers, self._sent(buffers))
            if not buffers:
                return
        views = [memoryview(buffer) for buffer in buffers if len(buffer)]
        if fd >= 0:
            self._carried.append((views[0], fd))
        self._out.extend(views)
        self.flush()

    def _sent(self, buffers: list[framing.WireBuffer]) -> int:
        """Send some buffers and return the number of bytes taken; all of them when the worker is gone."""
        try:
            return self._socket.sendmsg(buffers)
        except BlockingIOError:
            return 0
        except OSError:
            return sum(map(len, buffers))

    def flush(self) -> None:
        """Write what the socket takes. A worker that is gone takes nothing: its death is reported elsewhere."""
        while self._out:
            buffers, beside = self._next()
            try:
                sent = self._socket.sendmsg(buffers, beside)
            except BlockingIOError:
                return
            except OSError:
                self._out.clear()
                self._carried.clear()
                return
            if beside:
                self._carried.popleft()
            while sent:
                first = self._out[0]
                if sent < len(first):
                    self._out[0] = first[sent:]
                    break
                sent -= len(first)
                self._out.popleft()

    def _next(self) -> tuple[list[memoryview], list[Any]]:
        """Return the buffers that go out next, and the descriptor beside them."""
        buffers = [self._out[at] for at in range(min(_MOST_IOV, len(self._out)))]
        if self._carried:
            first, fd = self._carried[0]
            if buffers[0] is first:
                return [first], _carrying(fd)
            for at, buffer in enumerate(buffers):
                if buffer is first:
                    return buffers[:at], []
        return buffers, []

    def receive(self) -> tuple[list[Any], bool]:
        """Return the messages that have arrived whole, and False when no more can follow (the end, or junk)."""
        messages: list[Any] = []
        while True:
            try:
                got, beside, _, _ = self._socket.recvmsg_into([_SCRATCH], _BESIDE, _CLOEXEC)
            except BlockingIOError:
                return messages, True
            except OSError:  # a reset, at the death of the worker
                got, beside = 0, []
            if beside:
                self._fds.extend(_fds_of(beside))
            if not got:
                return messages, False
            self.received_bytes += got
            try:
                self._take(_SCRATCH[:got], messages)
            except framing.FrameError:
                self.is_garbled = True
                return messages, False
            if got < len(_SCRATCH) and not beside:
                return messages, True

    def _take(self, data: memoryview, messages: list[Any]) -> None:
        """Read what has arrived; payloads are copied out of it."""
        if self._in:
            self._in += data
            if len(self._in) < self._length:
                return
            whole, self._in = self._in, bytearray()
            data = memoryview(whole)
        at = 0
        size = framing.PREFIX_STRUCT.size
        while (left := len(data) - at) >= size:
            header, payload = framing.read_prefix(data[at : at + size])
            self._length = size + header + payload
            if left < self._length:
                break
            at += size
            message = framing.unpack_message(data[at : at + header], data[at + header : at + header + payload])
            messages.append(_with_fd(message, self._fds))
            at += header + payload
            self._length = 0
        self._in += data[at:]

    def close(self) -> None:
        """Close the socket, and descriptors that came with nothing."""
        while self._fds:
            os.close(self._fds.popleft())
        self._socket.close()
