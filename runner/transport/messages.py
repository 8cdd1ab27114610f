"""Messages between the supervisor and its workers.

supervisor ─▶ worker   Grant (items, on a lease) · Credit (a source may make so many) · Stop · ArenaNotice
worker ─▶ supervisor   Ready · Reply (outputs + acks, one message) · Produced (a source's items) · SuspectPreview
                       · PlaceReport · ProgressReport · MeasuredTimes · Finished · Failed · ArenaNotice

A message with a `tag` travels by itself; the others are parts of one. `framing` turns them into bytes and back.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from runner.error_text import ErrorText  # noqa: TC001  msgspec reads the hints of what it decodes

#: How a chunk's payload holds its items: a list of objects, or bytes for `item_codec.decode_payload`. `SHARED` are
#: objects that have several readers, each of which makes itself a copy (`item_codec.copy_for_reader`).
OBJECTS, PICKLED, SHARED = 0, 1, 2


class WireStruct(Struct, frozen=True, array_like=True):
    """Base of what crosses a worker's socket: an array of its fields, whose types are checked when it is read."""


class SharedPayload(Struct, frozen=True):
    """The payload of a chunk some of whose bytes lie in arenas, which stay there as long as this object lives."""

    data: bytes
    blocks: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.data)


class ArenaNotice(WireStruct, frozen=True, tag=4):
    """A writer's memory for large buffers, with its descriptor; without one, the memory is gone.

    The writer itself is told the offsets in it that no reader needs any more, if no grant or credit is due to tell it.
    """

    number: int
    fd: int = -1
    freed_offsets: tuple[int, ...] = ()


class FailureText(WireStruct, frozen=True):
    """Text of a dead letter, beside its item."""

    error: str
    traceback: str
    task: str
    worker: str
    attempts: int


class GrantedRange(WireStruct, frozen=True):
    """Items of one chunk, in a grant: `count` items from `start` of `payload`.

    `attempt` counts tries from 1, and `crashes` the workers that died over the item. A range with a `dead_letter` is
    the item of that letter.
    """

    chunk_number: int
    start: int
    count: int
    attempt: int
    crashes: int
    payload_kind: int
    payload: Any
    dead_letter: FailureText | None = None


class Grant(WireStruct, frozen=True, tag=1):
    """Items to execute, on a lease, within about `time_slice` seconds; the rest is handed back after twice that.

    `other_grants` are further grants in the same message, for workers that execute many items at a time.
    """

    lease: int
    time_slice: float
    parts: tuple[GrantedRange, ...]
    other_grants: tuple[Grant, ...] = ()
    #: Offsets in the worker's own arena that no reader needs any more.
    freed_offsets: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Number of items, without those of `other_grants`."""
        return sum(part.count for part in self.parts)


class Credit(WireStruct, frozen=True, tag=2):
    """Leave for a source to have made `total_items` since it began; everything that wants an ack has arrived."""

    total_items: int
    time_slice: float
    freed_offsets: tuple[int, ...] = ()


class Stop(WireStruct, frozen=True, tag=3):
    """The end of a worker's work: its inputs have ended, or else the run is stopping, and sources stop too."""

    inputs_ended: bool


class Ready(WireStruct, frozen=True, tag=5):
    """Word of a worker that has loaded its function and is set up. `node` is its machine, if that is another one."""

    pid: int
    node: str = ""


class Output(WireStruct, frozen=True):
    """Items for the queues of one group (an index into the worker's output groups).

    `block_refs` says where in arenas some of the `size` bytes lie: arena, offset and length of each block. All of them
    have the priority `rank`, or lanes of the one `bucket`.
    """

    group_index: int
    count: int
    size: int
    payload: Any
    block_refs: tuple[tuple[int, int, int], ...] = ()
    rank: float = 0.0
    bucket: int = 0


class KeptItem(WireStruct, frozen=True):
    """A dead item as bytes that can be given again, or `why` there are none; neither: they are in its chunk."""

    data: bytes = b""
    why: str = ""


class Failure(WireStruct, frozen=True):
    """Items of a lease that have failed together: `count` from `index` (one, unless they were a batch).

    `retry_after` is what a `Retry` asked for; the verdict "reject" says that a `Reject` was raised. `preview` shows
    the item, and `previews` each item of a batch. `kept` is of each what a thread's objects
    that are given up are as bytes.
    """

    index: int
    count: int
    error: ErrorText
    preview: str
    verdict: Literal["error", "retry", "reject"] = "error"
    retry_after: float | None = None
    previews: tuple[str, ...] = ()
    kept: tuple[KeptItem, ...] = ()


class Ack(WireStruct, frozen=True):
    """End of the first `done` items of a lease, all well apart from `failures`; the rest is handed back.

    With `keeps_rest` the rest stays with the worker, which goes on with it: indices count from there from now on.
    """

    lease: int
    done: int
    failures: tuple[Failure, ...] = ()
    keeps_rest: bool = False


class Reply(WireStruct, frozen=True, tag=6):
    """Outputs and acks in one message: the supervisor applies both in one step, or neither.

    `busy_seconds` is the time that the acked items took, and `codec_seconds` the part of it that went into codecs.
    `still_viewed` are blocks (arena, offset) at which something in the worker still looks although their items are
    over, and `released` those at which nothing looks any more.
    """

    acks: tuple[Ack, ...]
    outputs: tuple[Output, ...]
    busy_seconds: float
    codec_seconds: float = 0.0
    still_viewed: tuple[tuple[int, int], ...] = ()
    released: tuple[tuple[int, int], ...] = ()
    #: What the `save` of a callable class has returned, as JSON: the place of these acks.
    saved: str | None = None


class Produced(WireStruct, frozen=True, tag=7):
    """Items that a source has made since its last message.

    With `wants_ack` the source keeps what it makes next until a `Credit` says that these have arrived.
    """

    item_count: int
    outputs: tuple[Output, ...]
    busy_seconds: float
    wants_ack: bool = True
    #: In a durable run: the CRC of all its items until here, and those at powers of two among these (`SourceCrc`);
    #: and digests of their keys, if it has a `key`.
    crc: int = 0
    checks: dict[int, int] = msgspec.field(default_factory=dict)
    keys: bytes = b""


class PlaceReport(WireStruct, frozen=True, tag=13):
    """Where a source is, for the worker that follows if this one dies; sent after the items that it tells of.

    `digests` are (number of the item from 0, digest) pairs. `saved` is what `Context.save` was given, as JSON, when the
    source had given `saved_items`, whose CRC is `saved_crc` in a durable run.
    """

    digests: tuple[tuple[int, int], ...] = ()
    saved: str | None = None
    saved_items: int = 0
    saved_crc: int = 0


class SuspectPreview(WireStruct, frozen=True, tag=8):
    """Text that shows an item over which workers have died before, sent before the item is executed once more."""

    lease: int
    preview: str


class ProgressReport(WireStruct, frozen=True, tag=9):
    """Arguments of `Context.progress`."""

    done: float
    total: float | None


#: Classes of a histogram of times for each doubling: class n ends at 2 ** (n / 8) seconds.
CLASSES_PER_DOUBLING = 8


class MeasuredTimes(WireStruct, frozen=True, tag=10):
    """Measurements of a worker since its last message of this kind.

    `time_histogram` holds (class, items) pairs of a histogram of seconds per item. `peak_memory` is in bytes (0: not
    known, or a thread's).
    """

    time_histogram: tuple[tuple[int, int], ...]
    cpu_seconds: float
    peak_memory: int = 0


class Finished(WireStruct, frozen=True, tag=11):
    """Orderly end of a worker that is torn down; `result` is what a task without outputs returned, as text."""

    result: str | None = None
    returned_early: bool = False


class Failed(WireStruct, frozen=True, tag=12):
    """End of a worker that cannot go on: its function was not loaded or set up, or a task without inputs raised."""

    failed_phase: Literal["load", "setup", "call", "teardown"]
    error: ErrorText
    verdict: Literal["error", "retry", "reject"] = "error"
    retry_after: float | None = None


ToWorker = Grant | Credit | Stop | ArenaNotice
FromWorker = (
    ArenaNotice
    | Ready
    | Reply
    | Produced
    | PlaceReport
    | SuspectPreview
    | ProgressReport
    | MeasuredTimes
    | Finished
    | Failed
)
