"""From an exception to what the supervisor is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from runner.error_text import describe_error
from runner.errors import Reject, Retry, retry_delay
from runner.forked_copies import ExitOnTouch, exit_copy
from runner.text import cut_middle
from runner.transport.kept_items import pickle_object
from runner.transport.messages import Failure, KeptItem
from runner.worker.spec import SupervisorGone

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runner.error_text import ErrorText
    from runner.model import TaskConfig
    from runner.worker.spec import WorkerSpec

#: What ends a worker, whatever it was doing. All else that a function raises is its item's error, and need not be an
#: `Exception`: a cancelled future, a time-out library's own, a `KeyboardInterrupt` of the function's.
WORKER_ENDING_ERRORS = (SystemExit, SupervisorGone)

#: Characters of an item in its dead letter, and of all the items of a batch.
_MAX_PREVIEW, _MAX_BATCH_PREVIEW = 8192, 1 << 18
#: In place of an object: the supervisor has the item's bytes.
HAS_BYTES = object()


def make_failure(
    spec: WorkerSpec,
    index: int,
    count: int,
    error: BaseException,
    item: Any,
    attempt: int,
    batch: Iterable[Any] = (),
    objects: Sequence[Any] = (),
) -> Failure:
    """Describe the failure of `count` items from `index`: dead, or to be tried again. `batch`: each of them.

    `objects` are the same as they travelled between threads, or HAS_BYTES: those are pickled if they are given up.
    """
    if isinstance(spec, ExitOnTouch):  # in a copy that the function has forked
        exit_copy(error)
    text = describe_error(error)
    verdict = decide_verdict(spec, error, text, attempt)
    try:
        pause = retry_pause(error) if verdict == "retry" else None
    except (TypeError, ValueError) as invalid:  # it was set after the Retry had been made
        return make_failure(spec, index, count, invalid, item, attempt, batch, objects)
    max_length = min(_MAX_PREVIEW, _MAX_BATCH_PREVIEW // count)
    previews = tuple(preview_item(each, max_length) for each in batch)
    kept: tuple[KeptItem, ...] = ()
    if spec.max_kept_bytes and verdict != "retry" and any(each is not HAS_BYTES for each in objects):
        kept = tuple(KeptItem() if each is HAS_BYTES else pickle_object(each, spec.max_kept_bytes) for each in objects)
    return Failure(index, count, text, preview_item(item), verdict, pause, previews, kept)


def retry_pause(error: BaseException) -> float | None:
    """Return the seconds after which a `Retry` wants to be tried again."""
    return retry_delay(error.after) if isinstance(error, Retry) else None


def decide_verdict(
    spec: WorkerSpec, error: BaseException, text: ErrorText, attempt: int
) -> Literal["error", "retry", "reject"]:
    """Decide if an item that has failed is tried again, or given up, and why."""
    if isinstance(error, Reject):
        return "reject"
    return "retry" if may_retry(spec, attempt, text, asked=isinstance(error, Retry)) else "error"


def may_retry(task: WorkerSpec | TaskConfig, attempt: int, error: ErrorText, *, asked: bool = False) -> bool:
    """Return True if another try follows: the worker rolls its outputs back, and the supervisor gives the item again.

    Only an exception that `retry_on` names (nothing named: every one), or that asks for it, is tried again.
    """
    named = not task.retry_on or any(name in task.retry_on for name in error.names)
    return attempt < task.attempts and (asked or named)


def preview_item(item: Any, max_length: int = _MAX_PREVIEW) -> str:
    """Return an item as a short text, whatever its `repr` does."""
    try:
        return cut_middle(repr(item), max_length)
    except BaseException as error:  # noqa: BLE001  the user's __repr__ may raise anything
        return f"<{type(item).__name__}: its repr raised {type(error).__name__}>"
