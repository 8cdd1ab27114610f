"""Task functions: the words they use, what a signature says of them, and where a worker finds them.

Everything here is imported by workers, so it stays light: the standard library only.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, overload

from runner.structs import dataclass, field

if TYPE_CHECKING:
    import logging

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


#: In `Context.progress`, instead of what is done: as many items as the task has sent.
SENT = -1.0


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

    def get(self, block: bool = True, timeout: float | None = None) -> T:
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

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Send an item (or a `To`). Without inputs this waits for room, as the queue's bounds say."""
        raise NotImplementedError

    def put_nowait(self, item: T) -> None:
        """`put(item, block=False)`."""
        self.put(item, block=False)


# -- what a signature says --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """How a callable wants to be called; all that the engine needs to know of it.

    `kind`: "function", "generator", "async", "asyncgen" or "class" (a callable class, made once in each worker;
    `inner` is then the kind of its `__call__`). The others are names of parameters that the engine fills; `made` is
    the one of a class's constructor that receives the Context.
    """

    kind: Literal["function", "generator", "async", "asyncgen", "class"]
    inner: Literal["function", "generator", "async", "asyncgen"] = "function"
    context: str | None = None
    inboxes: tuple[str, ...] = ()
    outboxes: tuple[str, ...] = ()
    made: str | None = None

    @property
    def call(self) -> Literal["function", "generator", "async", "asyncgen"]:
        """The kind of what is called for each item."""
        return self.inner if self.kind == "class" else self.kind

    @property
    def is_async(self) -> bool:
        """Whether calls run on an event loop."""
        return self.call in {"async", "asyncgen"}


def shape(target: Any) -> Shape:
    """Look at a callable.

    >>> def eat(inbox: Inbox[str], *, seconds: float = 1.0) -> None: ...
    >>> shape(eat).inboxes
    ('inbox',)
    """
    if inspect.isclass(target):
        inner = next((base.__dict__["__call__"] for base in target.__mro__ if "__call__" in base.__dict__), None)
        if inner is None:  # `int`, `pathlib.Path`: making one of an item is the call
            return Shape("function")
        return Shape("class", _kind(inner), *_given(inner), made=_given(target.__init__)[0])
    if not inspect.isroutine(target) and not isinstance(target, type) and callable(type(target)):
        method = type(target).__call__
        if inspect.isfunction(method):
            return Shape(_kind(method), "function", *_given(method))
    return Shape(_kind(target), "function", *_given(target))


def _kind(target: Any) -> Literal["function", "generator", "async", "asyncgen"]:
    target = inspect.unwrap(target) if callable(target) else target
    while isinstance(target, functools.partial):
        target = target.func
    if inspect.isasyncgenfunction(target):
        return "asyncgen"
    if inspect.iscoroutinefunction(target):
        return "async"
    return "generator" if inspect.isgeneratorfunction(target) else "function"


def _given(target: Any) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    """The parameters annotated Context, Inbox and Outbox."""
    found: dict[str, list[str]] = {"Context": [], "Inbox": [], "Outbox": []}
    for name, annotation in hints(target).items():
        word = _word(annotation)
        if word in found:
            found[word].append(name)
    return next(iter(found["Context"]), None), tuple(found["Inbox"]), tuple(found["Outbox"])


def _word(annotation: Any) -> str | None:
    if isinstance(annotation, str):  # `from __future__ import annotations`, and a name that does not resolve
        return annotation.split("[")[0].rpartition(".")[2].strip()
    if isinstance(annotation, types.UnionType):  # `Context | None = None`: a test need not give one
        return next((word for each in annotation.__args__ if (word := _word(each))), None)
    origin = getattr(annotation, "__origin__", annotation)
    ours = origin in {Context, Inbox, Outbox} if isinstance(origin, type) else False
    return origin.__name__ if ours else None


def hints(target: Any) -> dict[str, Any]:
    """The annotations of a callable's parameters; those that cannot be resolved stay strings."""
    target = inspect.unwrap(target) if callable(target) else target
    raw = dict(getattr(target, "__annotations__", {}) or {})
    raw.pop("return", None)
    space = getattr(target, "__globals__", {})
    for name, annotation in raw.items():
        if isinstance(annotation, str):
            try:
                raw[name] = eval(annotation, space)  # noqa: S307  as typing.get_type_hints does, name by name
            except Exception:  # noqa: BLE001, S112  an unresolvable hint only means: not one of ours
                continue
    return raw


# -- where a worker finds it ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a callable is found: `module` and `qualname`, and for a local plugin the folder or file it lives in.

    Workers get this instead of a pickled function, so it works under every start method.

    >>> Reference("math", "sqrt").load()(9.0)
    3.0

    With `given` the callable is what `qualname`, a plugin's `runner_tasks`, gives under that name.
    """

    module: str
    qualname: str
    path: str | None = None
    folder: str | None = None
    given: str = ""

    def load(self) -> Any:
        """Import and return the callable; raises whatever the import raises, or AttributeError."""
        target: Any = load_module(self.module, self.path, self.folder)
        for part in self.qualname.split("."):
            target = getattr(target, part)
        if self.given:
            found = {name: obj for name, obj, _ in provided(target())}
            if self.given not in found:
                raise AttributeError(f"{self.qualname} of module {self.module!r} gives no {self.given!r} here")
            return found[self.given]
        return target


@dataclass(frozen=True, slots=True)
class TaskFunction:
    """A callable that a task can call, and what it declares of itself; `reference` and `plugin` say where it is.

    A plugin's `runner_tasks` gives these (or just callables), and leaves both out.
    """

    name: str
    obj: Any
    reference: Reference = field(default_factory=lambda: Reference("", ""))
    plugin: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The file that defines it, as far as Python can tell."""
        try:
            return inspect.getsourcefile(inspect.unwrap(self.obj)) or "<built in>"
        except TypeError:
            return "<built in>"

    @property
    def line(self) -> int:
        """The line where it begins; 0 when unknown."""
        try:
            return inspect.getsourcelines(inspect.unwrap(self.obj))[1]
        except (TypeError, OSError):
            return 0


def provided(given: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """What `runner_tasks` has given: name, callable and options of each; TypeError for what is neither.

    >>> list(provided({"root": abs})) == list(provided([TaskFunction("root", abs)])) == [("root", abs, {})]
    True
    """
    pairs = given.items() if isinstance(given, Mapping) else ((None, each) for each in given)
    for key, value in pairs:
        obj = value.obj if isinstance(value, TaskFunction) else value
        mark = getattr(obj, MARK, None)
        declared = mark if isinstance(mark, Declaration) else Declaration("")
        name = key or (value.name if isinstance(value, TaskFunction) else declared.name)
        if not callable(obj) or not isinstance(name, str) or not name:
            raise TypeError(f"`runner_tasks` must give names and callables, or `TaskFunction`s, not {value!r:.80}")
        yield name, obj, value.options if isinstance(value, TaskFunction) and value.options else declared.options


def load_module(name: str, path: str | None = None, folder: str | None = None) -> Any:
    """Import a module by name, or a local plugin's file under its private name (`folder` becomes its package)."""
    if name in sys.modules:
        return sys.modules[name]
    if path is None:
        return importlib.import_module(name)
    package = name.rpartition(".")[0]
    if package and package not in sys.modules:
        # A package of our own making, so that `from . import other` works and nothing enters sys.path.
        parent = types.ModuleType(package)
        parent.__path__ = [folder or str(Path(path).parent)]
        sys.modules[package] = parent
    search = [str(Path(path).parent)] if Path(path).name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=search)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
