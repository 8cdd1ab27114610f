"""What becomes of a copy of this process that a task's function has forked: it is no worker, and speaks to nobody.

    function ── os.fork ──▶ copy: each `deed` closes what is not the copy's and puts `ExitOnTouch` where it would go on
                              │ comes back out of the function
                              ▼
                            the first touch of an `ExitOnTouch` ends it (`leave`)

So nothing is asked between two items: the copy itself stumbles. Programs that are started by `subprocess` are no such
copies: they inherit no descriptor of runner's, and none of this happens to them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from runner.error_text import describe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

#: A fork waits so many seconds at most for what holds `steady`.
_PATIENCE = 5.0
_numbers = itertools.count()
_deeds: dict[int, Callable[[], None]] = {}
#: Whether this process is such a copy.
_is_copy = False
_firsts: dict[int, Callable[[], None]] = {}
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
    """Stands where a copy must not go on: the first touch ends it."""

    __slots__ = ()

    def __getattr__(self, name: str) -> NoReturn:
        if not _is_copy:  # only looked at, by a debugger or a tool that lists what a module holds
            raise AttributeError(name)
        exit_copy()

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        exit_copy()

    def __enter__(self) -> NoReturn:
        exit_copy()

    def __exit__(self, *exc: object) -> NoReturn:
        exit_copy()

    def __bool__(self) -> NoReturn:  # noqa: PLE0304  it never returns
        exit_copy()

    def __len__(self) -> NoReturn:  # noqa: PLE0303  it never returns
        exit_copy()


class DiscardingChannel(ExitOnTouch):
    """An end of a channel in a copy: what is sent goes nowhere, and whoever asks for more is at its end."""

    __slots__ = ()

    def send(self, message: Any) -> None:
        """Forget it."""


def register_fork_hook(deed: Callable[[], None], before: Callable[[], None] | None = None) -> Callable[[], None]:
    """Have a copy do this first, as soon as it is made, and this process something before; returns the taking back."""
    number = next(_numbers)
    _deeds[number] = deed
    if before is not None:
        _firsts[number] = before

    def forget() -> None:
        _deeds.pop(number, None)
        _firsts.pop(number, None)

    return forget


@contextlib.contextmanager
def temporary_fork_hook(deed: Callable[[], None]) -> Iterator[None]:
    """The same for a while."""
    forget = register_fork_hook(deed)
    try:
        yield
    finally:
        forget()


def descendant_pids(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have, in whatever session; as /proc tells."""
    found: list[int] = []
    look = [pid]
    while look:
        with contextlib.suppress(OSError):  # it has ended
            for thread in Path(f"/proc/{look.pop()}/task").iterdir():
                children = [int(child) for child in (thread / "children").read_text(encoding="ascii").split()]
                found += children
                look += children
    return found


def kill(pids: Iterable[int]) -> None:
    """SIGKILL to each that is still there, and ours."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def close_descriptors(*fds: int) -> None:
    """Close descriptors that may be closed already."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _before() -> None:
    _here.mask = None
    _here.holds = fork_lock.acquire(timeout=_PATIENCE)
    for deed in list(_firsts.values()):
        with contextlib.suppress(Exception):
            deed()
    if _deeds:  # a signal that comes to the copy before it has its own handlers would be lost
        _here.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _unmask() -> None:
    if _here.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _here.mask)


def _in_parent() -> None:
    _unmask()
    if _here.holds:
        fork_lock.release()


def _in_child() -> None:
    global fork_lock, _is_copy  # noqa: PLW0603  another thread may have held it; a fact about the process
    fork_lock = threading.RLock()
    _is_copy = _is_copy or bool(_deeds)
    deeds = list(_deeds.values())
    _deeds.clear()
    _firsts.clear()  # they are not this process's; a run that it begins has its own
    for deed in deeds:
        with contextlib.suppress(Exception):
            deed()
    _unmask()


_here = threading.local()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
