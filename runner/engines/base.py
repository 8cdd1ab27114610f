"""The seam under the supervisor: what a fleet can do, and what it reports."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runner.engines.reactor import LocalReactor
    from runner.tasks import Reference
    from runner.transport.messages import ToWorker
    from runner.transport.progress_page import Position
    from runner.worker import WorkerSpec


class MessageReceived(Struct, frozen=True):
    """A worker has said something. `life` tells the slot's workers apart: a late word of a former one is ignored."""

    slot: int
    generation: int
    message: Any


class ExitStatus(Struct, frozen=True):
    """How a worker ended, as the operating system says: an exit code, or the number of a signal, or unknown."""

    code: int | None = None
    signal: int | None = None
    text: str = ""

    def __str__(self) -> str:
        if self.signal is not None:
            try:
                name = signal.Signals(self.signal).name
            except ValueError:
                name = f"signal {self.signal}"
            return f"killed by {name}"
        if self.text:
            return self.text
        return "ended, nobody knows how" if self.code is None else f"exited with code {self.code}"


class WorkerExited(Struct, frozen=True):
    """A worker is gone for certain, its process group with it, and all it ever said has been reported.

    `position` is what its progress cell showed, `stack` what faulthandler wrote last, without frames of ours.
    `spoiled`: it had closed its socket, or written into it what is no message, and none of its later words was heard.
    """

    slot: int
    generation: int
    exit_status: ExitStatus
    position: Position
    stack: str = ""
    socket_broken: bool = False


class SignalReceived(Struct, frozen=True):
    """The run itself received a signal."""

    signal_number: int


EngineEvent = MessageReceived | WorkerExited | SignalReceived


class Engine(Protocol):
    """Where the workers of one kind live. A slot is one worker's place; it has one worker at a time."""

    def start(self, spec: WorkerSpec, life: int) -> int:
        """Start the worker of `spec.slot`; return its process id. SpawnError when the machine refuses."""

    def send(self, slot: int, message: ToWorker) -> None:
        """Hand a message over; never blocks."""

    def kill(self, slot: int) -> bool:
        """End the slot's worker at once; `WorkerExited` follows. False when this kind of worker cannot be ended."""

    def current_position(self, slot: int) -> Position:
        """What the slot's worker executes."""

    def request_stack(self, slot: int) -> None:
        """Ask the worker for its stack; `stack` has it a moment later. Works while C code holds the GIL."""

    def read_stack(self, slot: int) -> str:
        """What the worker has said of its stack since it was asked, without frames of ours."""

    def resident_bytes(self, slot: int) -> int:
        """Bytes that the slot's worker holds resident; 0 when nobody can tell."""

    def pause_workers(self, *, going_on: bool) -> None:
        """Stop all workers where they are, or let them go on; threads stop with runner itself."""

    def close(self) -> None:
        """End everything that is left, and give all resources back."""


class EngineContext(Struct, frozen=True):
    """What a plugin's fleet (`runner_fleets`) is made with.

    `hub.post` takes what its workers say and how they end (`MessageReceived`, `WorkerExited`), from any thread.
    `references` are the functions and hooks that its workers will load. `attach(worker's name, descriptor, "out" or
    "err")` hands an output pipe to the printer; None leaves output alone. `name_thread(worker's name)` does it for the
    thread that calls it. `folder` is where the file is.
    """

    reactor: LocalReactor
    references: tuple[Reference, ...]
    attach_output: Callable[[str, int, str], Any] | None
    name_thread: Callable[[str], Any] | None
    folder: Path


class Reactor(Protocol):
    """What the supervisor waits on."""

    def wait(self, timeout: float | None) -> list[EngineEvent]:
        """The events since the last call; waits for the first one at most `timeout` seconds."""

    def suspend_process(self) -> None:
        """Stop this process, as Ctrl-Z does; returns when it is continued."""
