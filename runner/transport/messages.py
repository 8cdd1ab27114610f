"""What supervisor and workers say to each other.

supervisor ─▶ worker   Grant (items, on a lease) · Credit (a source may make so many) · Stop · Arena
worker ─▶ supervisor   Ready · Answer (outputs + acks, one message) · Made (a source's items) · Progress
                       · Times · Finished · Failed · Arena
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from runner.structs import message

if TYPE_CHECKING:
    from runner.error_text import ErrorText

#: How a chunk's payload holds its items: a list of objects, or bytes that `codec.decode` understands. `SHARED` are
#: objects that have several readers, each of which makes itself a copy (`codec.own`).
OBJECTS, PICKLED, SHARED = 0, 1, 2


@message(frozen=True, slots=True)
class SharedPayload:
    """The payload of a chunk some of whose bytes lie in arenas, which stay there as long as this object lives."""

    data: bytes
    blocks: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.data)


@message(frozen=True, slots=True)
class ArenaNotice:
    """A writer's memory for large buffers, with its descriptor; without one: it is gone.

    To the writer itself: offsets in it that nobody needs any more, when there is no grant or credit to tell it with.
    """

    number: int
    fd: int = -1
    freed_offsets: tuple[int, ...] = ()


@message(frozen=True, slots=True)
class FailureText:
    """What a dead letter says beside its item."""

    error: str
    traceback: str
    task: str
    worker: str
    attempts: int


@message(frozen=True, slots=True)
class GrantedRange:
    """Items of one chunk, in a grant: `count` from `start` of `payload`, which is of kind `kind`.

    `number` is the chunk's. `attempt` counts tries from 1, and `crashes` the workers that died over the item.
    A part with a `letter` is a dead letter's item.
    """

    chunk_number: int
    start: int
    count: int
    attempt: int
    crashes: int
    payload_kind: int
    payload: Any
    dead_letter: FailureText | None = None


@message(frozen=True, slots=True)
class Grant:
    """Items to execute, on a lease, within about `slice` seconds; what takes more than twice that is handed back.

    `others` are further grants in the same message, for workers that execute many items at a time.
    """

    lease: int
    time_slice: float
    parts: tuple[GrantedRange, ...]
    other_grants: tuple[Grant, ...] = ()
    #: Offsets in the worker's own arena that nobody needs any more.
    freed_offsets: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """How many items there are."""
        return sum(part.count for part in self.parts)


@message(frozen=True, slots=True)
class Credit:
    """A source may have made `total` items since it began; everything it sent so far has arrived."""

    total_items: int
    time_slice: float
    freed_offsets: tuple[int, ...] = ()


@message(frozen=True, slots=True)
class Stop:
    """No more work will come. `ended`: the inputs have ended; else the run is stopping, and sources stop too."""

    inputs_ended: bool


@message(frozen=True, slots=True)
class Ready:
    """The worker has loaded its function and is set up."""

    pid: int


@message(frozen=True, slots=True)
class Output:
    """Items for the queues of one group (an index into the worker's output groups).

    `slots` says where in arenas some of the `size` bytes lie: arena, offset and length of each.
    """

    group_index: int
    count: int
    size: int
    payload: Any
    priorities: tuple[float, ...] = ()
    block_refs: tuple[tuple[int, int, int], ...] = ()


@message(frozen=True, slots=True)
class Failure:
    """`count` items from `index` of a lease have failed together (one, unless they were a batch).

    `retry_after` is what a `Retry` asked for; `reject` that a `Reject` was raised. `preview` shows the item, and
    `previews` each of a batch.
    """

    index: int
    count: int
    error: ErrorText
    preview: str
    verdict: Literal["error", "retry", "reject"] = "error"
    retry_after: float | None = None
    previews: tuple[str, ...] = ()


@message(frozen=True, slots=True)
class Ack:
    """The first `done` items of a lease are over, apart from `failures`; the rest is handed back.

    With `more` the rest stays with the worker, which goes on with it: indices count from there from now on.
    """

    lease: int
    done: int
    failures: tuple[Failure, ...] = ()
    keeps_rest: bool = False


@message(frozen=True, slots=True)
class Reply:
    """Outputs and acks in one message: the supervisor applies both in one step, or neither.

    `busy` is the time in seconds that the acked items took, `coding` how much of it went into codecs.
    `kept` are buffers in arenas (arena, offset) that something in the worker still looks at, although their items are
    over, and `gone` those that nothing looks at any more.
    """

    acks: tuple[Ack, ...]
    outputs: tuple[Output, ...]
    busy_seconds: float
    codec_seconds: float = 0.0
    still_viewed: tuple[tuple[int, int], ...] = ()
    released: tuple[tuple[int, int], ...] = ()


@message(frozen=True, slots=True)
class Produced:
    """What a source has made since its last message."""

    item_count: int
    outputs: tuple[Output, ...]
    busy_seconds: float


@message(frozen=True, slots=True)
class SuspectPreview:
    """What an item looks like over which workers have died before, told before it is executed once more."""

    lease: int
    preview: str


@message(frozen=True, slots=True)
class ProgressReport:
    """`Context.progress`."""

    done: float
    total: float | None


#: Classes of a histogram of times for each doubling: class n ends at 2 ** (n / 8) seconds.
CLASSES_PER_DOUBLING = 8


@message(frozen=True, slots=True)
class MeasuredTimes:
    """What a worker has measured since it last said so.

    `times` are (class, items) pairs of a histogram of seconds per item, `cpu` is processor time in seconds, `memory`
    the peak in bytes (0: unknown, or a thread's).
    """

    time_histogram: tuple[tuple[int, int], ...]
    cpu_seconds: float
    peak_memory: int = 0


@message(frozen=True, slots=True)
class Finished:
    """The worker's work is over and it is torn down; `result` is what a task without outputs returned, as text."""

    result: str | None = None
    returned_early: bool = False


@message(frozen=True, slots=True)
class Failed:
    """The worker cannot go on: its function could not be loaded or set up, or a task without inputs raised."""

    failed_phase: Literal["load", "setup", "call", "teardown"]
    error: ErrorText
    verdict: Literal["error", "retry", "reject"] = "error"
    retry_after: float | None = None


ToWorker = Grant | Credit | Stop | ArenaNotice
FromWorker = (
    ArenaNotice | Ready | Reply | Produced | SuspectPreview | ProgressReport | MeasuredTimes | Finished | Failed
)
