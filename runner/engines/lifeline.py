"""The lifeline: when runner dies, however it dies, the kernel kills its workers and their children.

One pipe per worker, used for nothing else; runner holds the write end and never writes. In the worker, signal-driven
I/O on the read end sends SIGKILL to the worker's process group once the last writer is gone: enforced by the kernel,
also while C code holds the GIL (fcntl(2), F_SETSIG and F_SETOWN). PR_SET_PDEATHSIG would be tied to the thread that
forked, and under a fork server to the server. Elsewhere than Linux a thread waits on the pipe.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from typing import TYPE_CHECKING

from runner import forked_copies, linux_only

if TYPE_CHECKING:
    from runner.std.commands import ProcessGroup


def arm_lifeline(read_end: int) -> None:
    """Tie this process and its group to the pipe; call it after `setpgid`."""
    if not linux_only.kill_group_when_closed(read_end, os.getpgrp()):
        threading.Thread(target=_wait_for_end, args=(read_end,), name="runner-lifeline", daemon=True).start()
    # Runner may have died before this was armed.
    if select.select([read_end], [], [], 0)[0]:
        os.killpg(os.getpgrp(), signal.SIGKILL)


class Lifeline:
    """The tie between this process and the copies that thread workers fork, which `Spawner` does not know.

    Each copy that was forked by a thread that is younger than this (a task's, then) joins one process group, whose
    leader holds the other end of a pipe to this process: it dies, and what it has started, when this process ends. A
    daemon that begins a session of its own has left the group; so it can here, as it leads none.
    """

    def __init__(self) -> None:
        self._group: ProcessGroup | None = None
        self._leader = 0
        self._older_threads = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
        self._fork_hook = forked_copies.ForkHook(self._join_group, self._start_group)

    def _start_group(self) -> None:
        if threading.get_ident() in self._older_threads:  # a program beside its run, whose copies are its own
            return
        from runner.std.commands import ProcessGroup  # few runs need it

        self._group = self._group or ProcessGroup()
        with contextlib.suppress(OSError):  # no more processes, which the fork will find as well
            self._leader = self._group.group_id()

    def _join_group(self) -> None:
        if self._group is not None:
            self._group.abandon_in_fork()
        if self._leader and threading.get_ident() not in self._older_threads:
            with contextlib.suppress(OSError):  # it has a session of its own already (`pty.fork`)
                os.setpgid(0, self._leader)

    def close(self) -> None:
        """Tie nothing any more; what is tied stays so until this process ends."""
        self._fork_hook.close()


def _wait_for_end(read_end: int) -> None:
    with contextlib.suppress(OSError):
        os.read(read_end, 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)
