"""Events for the supervisor's loop: what workers say and how they end, signals, and what is on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from runner.error_text import signal_name

if TYPE_CHECKING:
    from runner.events import Event
    from runner.transport.progress_page import Position


#: The reason of a run whose program wants no more of its items.
CALLER_STOPPED = "the caller of the run has stopped"


class MessageReceived(Struct, frozen=True):
    """A message of a worker. `generation` tells the slot's workers apart: late messages of a former one are ignored."""

    slot: int
    generation: int
    message: Any


class ExitStatus(Struct, frozen=True):
    """A worker's end as the operating system tells it: an exit code, the number of a signal, or unknown."""

    code: int | None = None
    signal: int | None = None
    text: str = ""

    def __str__(self) -> str:
        if self.signal is not None:
            return f"killed by {signal_name(self.signal)}"
        if self.text:
            return self.text
        return "ended in an unknown way" if self.code is None else f"exited with code {self.code}"


class WorkerExited(Struct, frozen=True):
    """A worker is gone for certain, its process group too, and all its messages have been reported.

    `position` is what its progress slot showed, `stack` what faulthandler wrote last, without frames of ours.
    `socket_broken`: it had closed its socket, or written into it what is not a message; later ones were not read.
    `lost`: its machine is gone with all its workers. Then `position` is that of an item which it had executed for over
    a second, or none.
    """

    slot: int
    generation: int
    exit_status: ExitStatus
    position: Position
    stack: str = ""
    socket_broken: bool = False
    lost: bool = False


class WorkerLeaving(Struct, frozen=True):
    """The machine of a worker is to be taken away: it answers what it holds, and another worker goes on elsewhere."""

    slot: int
    generation: int


class Announcement(Struct, frozen=True):
    """Something of an engine's that people are to be told, in turn with what the supervisor tells."""

    event: Event


class PlacesChanged(Struct, frozen=True):
    """Machines have more room than before: tasks with `workers = "auto"` may have more workers."""


class SignalReceived(Struct, frozen=True):
    """The run itself received a signal."""

    signal_number: int


class HaltRequested(Struct, frozen=True):
    """The caller of a run wants no more of it: what workers hold may end within the grace, the rest is left."""

    why: str = CALLER_STOPPED


class GroupKept(Struct, frozen=True):
    """The groups of the journal up to this one are on disk; 0: none is, look at the keeper for what is wrong."""

    group_number: int


EngineEvent = (
    MessageReceived
    | WorkerExited
    | WorkerLeaving
    | Announcement
    | PlacesChanged
    | SignalReceived
    | HaltRequested
    | GroupKept
)
