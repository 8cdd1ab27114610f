"""Facilities of sockets and pipes that not every system has; without them nothing is sent, known or limited.

descriptors beside a message    arenas need them; without there are no arenas
how full a pipe is              its size is taken to be the least that there is
the state of a connection       not known
the end of a silent connection  the keep-alive of TCP alone
"""

from __future__ import annotations

import array
import contextlib
import socket
from typing import Any

from runner.posix_only import fcntl, termios

#: Room for descriptors beside what arrives, and the flag that keeps them out of children.
ANCILLARY_BYTES = socket.CMSG_SPACE(64) if hasattr(socket, "CMSG_SPACE") else 0
RECEIVE_FLAGS: int = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
#: Set beside bytes whose descriptor this process has no room for.
FDS_LOST = int(getattr(socket, "MSG_CTRUNC", 0))  # a flag of `enum` would be three calls of Python
_SCM_RIGHTS = getattr(socket, "SCM_RIGHTS", -1)
#: The size of a pipe on macOS, before it has grown.
_LEAST_PIPE_BYTES = 1 << 14
_MAX_TCP_INFO_BYTES = 256


def fd_message(fd: int) -> list[Any]:
    """Return the ancillary data with a descriptor that travels beside a message, if one does."""
    return [] if fd < 0 else [(socket.SOL_SOCKET, _SCM_RIGHTS, array.array("i", [fd]))]


def received_fds(ancillary: list[Any]) -> list[int]:
    """Return the descriptors that came beside some bytes; they are ours to close. -1 for one that was lost."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds) or [-1]


def is_pipe_full(fd: int) -> bool:
    """Return True if who writes into the pipe waits, because nobody reads it.

    A pipe has room for so many pages, of which each may be filled by half only: so less than half may be all.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed meanwhile; or a system that cannot tell
        waiting = array.array("i", [0])
        fcntl.ioctl(fd, termios.FIONREAD, waiting)
        size = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) if hasattr(fcntl, "F_GETPIPE_SZ") else _LEAST_PIPE_BYTES
        return waiting[0] >= size * 7 // 16
    return False


def read_tcp_info(fd: int) -> bytes:
    """Return what the kernel knows of a connection; nothing where it does not tell."""
    if not hasattr(socket, "TCP_INFO") or fd < 0:
        return b""
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd)  # the family is not looked at
        try:
            return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _MAX_TCP_INFO_BYTES)
        finally:
            sock.detach()
    except OSError:
        return b""


def set_tcp_option(sock: socket.socket, name: str, value: int) -> None:
    """Set an option of a connection, where there is one of that name."""
    if hasattr(socket, name):
        with contextlib.suppress(OSError):  # a system that has the word and not the thing
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def limit_silence(sock: socket.socket, seconds: float) -> None:
    """Have the kernel end a connection whose other machine has not answered for so long; it asks when nobody speaks."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    pause = max(1, int(seconds / 5))
    set_tcp_option(sock, "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE", pause)
    set_tcp_option(sock, "TCP_KEEPINTVL", pause)
    set_tcp_option(sock, "TCP_KEEPCNT", max(1, int(seconds / pause) - 1))
    set_tcp_option(sock, "TCP_USER_TIMEOUT", int(seconds * 1000))
