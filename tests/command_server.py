"""A command of runner without the time that a new interpreter takes to import it: the greater part of most commands.

A server process, one for each process of pytest, imports what every command imports, and forks itself for each command;
and for each fork server that a run inside the process of pytest needs (`conftest.fork_server`).
The command is a process of its own all the same: with its own session, streams, folder, environment, PYTHONPATH and
exit. What else is decided when an interpreter starts (encodings, switches in `PYTHON...`) is the server's;
`Project.start` executes. All commands of a server have one resource tracker, which would otherwise be the second
interpreter that each run of processes starts.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from multiprocessing import resource_tracker, util
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

#: What nearly every command imports: with what these import, all that a run of threads does.
MODULES = (
    "runner.cli.app",
    "runner.cli.run",
    "runner.runs",
    "runner.check",
    "runner.engines.early_fork",
    "runner.engines.threads",
    "runner.plugins.hooks",
    "runner.plugins.lookup",
    "runner.report.console",
    "runner.report.displays",
    "runner.report.journal",
    "runner.report.log",
    "runner.std.commands",
    "runner.std.shell",
    "runner.supervisor.loop",
    "typer._adapters",  # private; for verbs that take a path
)


class ForkedProcess:
    """A process that a server has forked; used as `subprocess.Popen` is."""

    def __init__(self, answer: int) -> None:
        self._answer = answer
        self.returncode: int | None = None
        self.pid = self._read_number(60)

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # as `subprocess.Popen` does
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        """Return the exit code once it has ended."""
        with contextlib.suppress(TimeoutError):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return the exit code."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(self._read_number(timeout))
            os.close(self._answer)
        return self.returncode

    def kill(self) -> None:
        """Send SIGKILL unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has, and the server has not said so yet
                self.send_signal(signal.SIGKILL)

    def _read_number(self, timeout: float | None) -> int:
        if not select.select([self._answer], [], [], timeout)[0]:
            raise TimeoutError
        return int.from_bytes(os.read(self._answer, 4), "little")


class ForkedCommand(ForkedProcess):
    """A command that a server has forked."""

    def __init__(self, answer: int, args: list[str], files: list[int]) -> None:
        super().__init__(answer)
        self.args = args
        self._chunks: dict[int, list[bytes]] = {file: [] for file in files}
        self._open = set(files)

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:  # noqa: A002  as Popen's
        """Return what it wrote to standard output and error when both are closed; TimeoutExpired when they are not."""
        assert input is None, "nothing is on its standard input"
        end = None if timeout is None else time.monotonic() + timeout
        with selectors.DefaultSelector() as waiting:
            for file in self._open:
                waiting.register(file, selectors.EVENT_READ)
            while self._open:
                ready = waiting.select(None if end is None else max(0, end - time.monotonic()))
                if not ready:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    self._chunks[key.fd].append(data)
                    if not data:
                        waiting.unregister(key.fd)
                        self._open.remove(key.fd)
                        os.close(key.fd)
        try:
            self.wait(None if end is None else max(0.1, end - time.monotonic()))
        except TimeoutError:
            raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
        texts = [b"".join(chunks).decode("utf-8", "replace") for chunks in self._chunks.values()]
        out, err = (text.replace("\r\n", "\n").replace("\r", "\n") for text in (*texts, "")[:2])
        return out, err


class CommandServer:
    """The client's end: starts the server, and asks it for processes."""

    def __init__(self) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            null = subprocess.DEVNULL
            self._server = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], stdin=null, stdout=null, pass_fds=[theirs.fileno()]
            )
        self._link.recv(64)  # its resource tracker is there, so that the census of no test counts it

    def start(self, args: list[str], cwd: Path, env: Mapping[str, str], one_output: bool = False) -> ForkedCommand:
        """Start `python -m runner ARGS`; nothing is on its standard input, and `one_output` is that of both streams."""
        stdin, nothing = os.pipe()
        os.close(nothing)
        read_ends, write_ends = zip(*(os.pipe() for _ in range(1 if one_output else 2)), strict=True)
        request = {"args": args, "cwd": str(cwd), "env": dict(env)}
        answer = self._ask(request, [stdin, write_ends[0], write_ends[-1]])
        for file in (stdin, *write_ends):
            os.close(file)
        return ForkedCommand(answer, [sys.executable, "-m", "runner", *args], list(read_ends))

    def start_fork_server(self) -> tuple[ForkedProcess, socket.socket]:
        """Start a fork server for a run in this process, with the socket that leads to it, as `engines.spawn` does."""
        control, theirs = socket.socketpair()
        with theirs:
            return ForkedProcess(self._ask({}, [0, 1, 2, theirs.fileno()])), control

    def _ask(self, request: dict[str, Any], files: list[int]) -> int:
        """Return where the number of a process arrives, and how it has ended."""
        answer, theirs = os.pipe()
        socket.send_fds(self._link, [json.dumps(request).encode()], [theirs, *files])
        os.close(theirs)
        return answer

    def close(self) -> None:
        """End the server."""
        self._link.close()
        self._server.wait(60)


@contextlib.contextmanager
def running() -> Iterator[CommandServer]:
    """Start a server, and end it."""
    server = CommandServer()
    try:
        yield server
    finally:
        server.close()


def serve(link: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork once for each request, and answer with the process and with its end; return, in the process, the request."""
    wakeup, notify = os.pipe()
    os.set_blocking(notify, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(notify, warn_on_full_buffer=False)
    answers: dict[int, int] = {}
    while True:
        ready = select.select([link.fileno(), wakeup], [], [])[0]
        if wakeup in ready:
            os.read(wakeup, 1 << 12)
            for pid in [*answers]:
                if (ended := os.waitpid(pid, os.WNOHANG))[0]:
                    write_number(answers[pid], ended[1])
                    os.close(answers.pop(pid))
        if link.fileno() not in ready:
            continue
        message, files, _, _ = socket.recv_fds(link, 1 << 20, 5)
        if not message:
            os._exit(0)
        answer, *files = files
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            link.close()
            for file in (answer, wakeup, notify, *answers.values()):
                os.close(file)
            return json.loads(message), files
        answers[pid] = answer
        write_number(answer, pid)
        for file in files:
            os.close(file)


def read_signatures() -> None:
    """Read the options of `runner` and `runner run` once, which typer does twice for each command."""
    import typer.main

    from runner.cli import app, run

    main: Any = typer.main  # private
    main.get_params_from_function = functools.cache(main.get_params_from_function)
    group: Any = app.app.registered_callback
    for function in (group.callback, run.run):
        main.get_params_from_function(function)


def write_number(answer: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the test session was killed
        os.write(answer, number.to_bytes(4, "little"))


def become_command(files: list[int], args: list[str], cwd: str, env: dict[str, Any]) -> None:
    """Be the process of a command: everything in which it differs from the server's."""
    os.setsid()
    take_streams(files)
    tracker: Any = resource_tracker._resource_tracker  # private
    atexit._ncallbacks = lambda: 0  # as in an interpreter that has imported nothing yet
    tracker._pid = None  # the server's: it is used, and neither waited for nor ended
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv[1:] = args
    sys.path[0] = cwd  # what `-m` puts there
    sys.path[1:1] = [folder for folder in env.get("PYTHONPATH", "").split(os.pathsep) if folder]


def become_fork_server(files: list[int], control: int) -> NoReturn:
    """Be what an interpreter is that `engines.spawn` has started for it; the first message says the rest."""
    take_streams(files)
    early_fork._let_go_of_files(control)
    tracker: Any = resource_tracker._resource_tracker  # private
    tracker._fd = tracker._pid = None  # each run has its own
    vars(sys.modules["__main__"]).update(__spec__=None, __file__=None)  # a pool in a task would execute it again
    flags = util._args_from_interpreter_flags  # type: ignore[attr-defined]  # private, as in `engines.early_fork`
    util._args_from_interpreter_flags = lambda: [*flags(), "-P"]  # type: ignore[attr-defined]
    fork_server.serve(control)


def take_streams(files: list[int]) -> None:
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    to_client = socket.socket(fileno=int(sys.argv[1]))
    resource_tracker.ensure_running()
    to_client.send(b"ready")
    for module in MODULES:
        __import__(module)
    from runner.engines import early_fork, fork_server

    read_signatures()
    request, descriptors = serve(to_client)
    if request:
        become_command(descriptors, **request)
        runpy.run_module("runner", run_name="__main__", alter_sys=True)
    else:
        become_fork_server(descriptors[:3], descriptors[3])
