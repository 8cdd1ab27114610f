"""The description with which a worker starts, and the port through which it speaks."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.hookspecs import WorkerHook
    from runner.shm.writer import ArenaWriter
    from runner.tasks import Reference
    from runner.transport.messages import FromWorker


class OutputGroup(Struct, frozen=True):
    """Queues that receive the same chunk: one port's, of one kind (`OBJECTS` or `PICKLED`).

    `is_read_singly`: a reader takes single items of a chunk and is handed all its bytes each time: chunks stay small.
    `has_priorities`: each item has a priority, and all items of a chunk the same. `lane`: the field that says of which
    lane an item is; those of a chunk are of one of 2 ** `bucket_bits` buckets.
    """

    port: str
    queues: tuple[str, ...]
    payload_kind: int
    is_read_singly: bool = False
    has_priorities: bool = False
    lane: str = ""
    bucket_bits: int = 0

    @property
    def is_sorted(self) -> bool:
        """Return True if not all items may share a chunk."""
        return self.has_priorities or bool(self.lane)


class RestartPoint(Struct, frozen=True):
    """What earlier workers of the same name have given and saved: this one goes on there.

    `digests` are (number of the item from 0, digest) pairs; `saved` is JSON, of when `saved_items` had been given.
    In a durable run: `crc` of all items, `checks` at powers of two, and `saved_crc` of the first `saved_items`; and a
    file of the keys that earlier lives of the run have given, which are not counted here.
    """

    given_items: int = 0
    digests: tuple[tuple[int, int], ...] = ()
    saved: str | None = None
    saved_items: int = 0
    crc: int = 0
    checks: dict[int, int] = field(default_factory=dict)
    saved_crc: int = 0
    key_file: str = ""


class WorkerSpec(Struct, frozen=True):
    """Everything a worker needs. `arguments` is a pickle of (args, kwargs), read after the function was loaded.

    `attempts` and `retry_on` let the worker tell a final failure from one that will be tried again.
    """

    task: str
    name: str
    run: str
    slot: int
    reference: Reference
    arguments: bytes
    inputs: tuple[str, ...] = ()
    output_groups: tuple[OutputGroup, ...] = ()
    batch: int | None = None
    batch_bytes: int | None = None
    ordered: bool = False
    #: Its items are in lanes: what comes after one that has failed waits for it.
    keeps_lanes: bool = False
    concurrency: int = 1
    attempts: int = 1
    retry_on: tuple[str, ...] = ()
    timeout: float | None = None
    timed: bool = False
    #: It is its task's only worker: no other could go on with what it hands back, so it keeps everything.
    is_only_worker: bool = False
    #: The run whose dead items this one is given.
    retried_run: str = ""
    max_item_bytes: int = 256 << 20
    #: Bytes that a dead item may have to be kept; 0: they are not kept at all.
    max_kept_bytes: int = 0
    #: Bytes in arenas weigh so much less than those that are copied on their way.
    shared_discount: int = 1
    restart_point: RestartPoint = RestartPoint()
    #: Seconds that its orderly end may take.
    grace: float = 10.0
    env: dict[str, str] = field(default_factory=dict)
    #: Where it lives, as hooks are told.
    mode: str = "process"
    #: Plugins' `runner_worker`, to be entered around its life.
    hooks: tuple[WorkerHook, ...] = ()
    #: What they print bears their plugin's name (`log = "prefix"`).
    prefixes_hook_output: bool = False
    #: The run is durable: nothing lies in arenas, and a source counts its items.
    durable: bool = False
    #: Its machine has no memory in common with the supervisor's: large buffers travel in its messages.
    inline_payloads: bool = False
    #: The field by which a durable run knows its items again (`item_keys`).
    key: str = ""
    #: The machine that it is started on, as the run calls it; empty: the one where the command runs.
    node: str = ""
    #: It executes nothing, and shows items instead (`worker.suspect_preview`).
    previews_suspects: bool = False

    @property
    def stops_at_failure(self) -> bool:
        """Return True if the items behind one that has failed are handed back: it may have to come before them."""
        return self.ordered or self.keeps_lanes


class WorkerThread(threading.Thread):
    """The thread of a thread worker; all others are of the user's, or of the engine's."""


class SupervisorGone(BaseException):
    """The supervisor is gone: the worker ends. Not an `Exception`, so user code does not swallow it."""


class WorkerPort(Protocol):
    """A worker's only way to the outside, apart from its progress slot.

    `arena_writer` takes the large buffers of what it sends; None: they travel in the pickle.
    """

    arena_writer: ArenaWriter | None

    def send(self, message: FromWorker) -> None:
        """Hand a message over."""

    def receive(self, timeout: float | None = None) -> Any:
        """Return the next message; None after `timeout` seconds. `SupervisorGone` when the supervisor is."""

    def start_listening(self, deliver: Callable[[Any], None]) -> None:
        """Call `deliver` with each message from now on, in another thread, instead of `receive`."""
