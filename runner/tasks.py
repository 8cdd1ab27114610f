"""Task functions: the words they use, what a signature says of them, and where a worker finds them.

Everything here is imported by workers, so it stays light: the standard library only.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, overload

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

#: The attribute by which `@task` marks a callable; its value is a `Declaration`.
MARK = "__runner_task__"


@dataclass(frozen=True, slots=True)
class Declaration:
    """What `@task(...)` says of a function: defaults that the file may override."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@overload
def task(function: F, /) -> F: ...
@overload
def task(*, name: str | None = None, **options: Any) -> Callable[[F], F]: ...
def task(function: Any = None, /, *, name: str | None = None, **options: Any) -> Any:
    """Mark a callable as a task function of its plugin. The same object comes back, so a test just calls it.

    `name` is what files call it (default: its own name); `options` are keys of a task's table (`mode`, `batch`,
    `ordered`, ...), its own declarations, which a file may override.

    >>> @task
    ... def double(item: int) -> int:
    ...     return 2 * item
    >>> double(4)
    8
    """

    def mark(target: Any) -> Any:
        setattr(target, MARK, Declaration(name or target.__name__, options))
        return target

    return mark if function is None else mark(function)


@dataclass(frozen=True, slots=True)
class To:
    """An item for one named port of the task's `outputs`.

    >>> To("small", 7)
    To(port='small', item=7)
    """

    port: str
    item: Any


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An item given up, as a task that reads a queue of dead letters receives it.

    `error` is "Type: message", `traceback` the user's own frames as text, `attempts` how often it was tried.
    """

    item: Any
    error: str
    traceback: str
    task: str
    worker: str
    attempts: int


class Context(Protocol):
    """What a task function may know about its own run; annotate a parameter with it to receive it.

    `attempt` counts from 1; with `item_id` it is the key for making side effects idempotent: the id of an item
    stays the same when the item is given again.
    """

    task: str
    worker: str
    run: str
    log: logging.Logger

    @property
    def attempt(self) -> int:
        """Which try this is, the first being 1."""

    @property
    def item_id(self) -> str:
        """The item's name within the run; empty for a task without inputs."""

    @property
    def stopping(self) -> bool:
        """True once the run has been asked to stop: a long loop should look at it and return."""

    def progress(self, done: float, total: float | None = None) -> None:
        """Tell people how far this worker is: `done` of `total`, in any unit."""


class Inbox(Generic[T]):
    """The reading end of a task's inputs, for functions that ask for their items themselves.

    An item counts as done when the next one is asked for, or when the function returns.
    Iterating ends when the queue has ended; `get` then raises `ShutDown`.
    """

    def get(self, block: bool = True, timeout: float | None = None) -> T:  # noqa: FBT001, FBT002  as queue.Queue has it
        """The next item; `ShutDown` when the queue has ended, `queue.Empty` when `timeout` seconds have passed."""
        raise NotImplementedError

    def get_nowait(self) -> T:
        """`get(block=False)`."""
        return self.get(block=False)

    def task_done(self) -> None:
        """The item taken last is done (it would be at the next `get` as well)."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[T]:
        raise NotImplementedError


class Outbox(Generic[T]):
    """The writing end of a task's outputs, for functions that put their items themselves."""

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:  # noqa: FBT001, FBT002  as queue.Queue has it
        """Send an item (or a `To`). Without inputs this waits for room, as the queue's bounds say."""
        raise NotImplementedError

    def put_nowait(self, item: T) -> None:
        """`put(item, block=False)`."""
        self.put(item, block=False)
