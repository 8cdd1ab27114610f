"""Events without secrets: what functions, errors and tracebacks say in them is masked before anyone hears of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner import events

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.secret_masks import SecretMask

#: What events say in the words of functions, errors and tracebacks. Names are not looked at.
_WORDS = ("error", "traceback", "preview", "why", "text", "result", "results", "reasons")


def masked_emit(mask: SecretMask, tell: Callable[[events.Event], None]) -> Callable[[events.Event], None]:
    """Return `tell`, which then hears of events without secrets."""
    return (lambda event: tell(hide_secrets(event, mask))) if mask else tell


def hide_secrets(told: Any, mask: SecretMask) -> Any:
    """Return a text, texts, or an event with its texts masked, and those of its tasks."""
    if isinstance(told, str):
        return mask(told)
    if isinstance(told, dict):
        return {key: hide_secrets(each, mask) for key, each in told.items()}
    if isinstance(told, tuple):
        return tuple(hide_secrets(each, mask) for each in told)
    if not mask or told is None or isinstance(told, events.Progress):
        return told
    words = (*_WORDS, "tasks") if isinstance(told, events.RunEnded) else _WORDS
    return replace(told, **{word: hide_secrets(getattr(told, word), mask) for word in words if hasattr(told, word)})
