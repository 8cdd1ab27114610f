"""How a worker process comes to be, behind one function.

A fork server, started before any thread and told by `preload` what to import, forks workers in about 4 ms; where
there is none (or RUNNER_START_METHOD says so) each worker is spawned anew. A forked copy of runner itself is never
made: it would inherit threads' locks and every descriptor.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from multiprocessing import forkserver, resource_tracker
from typing import TYPE_CHECKING, Any

from runner import forks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.process import BaseProcess

    from runner.tasks import Reference

PRELOAD = "RUNNER_PRELOAD"
METHOD = "RUNNER_START_METHOD"
#: Seconds that a fork server which no longer listens may take until it is gone.
_DYING = 5.0
#: Seconds that the servers may take to end.
_LINGER = 1.0
#: Ignored in the fork server and in workers: a terminal sends them to everybody.
TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGTSTP)


class InheritedFd:
    """A descriptor on its way to a child that is being started; there it arrives as an int."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, tuple[Any]]:
        from multiprocessing.reduction import DupFd

        return _detach, (DupFd(self.fd),)


def _detach(duplicate: Any) -> int:
    fd = int(duplicate.detach())
    os.set_inheritable(fd, False)
    return fd


class Spawner:
    """Starts processes by one method; `close` ends what helps with that."""

    def __init__(self, method: str | None = None) -> None:
        available = multiprocessing.get_all_start_methods()
        wanted = method or os.environ.get(METHOD) or "forkserver"
        self.method = wanted if wanted in available and wanted != "fork" else "spawn"
        self._context = multiprocessing.get_context(self.method)
        #: The servers that were not running before: those are ours to end.
        self._ours = [server for server, pid in _servers() if pid is None]

    def prepare(self, references: Sequence[Reference], needs_asyncio: bool = False) -> None:
        """Start the fork server, and have it import what workers will need."""
        if self.method != "forkserver":
            return
        self._context.set_forkserver_preload(["runner.fleets.preload"])
        wanted = [[r.module, r.path, r.folder] for r in dict.fromkeys(references)]
        os.environ[PRELOAD] = json.dumps({"path": sys.path, "modules": wanted, "asyncio": needs_asyncio})
        try:
            with _held_back():
                forkserver.ensure_running()
        finally:
            del os.environ[PRELOAD]

    def start(self, target: Callable[..., None], args: tuple[Any, ...], name: str) -> BaseProcess:
        """Start one process; OSError when the machine refuses.

        A fork server that dies no longer listens some time before it can be waited for; until then nothing would
        start a new one, and each try is refused.
        """
        end = time.monotonic() + _DYING
        while True:
            process: BaseProcess = self._context.Process(target=target, args=args, name=name)  # type: ignore[attr-defined]
            try:
                with _no_main(), _held_back() if self.method == "spawn" else contextlib.nullcontext():
                    process.start()
            except ConnectionRefusedError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.001)
            else:
                return process

    def abandon(self) -> None:
        """This is a copy of the process: it must not keep the fork server alive, and starts its own if it wants one."""
        server = getattr(forkserver, "_forkserver", None)
        if server in self._ours:
            _let_go(server)

    def close(self) -> None:
        """End the fork server and the resource tracker; both would end by themselves when runner does.

        They end when nobody holds the pipe any more that leads to them; what a task has left running may hold it, and
        they are killed then.
        """
        for server, pid in _servers():
            stop = getattr(server, "_stop", None)
            if server not in self._ours or pid is None or stop is None:
                continue
            killer = threading.Timer(_LINGER, os.kill, (pid, signal.SIGKILL))
            killer.daemon = True
            with contextlib.suppress(OSError, RuntimeError):  # gone already; or no thread can be started any more
                killer.start()
                stop()
            killer.cancel()


def _servers() -> list[tuple[Any, int | None]]:
    """The fork server and the resource tracker, with their process ids.

    Private names of the standard library, and the only way to end the two before this process ends.
    """
    found = []
    for module, name, pid in (
        (forkserver, "_forkserver", "_forkserver_pid"),
        (resource_tracker, "_resource_tracker", "_pid"),
    ):
        server = getattr(module, name, None)
        if server is not None:
            found.append((server, getattr(server, pid, None)))
    return found


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Have a child start with the terminal's signals blocked; `ignore_terminal` is for the child to call.

    Were they ignored here for so long, one that comes in that moment would be lost to this process as well.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL)
    try:
        resource_tracker.ensure_running()  # it ends with two of them unblocked
        signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def keep_servers_apart() -> list[int]:
    """In a child that was started by `Spawner`: programs that it starts do not hold the pipes to the two servers.

    Returns these.
    """
    tracker = getattr(resource_tracker, "_resource_tracker", None)
    server = getattr(forkserver, "_forkserver", None)
    both = (getattr(tracker, "_fd", None), getattr(server, "_forkserver_alive_fd", None))
    fds = [fd for fd in both if fd is not None]
    for fd in fds:
        os.set_inheritable(fd, False)
    if server is not None:
        forks.tell(lambda: _let_go(server))
    return fds


def _let_go(server: Any) -> None:
    """A copy of a process does not keep its fork server alive; it starts its own if it wants one."""
    if server._forkserver_alive_fd is not None:
        forks.drop(server._forkserver_alive_fd)
        server._forkserver_alive_fd = server._forkserver_pid = server._forkserver_address = None


def ignore_terminal() -> None:
    """In a child that was started by `Spawner`: from now on the terminal's signals are ignored, and not blocked."""
    for number in TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL)


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Hide `__main__`'s file: a child would run it again, and import the whole command line for nothing."""
    main = sys.modules.get("__main__")
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        if main is not None:
            sys.modules["__main__"] = main
