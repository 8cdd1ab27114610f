"""The interface under the supervisor: what an engine can do, and what it reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runner.engines.engine_events import EngineEvent
    from runner.engines.reactor import LocalReactor
    from runner.tasks import Reference
    from runner.transport.messages import ToWorker
    from runner.transport.progress_page import Position
    from runner.worker.spec import WorkerSpec


class Engine(Protocol):
    """The home of the workers of one kind. A slot is one worker's place; it has one worker at a time."""

    def start(self, spec: WorkerSpec, generation: int) -> int:
        """Start the worker of `spec.slot`; return its process id. SpawnError when the machine refuses.

        0: the pid comes with `Ready`, a refusal as `WorkerExited`. Where there is no place for it, it is started when
        there is; such an engine has `waits_for_place(slot)`, and `withdraw_start(slot)`: True if it waited.
        Where workers are on several machines, `nearest_slot(payload, slots)` says which has the bytes of a payload.
        """

    def send(self, slot: int, message: ToWorker) -> None:
        """Hand a message over; never blocks."""

    def kill(self, slot: int) -> bool:
        """End the slot's worker at once; `WorkerExited` follows. False when this kind of worker cannot be ended."""

    def current_position(self, slot: int) -> Position:
        """Return the position that the slot's worker shows."""

    def request_stack(self, slot: int) -> None:
        """Ask the worker for its stack; `read_stack` has it a moment later. Works while C code holds the GIL."""

    def read_stack(self, slot: int) -> str:
        """Return the stack that the worker has written since it was asked, without runner's frames."""

    def resident_bytes(self, slot: int) -> int:
        """Return the resident bytes of the slot's worker; 0 if they are unknown."""

    def pause_workers(self, *, going_on: bool) -> None:
        """Stop all workers where they are, or let them go on; threads stop with runner itself."""

    def close(self) -> None:
        """End everything that is left, and give all resources back."""


class EngineContext(Struct, frozen=True):
    """The one argument with which a plugin's engine (`runner_engines`) is called.

    `reactor.post_event` takes its workers' messages and ends (`MessageReceived`, `WorkerExited`), from any thread.
    `references` are the functions and hooks that its workers will load. `attach_output(worker's name, descriptor, "out"
    or "err")` hands an output pipe to the printer; None leaves output alone. `name_thread(worker's name)` hands over
    the output of the thread that calls it. `folder` is where the file is.
    """

    reactor: LocalReactor
    references: tuple[Reference, ...]
    attach_output: Callable[[str, int, str], Any] | None
    name_thread: Callable[[str], Any] | None
    folder: Path


class Clock(Protocol):
    """The source of time for the supervisor. Only monotonic time decides anything; seconds as float."""

    def now(self) -> float:
        """Return the seconds on a clock that never goes back."""


class Reactor(Protocol):
    """The events that the supervisor waits for."""

    def wait(self, timeout: float | None) -> list[EngineEvent]:
        """Return the events since the last call; wait for the first one at most `timeout` seconds."""

    def suspend_process(self) -> None:
        """Stop this process, as Ctrl-Z does; returns when it is continued."""
