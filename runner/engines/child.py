"""The first thing that a process worker does: its own group, its lifeline, its output; then the worker's life."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from runner import forked_copies
from runner.engines import lifeline
from runner.engines.process_setup import ignore_terminal_signals
from runner.error_text import describe_error
from runner.shm import reader
from runner.shm.writer import ArenaWriter
from runner.transport import stdio
from runner.transport.framing import FrameError
from runner.transport.messages import ArenaNotice, Reply, Stop
from runner.transport.progress_page import ProgressPage
from runner.transport.socket_link import WorkerLink
from runner.worker import orderly_exit
from runner.worker.lifecycle import run
from runner.worker.spec import SupervisorGone, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.transport.messages import FromWorker


class ProcessPort:
    """The port of a process worker: its private sockets, and what it needs to send and receive large buffers."""

    def __init__(self, link: WorkerLink, arena_number: int) -> None:
        self._link = link
        self._lock = threading.Lock()
        self.arena_writer: ArenaWriter | None = ArenaWriter(arena_number, self._announce_arena)

    def filenos(self) -> set[int]:
        """Return the sockets' descriptors."""
        return self._link.filenos()

    def abandon_in_fork(self) -> None:
        """Let go of the sockets: this is a copy that a function has forked."""
        self._link.close()
        self._lock = threading.Lock()
        self._link = forked_copies.DiscardingChannel()  # type: ignore[assignment]  # that is what it stands for

    def _announce_arena(self, number: int, fd: int) -> None:
        reader.open_arena(number, os.dup(fd))  # what it writes may come back to it
        self.send(ArenaNotice(number, fd))

    def send(self, message: FromWorker) -> None:
        """Write a message whole."""
        if type(message) is Reply:
            still_viewed, released = reader.take_view_changes()
            if still_viewed or released:
                message = replace(message, still_viewed=still_viewed, released=released)
        try:
            with self._lock:
                self._link.send(message)
        except OSError:
            raise SupervisorGone from None

    def receive(self, timeout: float | None = None) -> Any:
        """Return the next message; None after `timeout` seconds."""
        while True:
            if timeout is not None and not self._link.has_message(timeout):
                return None
            try:
                message = self._link.receive()
            except (EOFError, OSError, FrameError):
                raise SupervisorGone from None
            if type(message) is not ArenaNotice or message.freed_offsets:
                break
            if message.fd >= 0:
                reader.open_arena(message.number, message.fd)
            else:
                reader.forget_arena(message.number)
        if type(message) is not Stop and message.freed_offsets and self.arena_writer is not None:
            self.arena_writer.freed_offsets.extend(message.freed_offsets)
        return message

    def start_listening(self, deliver: Callable[[Any], None]) -> None:
        """Read in a thread of its own from now on."""

        def read() -> None:
            with contextlib.suppress(SupervisorGone):
                while True:
                    deliver(self.receive())

        threading.Thread(target=read, name="runner-port", daemon=True).start()


def worker_main(
    spec: WorkerSpec,
    runner_pid: int,
    arena_number: int,
    lifeline_fd: int,
    socket_fd: int,
    incoming_fd: int,
    page_fd: int,
    stack_fd: int,
    out_fd: int | None = None,
    err_fd: int | None = None,
) -> None:
    """Be a worker until there is nothing more to do. It has no `out_fd` and no `err_fd` if `log = "raw"`."""
    orderly_exit.note_inherited_finalizers()
    os.setpgid(0, 0)
    ignore_terminal_signals()
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    lifeline.arm_lifeline(lifeline_fd)
    # A crash, and SIGQUIT, write the stacks of all threads into the file that runner reads afterwards.
    faulthandler.enable(stack_fd, all_threads=True)
    faulthandler.register(signal.SIGQUIT, stack_fd, all_threads=True)
    if (numpy := sys.modules.get("numpy.random")) is not None:
        numpy.seed()  # the fork server may have imported it, with one state for all workers
    stdio.redirect_worker_streams(out_fd, err_fd)
    os.environ["RUNNER_PID"] = str(runner_pid)
    progress_page = ProgressPage(page_fd)
    link = WorkerLink(socket.socket(fileno=socket_fd), socket.socket(fileno=incoming_fd))
    port = ProcessPort(link, arena_number)
    forked_copies.ForkHook(port.abandon_in_fork)
    try:
        run(spec, port, progress_page.progress_slot(spec.slot))
    except (Exception, SystemExit):
        raise  # a fault of runner's own; or quietly, with its code
    except BaseException as error:  # noqa: BLE001  a KeyboardInterrupt of the user's: told without frames of ours
        os.write(stack_fd, describe_error(error).traceback.encode("utf-8", "backslashreplace"))
        raise SystemExit(1) from None
    finally:
        worker_title = f"runner: worker `{spec.name}` of task `{spec.task}`"
        ours = {*port.filenos(), page_fd, resource_tracker._resource_tracker._fd}  # type: ignore[attr-defined]
        orderly_exit.exit_orderly(worker_title, spec.grace, ours)
        stdio.flush_standard_streams()
