"""The process of a run, made fit for it: open standard descriptors, signals that arrive, as many files as it needs."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

from runner.errors import ResourceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


def _existing_signals(*names: str) -> tuple[signal.Signals, ...]:
    """Return the signals of these names that this system has: Windows has few."""
    return tuple([getattr(signal, name) for name in names if hasattr(signal, name)])


#: Ignored in the fork server and in workers: a terminal sends them to all of its processes.
TERMINAL_SIGNALS = _existing_signals("SIGINT", "SIGQUIT", "SIGHUP", "SIGTERM", "SIGTSTP")
#: Blocked by who started this process (a service with a signalfd, a thread of a program), they would never arrive.
_NEEDED_SIGNALS = _existing_signals("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGCHLD", "SIGCONT")
#: Of a process worker: two sockets, lifeline, pidfd, sentinel, stack file, two pipes of output, and its arena: one to
#: lend, two (one of them `mmap`'s own) where thread workers read it.
_FDS_PER_PROCESS = 11
#: The rest: terminal, plugins' files, the reactor, the printer, the fork server, and what one start needs for a moment.
_FDS_BASE = 64


def fill_standard_descriptors() -> list[int]:
    """Open the null device in place of each of the descriptors 0, 1 and 2 that is closed; return their numbers.

    The next file or socket of runner's own would get its number, and what is printed would end in it.
    """
    filled = []
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.set_inheritable(open_placeholder(), True)  # the lowest number that is free: this one
                filled.append(fd)
    return filled


def open_placeholder() -> int:
    """Open the null device, or what is like it where there is none."""
    try:
        return os.open(os.devnull, os.O_RDWR)
    except OSError:  # no /dev here: a file in memory, which is never read
        from runner.linux_only import memory_file

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


def _is_main_thread() -> bool:
    """Return True in the thread in which Python sets handlers of signals."""
    import threading  # not for a command that only says its version

    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def deliver_signals() -> Iterator[None]:
    """Have children waited for, and signals heard, for so long.

    Where SIGCHLD is ignored the kernel throws exit codes away, and every program would seem to have ended well. Signals
    that are ignored stay so: under `nohup` a run goes on. Blocked ones are let in, in this thread.
    """
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, _NEEDED_SIGNALS)
    ignored = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    here = _is_main_thread()
    if ignored and here:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        if ignored and here:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_terminal_signals() -> None:
    """Ignore the terminal's signals, and block none, in a child that was started by `Spawner`.

    The program that started runner may have blocked more, or ignored SIGCHLD: then no exit code would be known.
    """
    for number in TERMINAL_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class _SignalInterrupt(KeyboardInterrupt):
    """The end of a wait by a signal; `number` is that of the exit code, less 128."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number: int = signal.SIGTERM if number == signal.SIGHUP else number


def _raise_interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  the signature of a handler
    raise _SignalInterrupt(number)


@contextlib.contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Have a signal that would end the program raise a KeyboardInterrupt, so that what is lost by that can be said."""
    before: dict[int, Any] = {}
    if _is_main_thread():
        for number in _existing_signals("SIGINT", "SIGTERM", "SIGHUP"):
            if signal.getsignal(number) not in {signal.SIG_IGN, None}:
                before[number] = signal.signal(number, _raise_interrupt)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def raise_open_files_limit(processes: int, workers: int) -> None:
    """Raise the soft limit of open files as process workers need it, or ResourceError; `workers` are of all kinds."""
    from runner.transport.progress_page import MAX_PROGRESS_SLOTS  # not for a command that only says its version

    if workers > MAX_PROGRESS_SLOTS:
        text = f"{workers:,} workers are more than one run can have ({MAX_PROGRESS_SLOTS:,}); lower `workers`"
        raise ResourceError(text)
    from runner.posix_only import require_posix, resource

    require_posix()
    needed = _FDS_BASE + _FDS_PER_PROCESS * processes
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        subject = f"{processes:,} process workers need" if processes else "this run needs"
        raise ResourceError(
            f"{subject} about {needed:,} open files, and this shell allows {hard:,}"
            " (`ulimit -Hn`); lower `workers`, or raise the limit"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
