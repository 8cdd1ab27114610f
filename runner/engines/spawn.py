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

from runner.engines import fork_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from multiprocessing.process import BaseProcess

    from runner.tasks import Reference

PRELOAD_VARIABLE = "RUNNER_PRELOAD"
START_METHOD_VARIABLE = "RUNNER_START_METHOD"
#: Seconds that a fork server which no longer listens may take until it is gone.
_DYING = 5.0
#: The fork server is told of so many modules: an environment variable holds 128 KiB.
_MOST = 200
#: Ignored in the fork server and in workers: a terminal sends them to everybody.
TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGTSTP)


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
        wanted = method or os.environ.get(START_METHOD_VARIABLE) or "forkserver"
        self.start_method = wanted if wanted in available and wanted != "fork" else "spawn"
        self._context = multiprocessing.get_context(self.start_method)
        fork_server.forget_inherited_server()
        self._preload = ""
        #: The servers that were running before; the others are ours to end.
        self._theirs = fork_server.helper_processes()

    def start_fork_server(
        self, references: Sequence[Reference], needs_asyncio: bool = False, envs: Iterable[Mapping[str, str]] = ()
    ) -> None:
        """Start the fork server, and have it import of what workers will need what is safe; see `preload`.

        Where it has no place for its socket (nothing can be written anywhere), each worker is spawned anew.
        """
        if self.start_method != "forkserver":
            return
        self._context.set_forkserver_preload(["runner.engines.preload"])
        modules, files = ((), ()) if any(envs) else _wanted(references)
        wanted = {"path": sys.path, "modules": list(modules), "files": list(files), "asyncio": needs_asyncio}
        self._preload = json.dumps(wanted)
        try:
            self._serve()
        except OSError:
            self.start_method = "spawn"
            self._context = multiprocessing.get_context(self.start_method)

    def _serve(self) -> None:
        """Start the fork server, unless it runs."""
        if fork_server.is_server_running():
            return
        if self._preload:
            os.environ[PRELOAD_VARIABLE] = self._preload
        try:
            with _apart(), _held_back(), fork_server.use_unlinked_socket():
                forkserver.ensure_running()
        finally:
            os.environ.pop(PRELOAD_VARIABLE, None)

    def start(
        self,
        target: Callable[..., None],
        args: tuple[Any, ...],
        name: str,
        hurried: Callable[[], bool] = lambda: False,
    ) -> BaseProcess:
        """Start one process; OSError when the machine refuses. `hurried`: whether a signal waits for this to end.

        A fork server that dies no longer listens some time before it can be waited for; until then nothing would
        start a new one, and each try is refused.
        """
        end = time.monotonic() + _DYING
        while True:
            try:
                return self._start(target, args, name, hurried)
            except (ConnectionRefusedError, FileNotFoundError) as error:
                if isinstance(error, FileNotFoundError):  # its socket was swept away, so nobody will ever reach it
                    fork_server.kill()
                if time.monotonic() > end or self.start_method != "forkserver":
                    raise
                time.sleep(0.001)

    def _start(
        self, target: Callable[..., None], args: tuple[Any, ...], name: str, hurried: Callable[[], bool]
    ) -> BaseProcess:
        process: BaseProcess
        if self.start_method == "forkserver":
            self._serve()
            process = fork_server.ForkedProcess(target=target, args=args, name=name)
            with _apart(), _no_main():
                process.start()
            fork_server.await_started(process, hurried)
        else:
            process = self._context.Process(target=target, args=args, name=name)  # type: ignore[attr-defined]
            with _apart(), _no_main(), _held_back():
                process.start()
        return process

    def abandon_in_fork(self) -> None:
        """This is a copy of the process: it must not keep the fork server alive, and starts its own if it wants one."""
        fork_server.release_helpers(self._theirs)

    def close(self) -> None:
        """End the fork server and the resource tracker; both would end by themselves when runner does."""
        for each in fork_server.helper_processes():
            if each not in self._theirs:
                fork_server.end_helper(each)


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
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    try:
        resource_tracker.ensure_running()  # it ends with two of them unblocked
        signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_terminal_signals() -> None:
    """In a child that was started by `Spawner`: from now on the terminal's signals are ignored, and none is blocked.

    Whoever started runner may have blocked more, and ignored that children end: then no exit code would be known.
    """
    for number in TERMINAL_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


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
