"""Task functions: the words they use, what a signature says of them, and where a worker finds them.

Everything here is imported by workers, so it stays light: the standard library only.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ForwardRef, Generic, Literal, Protocol, TypeVar, Union, overload

from runner.structs import dataclass, field

if TYPE_CHECKING:
    import logging

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

#: The attribute by which `@task` marks a callable; its value is a `Declaration`.
MARK_ATTRIBUTE = "__runner_task__"


@dataclass(frozen=True, slots=True)
class Declaration:
    """The defaults that `@task(...)` gives a function, and that a file may override.

    `marked_object` is what was marked: copies (`functools.wraps`, `lru_cache`, a subclass) have the same attribute.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    marked_object: Any = field(default=None, compare=False)


@overload
def task(function: F, /) -> F: ...
@overload
def task(*, name: str | None = None, **options: Any) -> Callable[[F], F]: ...
def task(function: Any = None, /, *, name: str | None = None, **options: Any) -> Any:
    """Mark a callable as a task function of its plugin. Return the same object, so a test can call it.

    `name` is what files call it (default: its own name); `options` are keys of a task's table (`mode`, `batch`,
    `ordered`, ...), its own declarations, which a file may override.

    >>> @task
    ... def double(item: int) -> int:
    ...     return 2 * item
    >>> double(4)
    8
    """

    def mark(target: Any) -> Any:
        called = name or getattr(target, "__name__", None)
        if not callable(target) or not isinstance(called, str):
            wants = "a name: `@task(name=...)`" if callable(target) else "a function or a class below it"
            raise TypeError(f"@task needs {wants} (it got an object of type {type(target).__name__})")
        try:
            setattr(target, MARK_ATTRIBUTE, Declaration(called, options, target))
        except AttributeError:
            raise TypeError(
                f"@task cannot mark an object of type {type(target).__name__}:"
                " wrap it in a function, or give it in the hook `runner_tasks`"
            ) from None
        return target

    return mark if function is None else mark(function)


def find_declaration(target: Any) -> Declaration | None:
    """Return the mark of an object, also one copied from a marked object; None for all others, whatever they raise.

    >>> find_declaration(abs) is None
    True
    """
    if not callable(target):
        return None
    try:
        mark = getattr(target, MARK_ATTRIBUTE, None)
    except Exception:  # noqa: BLE001  a proxy of a web framework raises what it likes
        return None
    return mark if type(mark) is Declaration else None


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
SENT_ITEMS = -1.0


class Context(Protocol):
    """A task function's view of its own run; annotate a parameter with it to receive it.

    `attempt` counts from 1; with `item_id` it is the key for making side effects idempotent: the id of an item
    stays the same when the item is given again. `retried_run` is the id of an earlier run whose dead items this run is
    given (`runner dead retry`), else empty: a sink adds then to what that run has written.
    """

    task: str
    worker: str
    run: str
    retried_run: str
    log: logging.Logger

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""

    @property
    def item_id(self) -> str:
        """The item's name within the run; empty for a task without inputs."""

    @property
    def node(self) -> str:
        """The name of the worker's machine, as in `pid@node`; on one machine, the first part of its host's name."""

    @property
    def stopping(self) -> bool:
        """True once the run has been asked to stop: a long loop should look at it and return."""

    def save(self, place: Any) -> None:
        """Keep a place, as JSON of at most 4 KiB, from which a task without inputs goes on if its worker dies.

        The function is then called again, in a new worker, and finds it in `saved`; what it had given after the place
        was kept is passed over. RuntimeError in a task with inputs.
        """

    @property
    def saved(self) -> Any:
        """The place that was kept last by a worker of this name that has died; None at the beginning."""

    def progress(self, done: float, total: float | None = None) -> None:
        """Report how far this worker is, for the displays: `done` of `total`, in any unit."""


class Inbox(Generic[T]):
    """The reading end of a task's inputs, for functions that take their items by `get` or iteration.

    An item counts as done when the next one is asked for, or when the function returns.
    Iterating ends when the queue has ended; `get` then raises `ShutDown`.
    """

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Return the next item; `ShutDown` if the queue has ended, `queue.Empty` after `timeout` seconds."""
        raise NotImplementedError

    def get_nowait(self) -> T:
        """Return `get(block=False)`."""
        return self.get(block=False)

    def task_done(self) -> None:
        """Mark the item taken last as done (the next `get` does it as well)."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[T]:
        raise NotImplementedError


class Outbox(Generic[T]):
    """The writing end of a task's outputs, for functions that send their items by `put`."""

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Send an item (or a `To`). Without inputs this waits for room, as the queue's bounds say."""
        raise NotImplementedError

    def put_nowait(self, item: T) -> None:
        """Call `put(item, block=False)`."""
        self.put(item, block=False)


@dataclass(frozen=True, slots=True)
class Shape:
    """The way a callable is to be called; all that the engine needs to know of it.

    `kind`: "function", "generator", "async", "asyncgen" or "class" (a callable class, made once in each worker;
    `inner` is then the kind of its `__call__`). The others are names of parameters that the engine fills; `made` is
    the one of a class's constructor that receives the Context.
    """

    kind: Literal["function", "generator", "async", "asyncgen", "class"]
    inner_kind: Literal["function", "generator", "async", "asyncgen"] = "function"
    context: str | None = None
    inboxes: tuple[str, ...] = ()
    outboxes: tuple[str, ...] = ()
    constructor_context: str | None = None

    @property
    def call_kind(self) -> Literal["function", "generator", "async", "asyncgen"]:
        """The kind of what is called for each item."""
        return self.inner_kind if self.kind == "class" else self.kind

    @property
    def is_async(self) -> bool:
        """True if calls run on an event loop."""
        return self.call_kind in {"async", "asyncgen"}


def inspect_shape(target: Any) -> Shape:
    """Look at a callable.

    >>> def eat(inbox: Inbox[str], *, seconds: float = 1.0) -> None: ...
    >>> inspect_shape(eat).inboxes
    ('inbox',)
    """
    if inspect.isclass(target):
        inner = next((base.__dict__["__call__"] for base in target.__mro__ if "__call__" in base.__dict__), None)
        if inner is None:  # `int`, `pathlib.Path`: making one of an item is the call
            return Shape("function")
        return Shape(
            "class",
            _call_kind(inner),
            *_engine_parameters(inner),
            constructor_context=_engine_parameters(target.__init__)[0],
        )
    if not inspect.isroutine(target) and not isinstance(target, type) and callable(type(target)):
        method = type(target).__call__
        if inspect.isfunction(method):
            return Shape(_call_kind(method), "function", *_engine_parameters(method))
    return Shape(_call_kind(target), "function", *_engine_parameters(target))


def _call_kind(target: Any) -> Literal["function", "generator", "async", "asyncgen"]:
    for layer in _wrapped_layers(target):  # the outermost that says it: an async wrapper of a plain function is async
        if inspect.isasyncgenfunction(layer):
            return "asyncgen"
        if inspect.iscoroutinefunction(layer):
            return "async"
        if inspect.isgeneratorfunction(layer):
            return "generator"
    return "function"


def _wrapped_layers(target: Any) -> Iterator[Any]:
    """Yield a callable and what it wraps (`functools.wraps`, `partial`, a bound method), from the outside in."""
    seen: list[Any] = []
    while target is not None and not any(target is each for each in seen):
        seen.append(target)
        yield target
        if isinstance(target, functools.partial):
            target = target.func
        else:
            inside = getattr(target, "__dict__", None)
            wrapped = inside.get("__wrapped__") if isinstance(inside, dict) else None
            target = getattr(target, "__func__", None) if wrapped is None else wrapped


def _engine_parameters(target: Any) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    """Return the parameters annotated Context, Inbox and Outbox."""
    words = {name: _annotated_word(annotation) for name, annotation in parameter_hints(target).items()}
    context, inboxes, outboxes = (
        tuple(name for name, word in words.items() if word == meant) for meant in ("Context", "Inbox", "Outbox")
    )
    return (context[0] if context else None), inboxes, outboxes


_WORDS = frozenset({"Context", "Inbox", "Outbox"})


def _annotated_word(annotation: Any) -> str | None:
    """Which of ours an annotation means, in whichever spelling: `Context | None`, `Optional[...]`, `Annotated[...]`."""
    if isinstance(annotation, str):
        words = (name.rpartition(".")[2] for name in _annotation_names(annotation))
        return next((word for word in words if word in _WORDS), None)
    if isinstance(annotation, type) and annotation in {Context, Inbox, Outbox}:
        return annotation.__name__
    origin = getattr(annotation, "__origin__", None)
    if isinstance(annotation, types.UnionType) or origin is Union:
        return next((found for each in annotation.__args__ if (found := _annotated_word(each))), None)
    if isinstance(annotation, ForwardRef):
        return _annotated_word(annotation.__forward_arg__)
    inner = origin if origin is not None else getattr(annotation, "__value__", None)  # `type Told = Context`
    return None if inner is None else _annotated_word(inner)


def _annotation_names(annotation: str) -> Iterator[str]:
    """Yield the names that a written annotation may mean: the parts of a union, without what stands in brackets."""
    try:
        left = [ast.parse(annotation.strip(), mode="eval").body]
    except (SyntaxError, ValueError):
        return
    while left:
        node = left.pop(0)
        if isinstance(node, ast.BinOp):
            left = [node.left, node.right, *left]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _annotation_names(node.value)
        elif isinstance(node, ast.Subscript):
            inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            if (outer := ast.unparse(node.value)).rpartition(".")[2] in {"Optional", "Union"}:
                left = [*inside, *left]
            elif outer.rpartition(".")[2] == "Annotated":
                left = [*inside[:1], *left]
            else:
                yield outer
        else:
            yield ast.unparse(node)


def parameter_hints(target: Any) -> dict[str, Any]:
    """Return the annotations of a callable's parameters; those that cannot be resolved stay strings."""
    layers = list(_wrapped_layers(target)) if callable(target) else [target]
    target = layers[-1]
    try:
        raw = dict(getattr(target, "__annotations__", None) or {})
    except NameError:  # since 3.14 they are evaluated when they are asked for
        annotationlib = importlib.import_module("annotationlib")
        raw = dict(annotationlib.get_annotations(target, format=annotationlib.Format.STRING))
    raw.pop("return", None)
    space = getattr(target, "__globals__", {})
    for name, annotation in raw.items():
        if isinstance(annotation, str):
            try:
                raw[name] = eval(annotation, space)  # noqa: S307  as typing.get_type_hints does, name by name
            except Exception:  # noqa: BLE001  an unresolvable hint: it is known by its name, or not one of ours
                raw[name] = _original_name(annotation, target)
    return raw


def _original_name(annotation: str, target: Any) -> str:
    """Return an annotation in runner's names, if the module imports them under others for type checkers only."""
    if any(name.rpartition(".")[2] in _WORDS for name in _annotation_names(annotation)):
        return annotation
    try:
        tree = ast.parse(Path(target.__code__.co_filename).read_text(encoding="utf-8"))
    except (AttributeError, OSError, ValueError, SyntaxError):
        return annotation
    names: dict[str | None, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "runner":
            names |= {each.asname: each.name for each in node.names if each.asname and each.name in _WORDS}
    return next((names[head] for head in _annotation_names(annotation) if head in names), annotation)


@dataclass(frozen=True, slots=True)
class Reference:
    """The place of a callable: `module` and `qualname`, and the module's file if its name does not lead there.

    Workers get this instead of a pickled function, so it works under every start method.

    >>> Reference("math", "sqrt").load_callable()(9.0)
    3.0

    With `provided_name` the callable is what `qualname`, a plugin's `runner_tasks`, gives under that name.
    """

    module: str
    qualname: str
    path: str | None = None
    provided_name: str = ""

    def load_callable(self) -> Any:
        """Import and return the callable; raises whatever the import raises, or AttributeError."""
        target: Any = load_module(self.module, self.path)
        for part in self.qualname.split("."):
            target = getattr(target, part)
        if self.provided_name:
            found = {name: obj for name, obj, _ in provided_functions(target())}
            if self.provided_name not in found:
                raise AttributeError(f"{self.qualname} of module {self.module!r} gives no {self.provided_name!r} here")
            return found[self.provided_name]
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

    def is_copy_of(self, other: TaskFunction) -> bool:
        """Return True if both are the same lines of the same file, imported under two names of its module."""
        mine, theirs = (getattr(each.obj, "__code__", None) for each in (self, other))
        if mine is None or theirs is None:
            return False
        return bool(
            (mine.co_filename, mine.co_firstlineno, mine.co_name, mine.co_code)
            == (theirs.co_filename, theirs.co_firstlineno, theirs.co_name, theirs.co_code)
            and self.obj.__closure__ is None
            and other.obj.__closure__ is None
        )

    @property
    def file(self) -> str:
        """The file that defines it, as far as Python can tell."""
        try:
            return inspect.getsourcefile(inspect.unwrap(self.obj)) or "<built in>"
        except TypeError:
            return "<built in>"

    @property
    def line(self) -> int:
        """The line where it begins, its decorators included; 0 when unknown."""
        obj = inspect.unwrap(self.obj)
        code = getattr(obj, "__code__", None)  # `getsourcelines` would read the file, and compile what splits it
        if code is not None:
            return int(code.co_firstlineno)
        try:
            return inspect.getsourcelines(obj)[1]
        except (TypeError, OSError):
            return 0


def provided_functions(given: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield name, callable and options of each function that `runner_tasks` has given; TypeError for anything else.

    >>> list(provided_functions({"root": abs})) == [("root", abs, {})]
    True
    >>> list(provided_functions([TaskFunction("root", abs)])) == [("root", abs, {})]
    True
    """
    pairs = given.items() if isinstance(given, Mapping) else ((None, each) for each in given)
    for key, value in pairs:
        obj = value.obj if isinstance(value, TaskFunction) else value
        mark = find_declaration(obj) or Declaration("")
        name = key or (value.name if isinstance(value, TaskFunction) else mark.name)
        if not callable(obj) or not isinstance(name, str) or not name:
            raise TypeError(f"`runner_tasks` must give names and callables, or `TaskFunction`s, not {value!r:.80}")
        yield name, obj, value.options if isinstance(value, TaskFunction) and value.options else mark.options


def load_module(name: str, path: str | None = None) -> Any:
    """Import a module by name; from its file when the name alone does not lead there."""
    if name in sys.modules:
        return sys.modules[name]
    if path is not None and not (path.endswith(".py") and Path(path).is_file()):
        raise ImportError(f"{path} is not a Python file")
    if path is None or name.startswith("runner.local_modules."):  # it finds its modules by their names
        __import__(name)  # not `import_module`, whose frame would be in the traceback of what goes wrong
        return sys.modules[name]
    package = name.rpartition(".")[0]
    if package and package not in sys.modules:
        # A package of our own making, so that `from . import other` works and nothing enters sys.path.
        parent = types.ModuleType(package)
        parent.__path__ = [str(Path(path).parent)]
        sys.modules[package] = parent
    search = [str(Path(path).parent)] if Path(path).name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=search)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
