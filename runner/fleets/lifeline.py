"""The lifeline: when runner dies, however it dies, the kernel kills its workers and their children.

One pipe per worker, used for nothing else; runner holds the write end and never writes. In the worker, signal-driven
I/O on the read end sends SIGKILL to the worker's process group once the last writer is gone: enforced by the kernel,
also while C code holds the GIL (fcntl(2), F_SETSIG and F_SETOWN). PR_SET_PDEATHSIG would be tied to the thread that
forked, and under a fork server to the server. Elsewhere than Linux a thread waits on the pipe.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import threading

from runner import forks


def arm(read_end: int) -> None:
    """Tie this process and its group to the pipe; call it after `setpgid`."""
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(read_end, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(read_end, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(read_end, fcntl.F_SETFL, fcntl.fcntl(read_end, fcntl.F_GETFL) | os.O_ASYNC)
    else:
        threading.Thread(target=_wait, args=(read_end,), name="runner-lifeline", daemon=True).start()
    # Runner may have died before this was armed.
    if select.select([read_end], [], [], 0)[0]:
        _end()


class Lifeline:
    """What ties processes to this one that nobody has started by `Spawner`: what thread workers have forked.

    Each copy that was forked by a thread that is younger than this (a task's, then) leads a process group of its own,
    as a worker does, and what it starts dies with it when this process ends.
    """

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        self._others = {thread.ident for thread in threading.enumerate()} - {threading.main_thread().ident}
        self._forget = forks.tell(self._tie)
        self._forks = forks.made

    def _tie(self) -> None:
        forks.drop(self._write_end)
        if threading.get_ident() in self._others:
            return
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        if os.getpgrp() == os.getpid():  # else whoever started runner would die with it
            with contextlib.suppress(OSError):  # no /proc here
                # Opened anew: whose it is, and the signal, belong to what `open` gives, not to the descriptor.
                own = os.open(f"/proc/self/fd/{self._read_end}", os.O_RDONLY | os.O_NONBLOCK)
                os.set_inheritable(own, True)  # it must outlive an exec
                arm(own)
        forks.drop(self._read_end)

    def close(self) -> None:
        """Tie nothing any more; what is tied stays so until this process ends."""
        self._forget()
        if forks.made == self._forks:
            forks.drop(self._read_end, self._write_end)


def _wait(read_end: int) -> None:
    with contextlib.suppress(OSError):
        os.read(read_end, 1)
    _end()


def _end() -> None:
    os.killpg(os.getpgrp(), signal.SIGKILL)
