"""A look at a connection now and then: for how long the network, and not the other end, has held back what is sent.

A look finds the connection full when bytes wait for their first sending, in the kernel or in this process. Bytes that
were sent and are not confirmed do not count: they say how far the other machine is, not that more could not be sent.
The kernel tells of time in which it waited for a reader (`tcpi_rwnd_limited`): that time is the reader's fault.
"""

from __future__ import annotations

import struct

from runner.transport.linux_only import read_tcp_info

#: Offsets in Linux's `struct tcp_info`, which only grows at its end: round trip in us; bytes confirmed, bytes received;
#: bytes that were not sent; us in which the reader had no room.
_ROUND_TRIP, _BYTES, _NOT_SENT, _READER_LIMITED = 68, 120, 144, 176
_INFO_BYTES = _READER_LIMITED + 8
_U32, _U64, _TWO_U64 = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<QQ")


class LinkMeter:
    """One connection. `full_seconds`, and what the kernel has counted: `sent` and `received` bytes, `round_trip`."""

    def __init__(self, fd: int, now: float) -> None:
        self._fd, self._last = fd, now
        self._reader_limited = 0
        self.full_seconds = 0.0
        self.sent = self.received = 0
        self.round_trip: float | None = None

    def look(self, now: float, *, is_waiting: bool) -> None:
        """Look at it. `is_waiting`: the kernel has not taken all that this process has for it."""
        seconds, self._last = now - self._last, now
        info = read_tcp_info(self._fd)
        if len(info) < _INFO_BYTES:  # another system than Linux, or an old one
            self.full_seconds += seconds if is_waiting else 0.0
            return
        self.sent, self.received = _TWO_U64.unpack_from(info, _BYTES)
        self.round_trip = _U32.unpack_from(info, _ROUND_TRIP)[0] / 1e6
        (limited,) = _U64.unpack_from(info, _READER_LIMITED)
        by_reader, self._reader_limited = (limited - self._reader_limited) / 1e6, limited
        if is_waiting or _U32.unpack_from(info, _NOT_SENT)[0]:
            self.full_seconds += max(0.0, seconds - by_reader)
