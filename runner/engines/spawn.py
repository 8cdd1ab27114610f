"""The start of a worker process, behind one function.

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
_DYING_SECONDS = 5.0
#: Modules of which the fork server is told at most: an environment variable holds 128 KiB.
_MAX_PRELOADS = 200
#: Ignored in the fork server and in workers: a terminal sends them to everybody.
TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGTSTP)


class InheritedFd:
    """A descriptor on its way to a child that is being started; there it arrives as an int."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, tuple[Any]]:
        from multiprocessing.reduction import DupFd

        return _receive_fd, (DupFd(self.fd),)


def _receive_fd(duplicate: Any) -> int:
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
        self._foreign_servers = fork_server.helper_processes()

    def start_fork_server(
        self, references: Sequence[Reference], needs_asyncio: bool = False, envs: Iterable[Mapping[str, str]] = ()
    ) -> None:
        """Start the fork server, and have it import of what workers will need what is safe; see `preload`.

        Where it has no place for its socket (nothing can be written anywhere), each worker is spawned anew.
        """
        if self.start_method != "forkserver":
            return
        self._context.set_forkserver_preload(["runner.engines.preload"])
        modules, files = ((), ()) if any(envs) else _preload_targets(references)
        wanted = {"path": sys.path, "modules": list(modules), "files": list(files), "asyncio": needs_asyncio}
        self._preload = json.dumps(wanted)
        try:
            self._ensure_server()
        except OSError:
            self.start_method = "spawn"
            self._context = multiprocessing.get_context(self.start_method)

    def _ensure_server(self) -> None:
        """Start the fork server, unless it runs."""
        if fork_server.is_server_running():
            return
        if self._preload:
            os.environ[PRELOAD_VARIABLE] = self._preload
        try:
            with _isolated_interpreter(), _blocked_signals(), fork_server.use_unlinked_socket():
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
        """Start one process; OSError when the machine refuses. `hurried()` is True once a signal waits for this to end.

        A fork server that dies no longer listens some time before it can be waited for; until then nothing would
        start a new one, and each try is refused.
        """
        deadline = time.monotonic() + _DYING_SECONDS
        while True:
            try:
                return self._start_process(target, args, name, hurried)
            except (ConnectionRefusedError, FileNotFoundError) as error:
                if isinstance(error, FileNotFoundError):  # its socket was swept away, so it cannot be reached any more
                    fork_server.kill_server()
                if time.monotonic() > deadline or self.start_method != "forkserver":
                    raise
                time.sleep(0.001)

    def _start_process(
        self, target: Callable[..., None], args: tuple[Any, ...], name: str, hurried: Callable[[], bool]
    ) -> BaseProcess:
        process: BaseProcess
        if self.start_method == "forkserver":
            self._ensure_server()
            process = fork_server.ForkedProcess(target=target, args=args, name=name)
            with _isolated_interpreter(), _hidden_main():
                process.start()
            fork_server.await_started(process, hurried)
        else:
            process = self._context.Process(target=target, args=args, name=name)  # type: ignore[attr-defined]
            with _isolated_interpreter(), _hidden_main(), _blocked_signals():
                process.start()
        return process

    def abandon_in_fork(self) -> None:
        """Let go of the fork server in a copy of this process, which starts its own if it needs one."""
        fork_server.release_helpers(self._foreign_servers)

    def close(self) -> None:
        """End the fork server and the resource tracker; both would end by themselves when runner does."""
        for each in fork_server.helper_processes():
            if each not in self._foreign_servers:
                fork_server.end_helper(each)


def _preload_targets(references: Sequence[Reference]) -> tuple[list[str], list[str]]:
    """Return modules that may be imported before a fork, and files whose imports alone may be."""
    modules, files = [], []
    for module, path in dict.fromkeys((each.module, each.path) for each in references):
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or (top == "runner" and path is None):
            modules.append(module)
        else:
            file = path or getattr(sys.modules.get(module), "__file__", None)
            files += [file] if file and file.endswith(".py") else []
    return modules[:_MAX_PRELOADS], files[:_MAX_PRELOADS]


@contextlib.contextmanager
def _isolated_interpreter() -> Iterator[None]:
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
def _blocked_signals() -> Iterator[None]:
    """Have a child start with the terminal's signals blocked; the child calls `ignore_terminal_signals`.

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
    """Ignore the terminal's signals, and block none, in a child that was started by `Spawner`.

    The program that started runner may have blocked more, or ignored SIGCHLD: then no exit code would be known.
    """
    for number in TERMINAL_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Hide `__main__`'s file: a child would run it again, and import the whole command line for nothing."""
    main = sys.modules.get("__main__")
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        if main is not None:
            sys.modules["__main__"] = main
