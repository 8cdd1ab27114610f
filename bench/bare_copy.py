"""The least that arrays cost when a supervisor has the bytes of all of them: one copy through a loopback socket.

    maker ── shared memory, 4 slots ──▶ reader        bare, as workers of one machine
      └───── socket ──▶ a third one ──▶ tells reader   with the copy, as with an agent: see `engines.remote_memory`

Nothing but numpy, a pipe for each direction and the copy: no items, no leases, no queue.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import struct
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SLOTS, IN_FLIGHT = 4, 64
_COUNT = struct.Struct("Q")


def measure_arrays(size: int, seconds: float, *, copies: bool) -> float:
    """Return MB/s of arrays from a process that makes them to one that looks for their greatest number."""
    import numpy as np

    with ExitStack() as stack, mmap.mmap(-1, size * SLOTS) as ring, mmap.mmap(-1, _COUNT.size) as counted:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        out = stack.enter_context(socket.create_connection(server.getsockname()))
        into = stack.enter_context(server.accept()[0])
        free_end, freed, made_end, made = *os.pipe(), *os.pipe()
        os.write(freed, bytes(SLOTS))

        def make() -> None:
            at = 0
            while os.read(free_end, 1):
                array = np.full(size // 8, 1.0)
                with memoryview(ring)[at : at + size] as slot:
                    slot[:] = array.data.cast("B")
                    if copies:
                        out.sendall(slot)
                    else:
                        os.write(made, b"\0")
                at = (at + size) % (size * SLOTS)

        def read() -> None:
            done = at = 0
            while os.read(made_end, 1):
                np.frombuffer(ring, dtype=float, count=size // 8, offset=at).max()
                os.write(freed, b"\0")
                done, at = done + 1, (at + size) % (size * SLOTS)
                _COUNT.pack_into(counted, 0, done)

        workers = [_fork(make), _fork(read)]
        began = time.perf_counter()
        if copies:
            _take_copies(into, size, seconds, made)
        else:
            time.sleep(seconds)
        spent, (done,) = time.perf_counter() - began, _COUNT.unpack_from(counted)
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for fd in (free_end, freed, made_end, made):
            os.close(fd)
        return float(done * size / spent / 1e6)


def _take_copies(into: socket.socket, size: int, seconds: float, made: int) -> None:
    """Read what comes into memory of which as much is in use as a run has, and tell of each array that is whole."""
    buffer, at, until = memoryview(bytearray(size * IN_FLIGHT)), 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        end = at + size
        while at < end:
            at += into.recv_into(buffer[at:end])
        at %= len(buffer)
        os.write(made, b"\0")


def _fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    return pid
