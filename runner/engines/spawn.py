"""The start of a process, behind one function: a fork server forks it in about 4 ms, or it is spawned anew.

    runner ── a byte, and beside it descriptors: status, request, ... ──▶ fork server ── fork ──▶ worker
       ◀──────── status: a pipe with the worker's pid, later its exit code ───────┘

The server is started before any thread, and imports what `fork_server` says. With RUNNER_START_METHOD=spawn each
worker is an interpreter of its own that is handed the same descriptors. In a command's process the server is a copy of
that, made when there is no other thread and nothing of the user's (`early_fork`); a worker is never forked from runner
itself: it would inherit threads' locks and every descriptor.

multiprocessing's own fork server is found by the name of a socket (in a folder that may be swept, or have a name that
is too long), is one for the whole process, whose other users may end it, and waits for its answers without a limit.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
from multiprocessing import process, resource_tracker, util
from multiprocessing.spawn import get_executable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import linux_only
from runner.engines.process_setup import TERMINAL_SIGNALS
from runner.posix_only import resource
from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from runner.tasks import Reference

START_METHOD_VARIABLE = "RUNNER_START_METHOD"
#: Seconds that the server may take to fork; it has imported everything before. The second once a signal has come.
START_TIMEOUT, START_TIMEOUT_AFTER_SIGNAL = 10.0, 1.0
#: Between two looks whether a signal has come.
_SIGNAL_CHECK_SECONDS = 0.1
#: Seconds in which a helper process that is told to end must do so.
_END_SECONDS = 1.0
_STATUS_BYTES = 4
#: Private, as are its parts, which no stub knows.
_tracker: Any = resource_tracker._resource_tracker


class ForkServerTimeout(ConnectionError):
    """The fork server has not answered in time; it has been killed, and the next start makes a new one."""


@dataclass(slots=True)
class StartedProcess:
    """A process that `Spawner` has started.

    `status_fd` becomes readable when it ends. `interpreter` is None if the fork server has forked it: then the exit
    code arrives by that descriptor, and stays None if the server ends before.
    """

    pid: int
    status_fd: int
    interpreter: subprocess.Popen[bytes] | None = None
    exit_code: int | None = None

    def open_exit_fd(self) -> int:
        """Return a descriptor that is readable once it has ended; that may be `status_fd`."""
        fd = linux_only.exit_fd(self.pid)
        if fd is None and self.interpreter is not None:  # a copy that a task forks has `status_fd` as well
            fd = linux_only.watch_exit(self.interpreter.wait)
        return self.status_fd if fd is None else fd

    def wait_for_exit_code(self, seconds: float) -> None:
        """Wait for the end; the exit code is None still if it takes longer than that, or cannot be known."""
        if self.interpreter is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.exit_code = self.interpreter.wait(seconds)
        elif self.exit_code is None:
            with contextlib.suppress(EOFError):
                self.exit_code = _read_status(self.status_fd, seconds)


@dataclass(eq=False)
class ForkedServer:
    """A fork server that is a copy of this process, made by `early_fork`; used as `subprocess.Popen` is."""

    pid: int
    control: socket.socket
    attributes: tuple[Any, ...]  # what it has inherited
    returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code once it has ended; 0 if another has waited for it."""
        return self.wait(os.WNOHANG)

    def wait(self, options: int = 0) -> int | None:
        """Wait for its end; return the exit code."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:
                self.returncode = 0
            else:
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def kill(self) -> None:
        """Send SIGKILL unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


#: Made by `early_fork`, for the next run.
early_server: ForkedServer | None = None


class Spawner:
    """Starts processes by one method; `close` ends what helps with that."""

    def __init__(self, method: str | None = None) -> None:
        wanted = method or os.environ.get(START_METHOD_VARIABLE) or "forkserver"
        self.start_method = "forkserver" if wanted == "forkserver" and linux_only.can_fork_workers() else "spawn"
        self.server: subprocess.Popen[bytes] | ForkedServer | None = None
        self._control: socket.socket | None = None
        self._preload: dict[str, Any] = {"modules": (), "files": (), "needs_asyncio": False}
        self._owns_tracker = False

    def start_fork_server(
        self, references: Sequence[Reference], needs_asyncio: bool = False, envs: Iterable[Mapping[str, str]] = ()
    ) -> None:
        """Start the fork server, and have it import of what workers will need what is safe; see `fork_server`."""
        modules, files = ((), ()) if any(envs) else _preload_targets(references)
        self._preload = {"modules": modules, "files": files, "needs_asyncio": needs_asyncio}
        if self.start_method == "forkserver":
            with contextlib.suppress(OSError):  # the first start says what the machine refuses
                self._ensure_server()

    def _ensure_server(self) -> socket.socket:
        """Start the fork server unless it runs; return the socket that leads to it."""
        if self._control is None or self.server is None or self.server.poll() is not None:
            self._end_server()
            self.server, self._control = _take_early_server() or _start_server()
            surroundings = {
                "environ": dict(os.environ),
                "sys_path": _module_path(),
                "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
            }
            with contextlib.ExitStack() as theirs:
                fds = _pickle_file({**self._preload, **surroundings}, theirs), *self._make_tracker_pipe(theirs)
                socket.send_fds(self._control, [b"\0"], fds)
        return self._control

    def _make_tracker_pipe(self, stack: contextlib.ExitStack) -> tuple[int, ...]:
        """Return the read end of a pipe to a resource tracker that is not there yet, to be closed with `stack`.

        Tasks that share memory by name need one for all of them, and are few: the fork server forks it when the first
        byte arrives. If the program has a tracker already, all use that.
        # bench start, in a process: 577 ms of CPU time with a tracker in each run, 503 so; bench small: 6 MB
        """
        self._forget_tracker()
        with _tracker._lock:
            if _tracker._fd is not None:
                return ()
            read_end, _tracker._fd = os.pipe()
        self._owns_tracker = True
        stack.callback(os.close, read_end)
        return (read_end,)

    def _ensure_tracker(self) -> None:
        """Start multiprocessing's resource tracker unless there is a way to one."""
        if _tracker._fd is not None:
            return
        self._owns_tracker = True
        flags = util._args_from_interpreter_flags  # type: ignore[attr-defined]  # it has no `-P` of its own
        with blocked_terminal_signals():
            util._args_from_interpreter_flags = lambda: [*flags(), "-P"]  # type: ignore[attr-defined]
            try:
                _tracker.ensure_running()
            finally:
                util._args_from_interpreter_flags = flags  # type: ignore[attr-defined]

    def _forget_tracker(self) -> int | None:
        """Close the way to the resource tracker, if it is ours; return its pid if it is a child of this process."""
        if not self._owns_tracker or _tracker._fd is None:
            return None
        self._owns_tracker = False
        with _tracker._lock:
            os.close(_tracker._fd)
            pid: int | None = _tracker._pid
            _tracker._pid = _tracker._fd = None
        return pid

    def start(
        self,
        target: Callable[..., None],
        args: tuple[Any, ...],
        name: str,
        fds: Sequence[int] = (),
        hurried: Callable[[], bool] = lambda: False,
    ) -> StartedProcess:
        """Start a process that calls `target(*args, *fds)`; OSError or EOFError when the machine refuses.

        The first descriptor is readable once this process is gone: multiprocessing calls that the parent's sentinel.
        `hurried()` is True once a signal waits for the start to end. After an error the next start has a new server.
        """
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            status_fd, their_status_fd = os.pipe()
            ours.callback(os.close, status_fd)
            theirs.callback(os.close, their_status_fd)
            authkey = bytes(process.current_process().authkey)
            setup = {"authkey": authkey, "sys_path": _module_path(), "sys_argv": sys.argv, "dir": str(Path.cwd())}
            request_fd = _pickle_file((setup, os.getpid(), name, target, args), theirs)
            if self.start_method == "spawn":
                self._ensure_tracker()
                given = (their_status_fd, request_fd, _tracker._fd, *fds)
                interpreter = _start_interpreter(f"become_worker{('spawn', *given)}", given)
                started = StartedProcess(interpreter.pid, status_fd, interpreter)
            else:
                try:
                    control = self._ensure_server()
                    self._ensure_tracker()
                    socket.send_fds(control, [b"\0"], (their_status_fd, request_fd, _tracker._fd, *fds))
                    theirs.close()
                    started = StartedProcess(await_pid(status_fd, hurried), status_fd)
                except (OSError, EOFError):
                    self.kill_server()
                    raise
            ours.pop_all()
            return started

    def kill_server(self) -> None:
        """End the fork server at once, also a stopped one. The exit codes that it alone knew are lost."""
        if self.server is not None:
            self.server.kill()
            self.server.wait()

    def _end_server(self) -> None:
        if self._control is not None:
            self._control.close()
        if self.server is not None:
            wait_until_ended(self.server)
        self.server = self._control = None

    def abandon_in_fork(self) -> None:
        """Let go of the fork server in a copy of this process, which starts its own if it needs one."""
        if self.server is not None:
            self.server.returncode = 0  # another process's child: nothing is to be waited for here
        self._end_server()

    def close(self) -> None:
        """End the fork server and the resource tracker; both would end by themselves when runner does."""
        tracker_pid = self._forget_tracker()
        self._end_server()
        if tracker_pid is not None:
            deadline = time.monotonic() + _END_SECONDS
            with contextlib.suppress(ChildProcessError):  # another waits for any child, and was first
                while not os.waitpid(tracker_pid, os.WNOHANG)[0]:
                    if time.monotonic() > deadline:
                        os.kill(tracker_pid, signal.SIGKILL)
                    time.sleep(0.001)


def _take_early_server() -> tuple[ForkedServer, socket.socket] | None:
    """Take the server that `early_fork` has made, unless a plugin has changed since what a child inherits."""
    global early_server  # noqa: PLW0603  a fact about the process
    with contextlib.suppress(OSError):
        server = early_server
        if server is not None and server.attributes == linux_only.inherited_attributes():
            early_server = None
            return server, server.control
    end_early_server()
    return None


def abandon_early_server() -> None:
    """Let go of it in a copy of this process, such as a daemon that a plugin forks while it is imported."""
    global early_server  # noqa: PLW0603  the same
    if early_server is not None:
        early_server.control.close()
        early_server = None


def end_early_server() -> None:
    """End what `early_fork` has made and no run has taken."""
    global early_server
    server, early_server = early_server, None
    if server is not None:
        server.control.close()
        wait_until_ended(server)


def _start_server() -> tuple[subprocess.Popen[bytes], socket.socket]:
    control, their_end = socket.socketpair()
    with their_end:
        return _start_interpreter(f"serve({their_end.fileno()})", [their_end.fileno()]), control


def wait_until_ended(server: subprocess.Popen[bytes] | ForkedServer) -> None:
    """Wait for the end of a fork server whose socket is closed; kill it if that takes too long."""
    if server.returncode is None and (exit_fd := linux_only.exit_fd(server.pid)) is not None:
        poll = select.poll()  # `Popen.wait` with a limit looks from time to time, every 50 ms at last
        poll.register(exit_fd, select.POLLIN)
        poll.poll(_END_SECONDS * 1000)
        os.close(exit_fd)
    elif isinstance(server, subprocess.Popen):
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_END_SECONDS)
    server.kill()
    server.wait()


def await_pid(status_fd: int, hurried: Callable[[], bool]) -> int:
    """Return the new process's pid; raise ForkServerTimeout, or EOFError if the server died."""
    began = time.monotonic()
    while (pid := _read_status(status_fd, _SIGNAL_CHECK_SECONDS)) is None:
        waited = time.monotonic() - began
        if waited > START_TIMEOUT or (waited > START_TIMEOUT_AFTER_SIGNAL and hurried()):
            raise ForkServerTimeout(f"the fork server has not answered for {waited:.0f} s")
    return pid


def _read_status(fd: int, seconds: float) -> int | None:
    """Return the next number that the fork server has written; None if none comes in time, EOFError if it is gone."""
    poll = select.poll()  # `select.select` ends at descriptor 1,023
    poll.register(fd, select.POLLIN)
    if not poll.poll(seconds * 1000):
        return None
    data = os.read(fd, _STATUS_BYTES)
    if not data:
        raise EOFError
    return int.from_bytes(data, "little", signed=True)


def _pickle_file(value: Any, stack: contextlib.ExitStack) -> int:
    """Return the descriptor of a file that holds a pickle, to be closed with `stack`."""
    fd = linux_only.memory_file("runner-request")
    stack.callback(os.close, fd)
    with open(fd, "wb", closefd=False) as file:
        pickle.dump(value, file)
    return fd


def _module_path() -> list[str]:
    """Return where modules are looked for; the empty entry of a prompt is the folder in which that began."""
    return [each or process.ORIGINAL_DIR for each in sys.path]  # type: ignore[attr-defined]  # as multiprocessing does


def _start_interpreter(call: str, fds: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start an interpreter that calls a function of `fork_server`, and inherits some descriptors.

    `-c` would look for modules in the current folder first, and take a `random.py` there for Python's own. `-P` tells
    it not to, and the children of pools in tasks as well. The terminal's signals are blocked in it at first
    (`ignore_terminal_signals` ends that); were they ignored here for so long, one that comes in that moment would be
    lost to this process as well.
    """
    code = f"import sys; sys.path[:] = {_module_path()!r}; from runner.engines import fork_server; fork_server.{call}"
    command = [get_executable(), *util._args_from_interpreter_flags(), "-P", "-c", code]  # type: ignore[attr-defined]
    with blocked_terminal_signals():
        return subprocess.Popen(command, pass_fds=fds)  # noqa: S603  this Python itself


@contextlib.contextmanager
def blocked_terminal_signals() -> Iterator[None]:
    """Block the signals of a terminal, in a child too, until it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
    return modules, files
