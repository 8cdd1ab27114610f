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

_SOCKET_BUFFER_BYTES = 1 << 20
_MAX_IOV = 64
#: Room for descriptors beside what arrives, and the flag that keeps them out of children.
_ANCILLARY_BYTES = socket.CMSG_SPACE(64) if hasattr(socket, "CMSG_SPACE") else 0
_RECEIVE_FLAGS: int = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
#: Where the supervisor reads; one for all its links, because each read is parsed before the next one begins.
#: bench small: a fresh buffer for each read costs more than the read, because its pages must be mapped anew.
_READ_BUFFER = memoryview(bytearray(1 << 18))


def connected_pair() -> tuple[socket.socket, socket.socket]:
    """Make a connected pair, with room for a chunk in each direction."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in (ours, theirs):
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):  # a smaller buffer only costs a wake-up
                end.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER_BYTES)
    return ours, theirs


class WorkerLink:
    """The worker's end: blocking, used by one thread for each direction."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._received_fds: deque[int] = deque()
        sock.setblocking(True)

    def fileno(self) -> int:
        """Return the socket's descriptor, for selectors and event loops."""
        return self._socket.fileno()

    def send(self, message: FromWorker) -> None:
        """Write a whole message."""
        left, ancillary = framing.pack_message(message), _fd_message(message)
        while left:
            left = _unsent_buffers(left, self._socket.sendmsg(left[:_MAX_IOV], ancillary))
            ancillary = []

    def receive(self) -> Any:
        """Return the next message; `EOFError` when the supervisor is gone."""
        header, payload = framing.read_prefix(self._read_exactly(framing.PREFIX_STRUCT.size))
        body = self._read_exactly(header + payload)
        return _attach_fd(framing.unpack_message(body[:header], body[header:]), self._received_fds)

    def has_message(self, timeout: float = 0.0) -> bool:
        """Return True if a message (or its beginning) arrives within `timeout` seconds."""
        return bool(select.select([self._socket], [], [], timeout)[0])

    def _read_exactly(self, length: int) -> memoryview:
        view = whole = memoryview(bytearray(length))
        while view:
            got, ancillary, _, _ = self._socket.recvmsg_into([view], _ANCILLARY_BYTES, _RECEIVE_FLAGS)
            if ancillary:
                self._received_fds.extend(_received_fds(ancillary))
            if not got:
                raise EOFError
            view = view[got:]
        return whole

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _unsent_buffers(buffers: list[framing.WireBuffer], sent: int) -> list[framing.WireBuffer]:
    """Return what is left of some buffers after `sent` bytes."""
    for at, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *buffers[at + 1 :]]
        sent -= len(buffer)
    return []


def _fd_message(message: Any) -> list[Any]:
    """Return the ancillary data with the descriptor that travels beside a message, if one does."""
    if type(message) is not ArenaNotice or message.fd < 0:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [message.fd]))]


def _received_fds(ancillary: list[Any]) -> list[int]:
    """Return the descriptors that came beside some bytes; they are ours to close."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _attach_fd(message: Any, fds: deque[int]) -> Any:
    """Give an `ArenaNotice` the descriptor that came along; one that did not arrive (no room for it) leaves -1."""
    if type(message) is ArenaNotice:
        return replace(message, fd=fds.popleft() if fds else -1)
    return message


class SupervisorLink:
    """The supervisor's end: never blocks. Whole messages out, whatever has arrived in."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        sock.setblocking(False)
        #: Messages that the socket has not taken whole: what is left of each, and the ancillary data beside it.
        self._unsent: deque[tuple[list[framing.WireBuffer], list[Any]]] = deque()
        self._received_fds: deque[int] = deque()
        #: The beginning of a message that has not arrived whole, and how long it will be when that is known.
        self._partial_message = bytearray()
        self._message_length = 0
        #: All bytes that have arrived; whether some of them are no message.
        self.received_bytes = 0
        self.is_garbled = False

    @property
    def has_partial_message(self) -> bool:
        """Return True if the beginning of a message has arrived, and not its end."""
        return bool(self._partial_message)

    def fileno(self) -> int:
        """Return the socket's descriptor, for the selector."""
        return self._socket.fileno()

    @property
    def wants_to_write(self) -> bool:
        """Return True if something waits until the worker has read."""
        return bool(self._unsent)

    def send(self, message: ToWorker) -> None:
        """Hand a message over; what the socket does not take now goes out with `flush`."""
        self._unsent.append((framing.pack_message(message), _fd_message(message)))
        self.flush()

    def flush(self) -> None:
        """Write what the socket takes. A worker that is gone takes nothing: its death is reported elsewhere."""
        while self._unsent:
            buffers, ancillary = self._unsent[0]
            try:
                left = _unsent_buffers(buffers, self._socket.sendmsg(buffers[:_MAX_IOV], ancillary))
            except BlockingIOError:
                return
            except OSError:
                self._unsent.clear()
                return
            if left:
                self._unsent[0] = left, []
            else:
                self._unsent.popleft()

    def receive(self) -> tuple[list[Any], bool]:
        """Return the messages that have arrived whole, and True if the worker may still send."""
        messages: list[Any] = []
        while True:
            try:
                got, ancillary, _, _ = self._socket.recvmsg_into([_READ_BUFFER], _ANCILLARY_BYTES, _RECEIVE_FLAGS)
            except BlockingIOError:
                return messages, True
            except OSError:  # a reset, at the death of the worker
                got, ancillary = 0, []
            if ancillary:
                self._received_fds.extend(_received_fds(ancillary))
            if not got:
                return messages, False
            self.received_bytes += got
            try:
                self._parse_messages(_READ_BUFFER[:got], messages)
            except framing.FrameError:
                self.is_garbled = True
                return messages, False
            if got < len(_READ_BUFFER) and not ancillary:
                return messages, True

    def _parse_messages(self, data: memoryview, messages: list[Any]) -> None:
        """Read what has arrived; payloads are copied out of it."""
        if self._partial_message:
            self._partial_message += data
            if len(self._partial_message) < self._message_length:
                return
            whole, self._partial_message = self._partial_message, bytearray()
            data = memoryview(whole)
        at = 0
        size = framing.PREFIX_STRUCT.size
        while (left := len(data) - at) >= size:
            header, payload = framing.read_prefix(data[at : at + size])
            self._message_length = size + header + payload
            if left < self._message_length:
                break
            at += size
            message = framing.unpack_message(data[at : at + header], data[at + header : at + header + payload])
            messages.append(_attach_fd(message, self._received_fds))
            at += header + payload
            self._message_length = 0
        self._partial_message += data[at:]

    def close(self) -> None:
        """Close the socket, and descriptors that came with nothing."""
        while self._received_fds:
            os.close(self._received_fds.popleft())
        self._socket.close()
