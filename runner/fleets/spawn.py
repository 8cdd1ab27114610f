"""How a worker process comes to be, behind one function.

A fork server, started before any thread, imports what `preload` says and forks workers in about 4 ms; where there is
none (or RUNNER_START_METHOD says so) each worker is spawned anew. A forked copy of runner itself is never made: it
would inherit threads' locks and every descriptor.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
import types
from multiprocessing import forkserver, resource_tracker, util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from multiprocessing.process import BaseProcess

    from runner.tasks import Reference

PRELOAD = "RUNNER_PRELOAD"
METHOD = "RUNNER_START_METHOD"
#: Seconds that a fork server which no longer listens may take until it is gone.
_DYING = 5.0
#: The fork server is told of so many modules: an environment variable holds 128 KiB.
_MOST = 200
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
        _disown()
        #: The servers that were not running before: those are ours to end.
        self._ours = [server for server, running in _servers() if not running]

    def prepare(
        self, references: Sequence[Reference], needs_asyncio: bool = False, envs: Iterable[Mapping[str, str]] = ()
    ) -> None:
        """Start the fork server, and have it import of what workers will need what is safe; see `preload`."""
        if self.method != "forkserver":
            return
        self._context.set_forkserver_preload(["runner.fleets.preload"])
        modules, files = ((), ()) if any(envs) else _wanted(references)
        wanted = {"path": sys.path, "modules": list(modules), "files": list(files), "asyncio": needs_asyncio}
        os.environ[PRELOAD] = json.dumps(wanted)
        try:
            with _apart(), _held_back():
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
                with _apart(), _no_main(), _held_back() if self.method == "spawn" else contextlib.nullcontext():
                    process.start()
            except ConnectionRefusedError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.001)
            else:
                return process

    def close(self) -> None:
        """End the fork server and the resource tracker; both would end by themselves when runner does."""
        for server in self._ours:
            stop = getattr(server, "_stop", None)
            if stop is not None:
                with contextlib.suppress(OSError, ChildProcessError):
                    stop()


def _wanted(references: Sequence[Reference]) -> tuple[list[str], list[str]]:
    """Modules that may be imported before a fork, and files of which only that is known what they import."""
    modules, files = [], []
    for module, path in dict.fromkeys((each.module, each.path) for each in references):
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or (top == "runner" and path is None):
            modules.append(module)
        else:
            file = path or getattr(sys.modules.get(module), "__file__", None)
            files += [file] if file and file.endswith(".py") else []
    return modules[:_MOST], files[:_MOST]


def _servers() -> list[tuple[Any, bool]]:
    """The fork server and the resource tracker, each with whether it is running.

    Private names of the standard library, and the only way to end the two before this process ends. A process that
    multiprocessing has started knows the resource tracker of its parent by its descriptor alone.
    """
    found = []
    for module, name, sign in (
        (forkserver, "_forkserver", "_forkserver_pid"),
        (resource_tracker, "_resource_tracker", "_fd"),
    ):
        server = getattr(module, name, None)
        if server is not None:
            found.append((server, getattr(server, sign, None) is not None))
    return found


def _disown() -> None:
    """Forget a fork server that is another process's: after a fork, this one could neither wait for it nor end it."""
    server = getattr(forkserver, "_forkserver", None)
    pid = getattr(server, "_forkserver_pid", None)
    if server is None or pid is None:
        return
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = server._forkserver_address = server._forkserver_pid = None


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Have a child start apart from where this process is, and from what it is.

    multiprocessing starts interpreters with `-c`, which look for modules in the current folder first: a `random.py`
    there would be taken for Python's own. `-P` tells them not to, and the children of pools in tasks as well.

    Workers of `multiprocessing.Pool` may have no children, which would outlive them; ours do not.
    """
    flags = getattr(util, "_args_from_interpreter_flags", None)
    here = multiprocessing.current_process()
    daemon = here.daemon
    try:
        if flags is not None:
            util._args_from_interpreter_flags = lambda: [*flags(), "-P"]  # type: ignore[attr-defined]
        if daemon:
            here.daemon = False
        yield
    finally:
        if flags is not None:
            util._args_from_interpreter_flags = flags  # type: ignore[attr-defined]
        if daemon:
            here.daemon = True


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
