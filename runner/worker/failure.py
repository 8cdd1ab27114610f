"""From an exception to what the supervisor is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from runner.errors import Reject, Retry
from runner.errortext import describe, shorten
from runner.transport.messages import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.errortext import ErrorText
    from runner.worker.spec import WorkerSpec

#: Characters of an item in its letter, and of all the items of a batch.
_PREVIEW, _BATCH = 8192, 1 << 18


def failure(
    spec: WorkerSpec, index: int, count: int, error: BaseException, item: Any, attempt: int, batch: Iterable[Any] = ()
) -> Failure:
    """What has become of `count` items from `index`: dead, or to be tried again. `batch`: each of them."""
    text = describe(error)
    said = verdict(spec, error, text, attempt)
    after = error.after if said == "retry" and isinstance(error, Retry) else None
    most = min(_PREVIEW, _BATCH // count)
    return Failure(index, count, text, preview(item), said, after, tuple(preview(each, most) for each in batch))


def verdict(
    spec: WorkerSpec, error: BaseException, text: ErrorText, attempt: int
) -> Literal["error", "retry", "reject"]:
    """Whether an item that has failed is tried again, or given up, and why."""
    if isinstance(error, Reject):
        return "reject"
    may = attempt < spec.attempts and (isinstance(error, Retry) or retryable(spec.retry_on, text))
    return "retry" if may else "error"


def retryable(retry_on: tuple[str, ...], text: ErrorText) -> bool:
    """Whether `retry_on` names this exception or one of its bases (nothing named: every Exception)."""
    return not retry_on or any(name in retry_on for name in text.names)


def preview(item: Any, most: int = _PREVIEW) -> str:
    """An item as a short text, whatever its `repr` does."""
    try:
        return shorten(repr(item), most)
    except Exception as error:  # noqa: BLE001  the user's __repr__ may raise anything
        return f"<{type(item).__name__}: its repr raised {type(error).__name__}>"
