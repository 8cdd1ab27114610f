"""Thread workers: message objects are handed over as they are, and nothing is copied.

A thread cannot be killed; `kill` says so, and the run ends without it (the process exits over it at the end).
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import queue
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from runner import forked_copies
from runner.engines import shared_payloads
from runner.engines.engine_events import ExitStatus, MessageReceived, WorkerExited
from runner.error_text import clean_stack, describe_error, describe_refusal
from runner.errors import SpawnError
from runner.transport.messages import MeasuredTimes, Produced, Reply
from runner.transport.progress_page import Position, unpack_position
from runner.worker.lifecycle import run
from runner.worker.spec import SupervisorGone, WorkerSpec, WorkerThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.engines.reactor import LocalReactor
    from runner.shm.registry import ArenaRegistry
    from runner.transport.messages import FromWorker, ToWorker
    from runner.transport.progress_page import ProgressPage


#: Seconds that threads which are ending get together.
_EXIT_SECONDS = 0.3


class ThreadPort:
    """The port of one thread worker."""

    def __init__(
        self, post: Callable[..., None], slot: int, generation: int, arena_registry: ArenaRegistry | None = None
    ) -> None:
        self._arena_registry = arena_registry
        self.arena_writer = None if arena_registry is None else arena_registry.thread_arena
        self._post, self._slot, self._generation = post, slot, generation
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._listener: Callable[[Any], None] | None = None
        self._lock = threading.Lock()

    def abandon_in_fork(self) -> None:
        """Let go of everything in a copy that a function has forked."""
        self._post = lambda _, **__: None
        self._lock, self._arena_registry = threading.Lock(), None
        self._inbox = forked_copies.DiscardingChannel()  # type: ignore[assignment]  # that is what it stands for

    def send(self, message: FromWorker) -> None:
        """Report to the supervisor's loop."""
        if (
            self._arena_registry is not None
            and (type(message) is Reply or type(message) is Produced)
            and any(output.block_refs for output in message.outputs)
        ):
            outputs = shared_payloads.hold_payloads(self._arena_registry, None, message.outputs)
            message = replace(message, outputs=outputs)
        # bench sleeps: if what a hundred threads measure wakes the loop, 1.13 of the processor time, else 1.
        self._post(MessageReceived(self._slot, self._generation, message), wake=type(message) is not MeasuredTimes)

    def receive(self, timeout: float | None = None) -> Any:
        """Return the next message; None after `timeout` seconds."""
        try:
            message = self._inbox.get(timeout=timeout) if timeout != 0 else self._inbox.get_nowait()
        except queue.Empty:
            return None
        if message is None:
            raise SupervisorGone
        return message

    def start_listening(self, deliver: Callable[[Any], None]) -> None:
        """Have messages delivered by the supervisor's own thread from now on."""
        with self._lock:
            self._listener = deliver
            waiting = [self._inbox.get() for _ in range(self._inbox.qsize())]
        for message in waiting:
            deliver(message)

    def deliver_message(self, message: ToWorker | None) -> None:
        """Hand a message over, from the supervisor's side; None: the supervisor is gone."""
        with self._lock:
            listener = self._listener
            if listener is None:
                self._inbox.put(message)
                return
        listener(message)


class ThreadEngine:
    """Threads of this process. In `arena_registry` they share large buffers with processes, if there are any.

    `progress_page`: they show there what they execute, so that it can be seen when this process is gone.
    """

    def __init__(
        self,
        reactor: LocalReactor,
        name_thread: Callable[[str], Any] | None = None,
        arena_registry: ArenaRegistry | None = None,
        progress_page: ProgressPage | None = None,
    ) -> None:
        self._reactor, self._arena_registry, self._progress_page = reactor, arena_registry, progress_page
        self._progress_slots: dict[int, list[int] | memoryview] = {}
        self._name_thread = name_thread
        self._ports: dict[int, ThreadPort] = {}
        self._threads: dict[int, threading.Thread] = {}

    def start(self, spec: WorkerSpec, generation: int) -> int:
        """Start a thread that bears the worker's name."""
        port = ThreadPort(self._reactor.post_event, spec.slot, generation, self._arena_registry)
        self._progress_slots[spec.slot] = self._new_progress_slot(spec.slot)
        args = self._run_worker, spec, port, generation
        thread = WorkerThread(target=contextvars.Context().run, args=args, name=spec.name, daemon=True)
        self._ports[spec.slot] = port
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            why = describe_refusal(error) or error
            raise SpawnError(f"worker `{spec.name}` of task `{spec.task}` could not be started: {why}") from None
        self._threads[spec.slot] = thread
        return os.getpid()

    def _new_progress_slot(self, slot: int) -> list[int] | memoryview:
        if self._progress_page is None:
            return [0, 0]
        self._progress_page.clear(slot)
        return self._progress_page.progress_slot(slot)

    def _run_worker(self, spec: WorkerSpec, port: ThreadPort, generation: int) -> None:
        exit_status, stack = ExitStatus(code=0), ""
        # A thread is what its maker is unless it says so. This one is a daemon so that it can be left behind; what a
        # function starts is to be waited for at the end, as in any program.
        threading.current_thread()._daemonic = False  # type: ignore[attr-defined]  # the setter refuses a live thread
        if self._name_thread is not None:
            self._name_thread(spec.name)
        try:
            with contextlib.closing(forked_copies.ForkHook(port.abandon_in_fork)):
                run(spec, port, self._progress_slots[spec.slot])
        except SystemExit as end:
            exit_status = ExitStatus(text=f"called sys.exit({end.code!r})")
        except BaseException as error:  # noqa: BLE001  whatever ends a thread is reported as its death
            error_text = describe_error(error)
            exit_status, stack = ExitStatus(text=f"ended by {error_text}"), error_text.traceback
        position = self.current_position(spec.slot)
        self._reactor.post_event(WorkerExited(spec.slot, generation, exit_status, position, stack))

    def send(self, slot: int, message: ToWorker) -> None:
        """Hand a message over."""
        self._ports[slot].deliver_message(message)

    def kill(self, slot: int) -> bool:
        """Tell the worker that the supervisor is gone; return False: a thread cannot be ended.

        True: no thread has ever been started there.
        """
        if slot not in self._ports:
            return True
        self._ports[slot].deliver_message(None)
        return False

    def current_position(self, slot: int) -> Position:
        """Return the position that the slot's worker shows."""
        return unpack_position(*self._progress_slots[slot])

    def request_stack(self, slot: int) -> None:
        """Do nothing: `read_stack` looks for itself."""

    def read_stack(self, slot: int) -> str:
        """Return the stack of what the thread executes now."""
        thread = self._threads.get(slot)
        frame = None if thread is None else sys._current_frames().get(thread.ident or 0)
        return "" if frame is None else clean_stack("".join(traceback.format_stack(frame)))

    def resident_bytes(self, slot: int) -> int:  # noqa: ARG002  the same for all kinds of workers
        """Return 0: threads share their memory."""
        return 0

    def pause_workers(self, *, going_on: bool) -> None:
        """Do nothing: threads stop with the process that they live in."""

    def close(self) -> None:
        """Wait a moment for threads that are on their way out; a thread that executes is left behind."""
        for port in self._ports.values():
            port.deliver_message(None)
        deadline = time.monotonic() + _EXIT_SECONDS
        for slot, thread in self._threads.items():
            thread.join(0 if self.current_position(slot).lease else max(0.0, deadline - time.monotonic()))
            progress_slot = self._progress_slots[slot]
            if isinstance(progress_slot, memoryview) and not thread.is_alive():
                progress_slot.release()

    def names_left_running(self) -> list[str]:
        """Return the names of threads that could not be ended."""
        return [thread.name for thread in self._threads.values() if thread.is_alive()]
