"""What a run needs from its process, whatever this was started with: the three descriptors, and signals that arrive."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

#: Blocked by who started this process (a service with a signalfd, a thread of a program), nobody would hear them.
_HEARD = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD, signal.SIGCONT}


def fill_standard_descriptors() -> list[int]:
    """Open the null device in the place of each of the descriptors 0, 1 and 2 that is closed; which they were.

    The next file or socket of runner's own would get its number, and what somebody prints would end in it.
    """
    filled = []
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.set_inheritable(_placeholder(), True)  # the lowest number that is free: this one
                filled.append(fd)
    return filled


def _placeholder() -> int:
    try:
        return os.open(os.devnull, os.O_RDWR)
    except OSError:  # no /dev here: a file in memory, which nobody reads
        from runner.transport.progress_page import memory_file

        return memory_file("runner-null")


@contextlib.contextmanager
def standard_descriptors() -> Iterator[None]:
    """Have 0, 1 and 2 open for so long."""
    filled = fill_standard_descriptors()
    try:
        yield
    finally:
        for fd in filled:
            os.close(fd)


def _in_the_main_thread() -> bool:
    """Whether this is where Python sets handlers of signals."""
    import threading  # not for a command that only says its version

    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def deliver_signals() -> Iterator[None]:
    """Have children waited for, and signals heard, for so long.

    Where SIGCHLD is ignored the kernel throws exit codes away, and every program would seem to have ended well. Signals
    that are ignored stay so: under `nohup` a run goes on. Blocked ones are let in, in this thread.
    """
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
    ignored = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    here = _in_the_main_thread()
    if ignored and here:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        if ignored and here:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Ended(KeyboardInterrupt):
    """A signal has ended a wait; `number` is that of the exit code, less 128."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number: int = signal.SIGTERM if number == signal.SIGHUP else number


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  the signature of a handler
    raise _Ended(number)


@contextlib.contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Have a signal that would end the program raise a KeyboardInterrupt, so that what is lost by that can be said."""
    before: dict[int, Any] = {}
    if _in_the_main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) not in {signal.SIG_IGN, None}:
                before[number] = signal.signal(number, _end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
