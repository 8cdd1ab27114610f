"""A command of runner without the time that a new interpreter takes to import it: the greater part of most commands.

A server process, one for each process of pytest, imports what every command imports, and forks itself for each command.
The command is a process of its own all the same: with its own session, streams, folder, environment, PYTHONPATH and
exit. What else is decided when an interpreter starts (encodings, switches in `PYTHON...`) is the server's;
`Project.start` executes. All commands of a server have one resource tracker, which would otherwise be the second
interpreter that each run of processes starts.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import time
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

#: What nearly every command imports.
MODULES = (
    "runner.cli.app",
    "runner.cli.run",
    "runner.supervisor",
    "runner.engines.processes",
    "runner.engines.threads",
)


class ForkedCommand:
    """A command that a server has forked; used as `subprocess.Popen` is."""

    def __init__(self, link: socket.socket, args: list[str], files: list[int], pid: int) -> None:
        self.args, self.pid = args, pid
        self.returncode: int | None = None
        self._link = link
        self._chunks: dict[int, list[bytes]] = {file: [] for file in files}
        self._open = set(files)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

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
        self._link.settimeout(None if end is None else max(0.1, end - time.monotonic()))
        try:
            self.returncode = os.waitstatus_to_exitcode(int(self._link.recv(64)))
        except TimeoutError:
            raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
        texts = [b"".join(chunks).decode("utf-8", "replace") for chunks in self._chunks.values()]
        out, err = (text.replace("\r\n", "\n").replace("\r", "\n") for text in (*texts, "")[:2])
        return out, err


class CommandServer:
    """The client's end: starts the server, and asks it for commands, one at a time."""

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
        request = json.dumps({"args": args, "cwd": str(cwd), "env": dict(env)}).encode()
        stdin, nothing = os.pipe()
        os.close(nothing)
        read_ends, write_ends = zip(*(os.pipe() for _ in range(1 if one_output else 2)), strict=True)
        socket.send_fds(self._link, [request], [stdin, write_ends[0], write_ends[-1]])
        for file in (stdin, *write_ends):
            os.close(file)
        self._link.settimeout(60)
        pid = int(self._link.recv(64))
        return ForkedCommand(self._link, [sys.executable, "-m", "runner", *args], list(read_ends), pid)

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


def serve(link: socket.socket) -> None:
    """Fork once for each request, and answer with the process and with its end; return in the process of a command."""
    while True:
        message, files, _, _ = socket.recv_fds(link, 1 << 20, 3)
        if not message:
            os._exit(0)
        pid = os.fork()
        if not pid:
            link.close()
            become(files, **json.loads(message))
            return
        for file in files:
            os.close(file)
        with contextlib.suppress(BrokenPipeError):  # the test session was killed
            link.send(str(pid).encode())
            link.send(str(os.waitpid(pid, 0)[1]).encode())


def become(files: list[int], args: list[str], cwd: str, env: dict[str, Any]) -> None:
    """Be the process of a command: everything in which it differs from the server's."""
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    tracker: Any = resource_tracker._resource_tracker  # private
    atexit._ncallbacks = lambda: 0  # as in an interpreter that has imported nothing yet
    tracker._pid = None  # the server's: it is used, and neither waited for nor ended
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv[1:] = args
    sys.path[0] = cwd  # what `-m` puts there
    sys.path[1:1] = [folder for folder in env.get("PYTHONPATH", "").split(os.pathsep) if folder]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    to_client = socket.socket(fileno=int(sys.argv[1]))
    resource_tracker.ensure_running()
    to_client.send(b"ready")
    for module in MODULES:
        __import__(module)
    serve(to_client)
    runpy.run_module("runner", run_name="__main__", alter_sys=True)
