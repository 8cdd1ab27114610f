"""The first thing that a process worker does: its own group, its lifeline, its output; then the worker's life."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner import forked_copies
from runner.engines import fork_server, lifeline
from runner.engines.spawn import ignore_terminal
from runner.error_text import describe
from runner.shm import reader
from runner.shm.writer import Store
from runner.structs import dataclass
from runner.transport import stdio
from runner.transport.framing import FrameError
from runner.transport.messages import Answer, Arena, Credit, Grant
from runner.transport.progress_page import Page
from runner.transport.socket_link import WorkerLink
from runner.worker import WorkerSpec, orderly_exit, run
from runner.worker.spec import SupervisorGone

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.engines.spawn import InheritedFd
    from runner.transport.messages import FromWorker


@dataclass(slots=True)
class Kit:
    """What a child is given: what to do, and its ends of everything. `out` and `err` are None under `log = "raw"`."""

    spec: WorkerSpec
    socket: InheritedFd | int
    page: InheritedFd | int
    lifeline: InheritedFd | int
    notes: InheritedFd | int
    out: InheritedFd | int | None
    err: InheritedFd | int | None
    runner: int
    arena: int


class ProcessPort:
    """The port of a process worker: its private socket, and what it needs to send and receive large buffers."""

    def __init__(self, link: WorkerLink, arena: int) -> None:
        self._link = link
        self._lock = threading.Lock()
        self.store: Store | None = Store(arena, self._announce)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._link.fileno()

    def abandon(self) -> None:
        """This is a copy that a function has forked: it has no part in what is said here."""
        self._link.close()
        self._lock = threading.Lock()
        self._link = forked_copies.Nowhere()  # type: ignore[assignment]  # that is what it stands for

    def _announce(self, number: int, fd: int) -> None:
        reader.opened(number, os.dup(fd))  # what it writes may come back to it
        self.send(Arena(number, fd))

    def send(self, message: FromWorker) -> None:
        """Write a message whole."""
        if type(message) is Answer:
            kept, gone = reader.news()
            if kept or gone:
                message = replace(message, kept=kept, gone=gone)
        try:
            with self._lock:
                self._link.send(message)
        except OSError:
            raise SupervisorGone from None

    def receive(self, timeout: float | None = None) -> Any:
        """The next message; None after `timeout` seconds."""
        while True:
            if timeout is not None and not self._link.waiting(timeout):
                return None
            try:
                message = self._link.receive()
            except (EOFError, OSError, FrameError):
                raise SupervisorGone from None
            if type(message) is not Arena or message.freed:
                break
            if message.fd >= 0:
                reader.opened(message.number, message.fd)
            else:
                reader.forgotten(message.number)
        if type(message) in {Grant, Credit, Arena} and message.freed and self.store is not None:
            self.store.freed.extend(message.freed)
        return message

    def listen(self, deliver: Callable[[Any], None]) -> None:
        """Read in a thread of its own from now on."""

        def read() -> None:
            with contextlib.suppress(SupervisorGone):
                while True:
                    deliver(self.receive())

        threading.Thread(target=read, name="runner-port", daemon=True).start()


def main(kit: Kit) -> None:
    """Be a worker until there is nothing more to do."""
    orderly_exit.inherit()
    os.setpgid(0, 0)
    ignore_terminal()
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    lifeline.arm(_fd(kit.lifeline))
    _take_notes(_fd(kit.notes))
    _reseed()
    stdio.worker_side(*(None if end is None else _fd(end) for end in (kit.out, kit.err)))
    os.environ["RUNNER_PID"] = str(kit.runner)
    page = Page(_fd(kit.page))
    port = ProcessPort(WorkerLink(socket.socket(fileno=_fd(kit.socket))), kit.arena)
    forked_copies.tell(port.abandon)
    forked = "runner.engines.preload" in sys.modules  # by the fork server, else spawned
    ours = {*fork_server.keep_apart(), port.fileno()}
    try:
        run(kit.spec, port, page.cell(kit.spec.slot))
    except Exception:
        raise  # a fault of runner's own
    except SystemExit:
        raise  # quietly, with its code
    except BaseException as error:  # noqa: BLE001  a KeyboardInterrupt of the user's: told without frames of ours
        os.write(_fd(kit.notes), describe(error).traceback.encode("utf-8", "backslashreplace"))
        raise SystemExit(1) from None
    finally:
        who = f"runner: worker `{kit.spec.name}` of task `{kit.spec.task}`"
        orderly_exit.part(who, kit.spec.grace, ours if forked else None)
        stdio.flush_all()


def _take_notes(fd: int) -> None:
    """A crash, and SIGQUIT, write the stacks of all threads into the file that runner reads afterwards."""
    faulthandler.enable(fd, all_threads=True)
    faulthandler.register(signal.SIGQUIT, fd, all_threads=True)


def _reseed() -> None:
    """The fork server may have imported numpy, whose global generator would be the same in every worker."""
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()


def _fd(end: InheritedFd | int) -> int:
    assert isinstance(end, int)
    return end
