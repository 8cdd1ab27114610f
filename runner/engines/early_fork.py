"""The fork server of a command: a copy of its process, made before anything of the user's is in it.

    command ── reads the file ── fork ── imports plugins ── run ──▶
                                  └────▶ fork server ── fork ──▶ workers

It has all of runner's modules already, in pages of memory that it shares with the command, so it needs neither the time
nor the memory of another interpreter. That is sound only here: there is one thread, so no lock is held, and neither a
plugin nor a task function has been imported. A program that calls `runner.run` starts its fork server as an interpreter
of its own (`spawn`), as does a command whose process has other threads.

The copy leaves the frames of the command by an exception (`CommandLeft`), so workers begin where an interpreter would.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import socket
import sys
from functools import partial
from multiprocessing import util
from multiprocessing.spawn import get_executable
from typing import NoReturn

import runner.engines.processes  # noqa: F401  what the command needs anyway is shared with the copy
from runner import gc_tuning
from runner.engines import fork_server, process_setup, spawn
from runner.errors import CommandLeft
from runner.linux_only import exit_fd, inherited_attributes

_STDERR = 2
#: Where /proc/PID/stat has the addresses of the command line, counted from after the name.
_ARGUMENTS_IN_STAT = slice(45, 47)


def fork_early() -> None:
    """Fork the fork server for the run that follows, if that is sound here.

    # bench start, in a process: without 1.25 of the CPU time of a bare typer command, with 0.94; bench small: 6 MB
    """
    if not CommandLeft.is_awaited or spawn.Spawner().start_method != "forkserver" or not _is_sound():
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with contextlib.suppress(OSError):  # the first start says what the machine refuses
        _fork()


def _fork() -> None:
    attributes = inherited_attributes()
    control, their_end = socket.socketpair()
    with their_end, spawn.blocked_terminal_signals():
        pid = os.fork()
        if not pid:
            process_setup.ignore_terminal_signals()
            control.close()
            raise CommandLeft(partial(_become_fork_server, their_end.detach()))
    spawn.early_server = spawn.ForkedServer(pid, control, attributes)
    os.register_at_fork(after_in_child=spawn.abandon_early_server)
    atexit.register(spawn.end_early_server)


def _is_sound() -> bool:
    """Return True if this process has one thread and is not traced, and the end of a process can be known."""
    if sys.gettrace() or sys.getprofile() or (fd := exit_fd(os.getpid())) is None:
        return False
    os.close(fd)
    try:
        return len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208  paths take their time
    except OSError:
        return False


def _become_fork_server(control_fd: int) -> NoReturn:
    """Be what `fork_server.serve` is in an interpreter that has been started for it."""
    try:
        _let_go_of_files(control_fd)
        gc_tuning.freeze_until_exit(False)
        sys.excepthook = sys.__excepthook__  # typer has another
        flags = util._args_from_interpreter_flags  # type: ignore[attr-defined]  # as in `spawn`
        util._args_from_interpreter_flags = lambda: [*flags(), "-P"]  # type: ignore[attr-defined]  # for pools in tasks
        _set_names(b"runner: fork_server")
        fork_server.serve(control_fd)
    finally:
        os._exit(1)


def _let_go_of_files(control_fd: int) -> None:
    """Have the null device in place of each file that is open, but for the standard streams and the socket.

    Objects that hold text for them, or close them once, are in the workers too (a file that `sitecustomize` has
    opened): were the numbers free, they would write into what has them next.
    """
    open_fds = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208  paths take their time
    null = process_setup.open_placeholder()  # with the number that the listing had
    for fd in open_fds:
        if fd > _STDERR and fd not in {control_fd, null}:
            os.dup2(null, fd, inheritable=False)
    os.close(null)


def _set_names(title: bytes) -> None:
    """Have `ps` and `pkill -f` see a title, as far as the command line is as long, and `killall` an interpreter.

    The short name is for the command alone: `killall runner` would end its workers in the middle of an item.
    """
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123  paths take their time
            start, end = map(int, file.read().rpartition(b")")[2].split()[_ARGUMENTS_IN_STAT])
        if start:
            # Without a zero at its end `ps` would read on, into the environment.
            ctypes.memmove(start, title[: end - start - 1].ljust(end - start, b"\0"), end - start)
    with contextlib.suppress(OSError), open("/proc/self/comm", "wb") as file:  # noqa: PTH123  paths take their time
        file.write(os.path.basename(os.fsencode(get_executable())))  # noqa: PTH119  the same
