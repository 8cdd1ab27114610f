"""From an exception to what the supervisor is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.errors import Reject, Retry
from runner.errortext import describe, shorten
from runner.transport.messages import Failure

if TYPE_CHECKING:
    from runner.errortext import ErrorText
    from runner.worker.spec import WorkerSpec

_PREVIEW = 1024


def failure(spec: WorkerSpec, index: int, count: int, error: BaseException, item: Any, attempt: int) -> Failure:
    """What has become of `count` items from `index`: dead, or to be tried again."""
    text = describe(error)
    shown = preview(item)
    if isinstance(error, Reject):
        return Failure(index, count, text, shown, "reject")
    if attempt < spec.attempts:
        if isinstance(error, Retry):
            return Failure(index, count, text, shown, "retry", error.after)
        if retryable(spec.retry_on, text):
            return Failure(index, count, text, shown, "retry")
    return Failure(index, count, text, shown, "error")


def retryable(retry_on: tuple[str, ...], text: ErrorText) -> bool:
    """Whether `retry_on` names this exception or one of its bases (nothing named: every Exception)."""
    return not retry_on or any(name in retry_on for name in text.names)


def preview(item: Any) -> str:
    """An item as a short text, whatever its `repr` does."""
    try:
        return shorten(repr(item), _PREVIEW)
    except Exception as error:  # noqa: BLE001  the user's __repr__ may raise anything
        return f"<{type(item).__name__}: its repr raised {type(error).__name__}>"
