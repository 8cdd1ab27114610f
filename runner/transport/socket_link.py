"""The two ends of a process worker's private sockets, one for each direction.

The worker's end blocks. The supervisor's end never does: what does not fit into the socket waits in a buffer, and
reading takes whatever has arrived, so that a slow or dead worker costs the others nothing.

With one socket for both, the kernel would wake the worker whenever the supervisor has read what it sent: there is room
to write then, and a thread that waits in `recv` is woken for that, too.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from runner import forked_copies
from runner.transport import framing, linux_only
from runner.transport.linux_only import ANCILLARY_BYTES, FDS_LOST, RECEIVE_FLAGS
from runner.transport.messages import ArenaNotice

if TYPE_CHECKING:
    from runner.transport.messages import FromWorker, ToWorker

_SOCKET_BUFFER_BYTES = 1 << 20
_MAX_IOV = 64
#: Where the supervisor reads; one for all its links, because each read is parsed before the next one begins.
#: bench small: a fresh buffer for each read costs more than the read, because its pages must be mapped anew.
_READ_BUFFER = memoryview(bytearray(1 << 18))
#: A worker reads so many bytes at once; only longer messages take a second call.
#: bench scale, a grant of one number from end to end: without it and `MAX_INLINE_BYTES` 12.2 us, with them 7.9.
_READ_AHEAD_BYTES = 1 << 15
_NOTHING = memoryview(b"")


def connected_pair() -> tuple[socket.socket, socket.socket]:
    """Make a connected pair, with room for a chunk in each direction."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in (ours, theirs):
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):  # a smaller buffer only costs a wake-up
                end.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER_BYTES)
    return ours, theirs


def connected_pairs() -> tuple[tuple[socket.socket, socket.socket], tuple[socket.socket, socket.socket]]:
    """Make what the supervisor's link takes, and what the worker's does: the socket of what the worker sends, first."""
    (reading, their_writing), (writing, their_reading) = connected_pair(), connected_pair()
    return (reading, writing), (their_writing, their_reading)


class WorkerLink:
    """The worker's end: blocking, used by one thread for each direction. Without `incoming`, one socket has both."""

    def __init__(self, sock: socket.socket, incoming: socket.socket | None = None) -> None:
        self._socket = sock
        self._incoming = incoming or sock
        self._received_fds: deque[int] = deque()
        #: What has been read already of the messages that come next.
        self._unread = _NOTHING
        self._read_buffer = memoryview(bytearray(_READ_AHEAD_BYTES))
        for each in (sock, self._incoming):
            each.setblocking(True)

    def filenos(self) -> set[int]:
        """Return the sockets' descriptors."""
        return {self._socket.fileno(), self._incoming.fileno()}

    def send(self, message: FromWorker) -> None:
        """Write a whole message."""
        left = framing.pack_message(message)
        if type(message) is not ArenaNotice and len(left) == 1:
            self._socket.sendall(left[0])
            return
        ancillary = linux_only.fd_message(message.fd) if type(message) is ArenaNotice else []
        while left:
            left, ancillary = _unsent_buffers(left, self._socket.sendmsg(left[:_MAX_IOV], ancillary)), []

    def receive(self) -> Any:
        """Return the next message; `EOFError` when the supervisor is gone."""
        size, data = framing.PREFIX_STRUCT.size, self._unread
        if len(data) < size:
            data = self._read_into(self._read_buffer, data, size)
            if (single := framing.unpack_single(data)) is not None and type(single) is not ArenaNotice:
                self._unread = _NOTHING
                return single
        header, payload = framing.read_prefix(data)
        end = size + header + payload
        if end > len(self._read_buffer):
            data = self._read_into(memoryview(bytearray(end)), data, end)
        elif len(data) < end:
            data = self._read_into(self._read_buffer, data, end)
        self._unread = data[end:] if end < len(data) else _NOTHING  # it would keep a large message's memory alive
        if end <= len(self._read_buffer):  # copied, because items of this message are decoded after the next reading
            data = memoryview(bytes(data[:end]))
        message = framing.unpack_message(data[size : size + header], data[size + header : end])
        return _attach_fd(message, self._received_fds) if type(message) is ArenaNotice else message

    def has_message(self, timeout: float = 0.0) -> bool:
        """Return True if a message (or its beginning) arrives within `timeout` seconds."""
        return bool(self._unread) or bool(select.select([self._incoming], [], [], timeout)[0])

    def _read_into(self, buffer: memoryview, read: memoryview, length: int) -> memoryview:
        """Return what has been read, moved into a buffer, and at least so much more that it has `length` bytes."""
        end = len(read)
        buffer[:end] = read
        while end < length:
            got, ancillary, flags, _ = self._incoming.recvmsg_into([buffer[end:]], ANCILLARY_BYTES, RECEIVE_FLAGS)
            if ancillary or flags & FDS_LOST:
                self._received_fds.extend(linux_only.received_fds(ancillary))
            if not got:
                raise EOFError
            end += got
        return buffer[:end]

    def close(self) -> None:
        """Close the sockets."""
        self._socket.close()
        self._incoming.close()


def _unsent_buffers(buffers: list[framing.WireBuffer], sent: int) -> list[framing.WireBuffer]:
    """Return what is left of some buffers after `sent` bytes."""
    for at, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *buffers[at + 1 :]]
        sent -= len(buffer)
    return []


def _attach_fd(notice: ArenaNotice, fds: deque[int]) -> ArenaNotice:
    """Return the notice with the descriptor that came along; one that did not arrive (no room for it) leaves -1."""
    return replace(notice, fd=fds.popleft() if notice.fd >= 0 and fds else -1)


class SupervisorLink:
    """The supervisor's end: never blocks. Whole messages out, whatever has arrived in."""

    def __init__(self, sock: socket.socket, outgoing: socket.socket | None = None) -> None:
        self._socket = sock
        self._outgoing = outgoing or sock
        for each in (sock, self._outgoing):
            each.setblocking(False)
        #: Messages that the socket has not taken whole: what is left of each, and the ancillary data beside it.
        self._unsent: deque[tuple[list[framing.WireBuffer], list[Any]]] = deque()
        self._received_fds: deque[int] = deque()
        #: The beginning of a message that has not arrived whole, and how long it will be when that is known.
        self.partial_message = bytearray()
        self._message_length = 0
        #: All bytes that have arrived; whether some of them are no message.
        self.received_bytes = 0
        self.is_garbled = False

    def fileno(self) -> int:
        """Return the descriptor to read from, for the selector."""
        return self._socket.fileno()

    def outgoing_fileno(self) -> int:
        """Return the descriptor to write to, for the selector."""
        return self._outgoing.fileno()

    @property
    def wants_to_write(self) -> bool:
        """Return True if something waits until the worker has read."""
        return bool(self._unsent)

    def send(self, message: ToWorker) -> None:
        """Hand a message over; what the socket does not take now goes out with `flush`."""
        buffers = framing.pack_message(message)
        ancillary = linux_only.fd_message(message.fd) if type(message) is ArenaNotice else []
        if len(buffers) == 1 and not ancillary and not self._unsent:
            try:
                sent = self._outgoing.send(buffers[0])
            except BlockingIOError:
                sent = 0
            except OSError:  # see `flush`
                return
            if sent == len(buffers[0]):
                return
            buffers = _unsent_buffers(buffers, sent)
        self._unsent.append((buffers, ancillary))
        self.flush()

    def send_packed(self, message: framing.WireBuffer) -> None:
        """Hand over a message that is bytes already."""
        self._unsent.append(([message], []))
        self.flush()

    def flush(self) -> None:
        """Write what the socket takes. A worker that is gone takes nothing: its death is reported elsewhere."""
        while self._unsent:
            buffers, ancillary = self._unsent[0]
            try:
                sent = self._outgoing.sendmsg(buffers[:_MAX_IOV], ancillary)
            except BlockingIOError:
                return
            except OSError:
                self._unsent.clear()
                return
            if len(buffers) == 1 and sent == len(buffers[0]):
                self._unsent.popleft()
            elif left := _unsent_buffers(buffers, sent):
                self._unsent[0] = left, []
            else:
                self._unsent.popleft()

    def receive(self) -> tuple[list[Any], bool]:
        """Return the messages that have arrived whole, and True if the worker may still send."""
        messages: list[Any] = []
        while True:
            try:
                got, ancillary, flags, _ = self._socket.recvmsg_into([_READ_BUFFER], ANCILLARY_BYTES, RECEIVE_FLAGS)
            except BlockingIOError:
                return messages, True
            except OSError:  # a reset, at the death of the worker
                got, ancillary, flags = 0, [], 0
            if ancillary or flags & FDS_LOST:
                self._received_fds.extend(linux_only.received_fds(ancillary))
            if not got:
                return messages, False
            self.received_bytes += got
            data = _READ_BUFFER[:got]
            try:
                single = None if self.partial_message else framing.unpack_single(data)
                if single is None or type(single) is ArenaNotice:
                    self._parse_messages(data, messages)
                else:
                    messages.append(single)
            except framing.FrameError:
                self.is_garbled = True
                return messages, False
            if got < len(_READ_BUFFER) and not ancillary:
                return messages, True

    def _parse_messages(self, data: memoryview, messages: list[Any]) -> None:
        """Read what has arrived; payloads are copied out of it."""
        if self.partial_message:
            self.partial_message += data
            if len(self.partial_message) < self._message_length:
                return
            whole, self.partial_message = self.partial_message, bytearray()
            data = memoryview(whole)
        at = 0
        size = framing.PREFIX_STRUCT.size
        while (left := len(data) - at) >= size:
            header, payload = framing.read_prefix(data, at)
            self._message_length = size + header + payload
            if left < self._message_length:
                break
            at += size
            message = framing.unpack_message(data[at : at + header], data[at + header : at + header + payload])
            messages.append(_attach_fd(message, self._received_fds) if type(message) is ArenaNotice else message)
            at += header + payload
            self._message_length = 0
        if at < len(data):
            self.partial_message += data[at:]

    def close(self) -> None:
        """Close the sockets, and descriptors that came with nothing."""
        forked_copies.close_descriptors(*self._received_fds)
        self._received_fds.clear()
        self._socket.close()
        self._outgoing.close()
