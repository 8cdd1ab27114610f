"""Copies of this process that a task's function has forked: they are not workers, and send no messages.

    function ── os.fork ──▶ copy: each hook closes what is not the copy's and puts `ExitOnTouch` where it would go on
                              │ comes back out of the function
                              ▼
                            the first touch of an `ExitOnTouch` ends it (`leave`)

So nothing is asked between two items: the copy itself stumbles. Programs that are started by `subprocess` are no such
copies: they inherit no descriptor of runner's, and none of this happens to them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from runner.error_text import describe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Seconds that a fork waits at most for the holder of `fork_lock`.
_LOCK_SECONDS = 5.0
_hooks: list[ForkHook] = []
#: This process is such a copy.
_is_copy = False
#: Held while descriptors are made that no copy may keep, and no deed knows of yet.
fork_lock = threading.RLock()


def exit_copy(error: BaseException | None = None) -> NoReturn:
    """End this copy, with the traceback and the exit code that any Python program would have."""
    error = error or sys.exception()
    code = 0
    with contextlib.suppress(BaseException):  # whatever happens here, nothing goes on
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None and (trace := describe_error(error).traceback) and "\n  File " in f"\n{trace}":
            code = 1
            sys.stderr.write(f"process {os.getpid()}, forked by a task's function, has ended:\n{trace}")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    os._exit(code)


class ExitOnTouch:
    """A stand-in where a copy must not go on: the first touch ends it."""

    __slots__ = ()

    def __getattr__(self, name: str) -> NoReturn:
        if not _is_copy:  # only looked at, by a debugger or a tool that lists what a module holds
            raise AttributeError(name)
        exit_copy()

    def _end(self, *_: object) -> NoReturn:
        exit_copy()

    __setitem__ = __enter__ = __exit__ = __bool__ = __len__ = _end


class DiscardingChannel(ExitOnTouch):
    """The end of a channel in a copy: what is sent is dropped, and a read ends the copy."""

    __slots__ = ()

    def send(self, message: Any) -> None:
        """Drop the message."""


class ForkHook:
    """What a copy calls first, and this process before the fork, until `close`."""

    def __init__(self, in_copy: Callable[[], None], in_parent: Callable[[], None] | None = None) -> None:
        self.in_copy, self.in_parent = in_copy, in_parent
        _hooks.append(self)

    def close(self) -> None:
        """Forget it."""
        with contextlib.suppress(ValueError):  # forgotten already
            _hooks.remove(self)


def kill(pids: Iterable[int]) -> None:
    """Send SIGKILL to each process that still exists and is ours."""
    for pid in pids:
        send_signal(os.kill, pid, signal.SIGKILL)


def send_signal(send: Callable[[int, int], None], pid: int, number: int) -> None:
    """Send a signal with `os.kill` or `os.killpg`, if there still is who should get it and it is ours."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        send(pid, number)


def close_descriptors(*fds: int) -> None:
    """Close descriptors that may be closed already."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _before_fork() -> None:
    _thread_state.mask = None
    _thread_state.holds = fork_lock.acquire(timeout=_LOCK_SECONDS)
    for hook in _hooks.copy():
        with contextlib.suppress(Exception):
            if hook.in_parent is not None:
                hook.in_parent()
    if _hooks:  # a signal that comes to the copy before it has its own handlers would be lost
        _thread_state.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _restore_signals() -> None:
    if _thread_state.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _thread_state.mask)


def _after_in_parent() -> None:
    _restore_signals()
    if _thread_state.holds:
        fork_lock.release()


def _after_in_copy() -> None:
    global fork_lock, _is_copy  # noqa: PLW0603  another thread may have held it; a fact about the process
    fork_lock = threading.RLock()
    _is_copy = _is_copy or bool(_hooks)
    deeds = list(_hooks)
    _hooks.clear()  # they are not this process's; a run that it begins has its own
    for hook in deeds:
        with contextlib.suppress(Exception):
            hook.in_copy()
    _restore_signals()


_thread_state = threading.local()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_copy)
