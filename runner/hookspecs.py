"""The hooks: what a plugin may do beyond offering task functions. Five, and none depends on the order of plugins.

A plugin implements a hook by a function of the hook's name, marked with `@hookimpl`; it takes the arguments that it
wants and leaves out the others. `Hooks` is the specification that pluggy checks implementations against.

Workers import this module with a plugin that has `runner_worker`, so it stays light: pluggy is not imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

    from runner.events import Event
    from runner.model import Config
    from runner.problems import Problem
    from runner.tasks import Reference, TaskFunction

F = TypeVar("F", bound="Callable[..., Any]")

#: The project's name for pluggy, and the attribute by which `@hookimpl` marks a function, as pluggy's own marker does.
PROJECT, MARK = "runner", "runner_impl"


@overload
def hookimpl(function: F, /) -> F: ...
@overload
def hookimpl(*, optionalhook: bool = False) -> Callable[[F], F]: ...
def hookimpl(function: Any = None, /, *, optionalhook: bool = False) -> Any:
    """Mark a function as a plugin's implementation of the hook of its name, and return the same object.

    `optionalhook`: a version of runner without such a hook ignores it.

    >>> @hookimpl
    ... def runner_event(event):
    ...     print(event)
    >>> runner_event("anything")
    anything
    """

    def mark(target: Any) -> Any:
        setattr(target, MARK, {"optionalhook": optionalhook})
        return target

    return mark if function is None else mark(function)


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """The worker that `runner_worker` surrounds. `mode` is "thread", "process", or the name of another engine."""

    task: str
    worker: str
    run: str
    mode: str
    pid: int


@dataclass(frozen=True, slots=True)
class WorkerHook:
    """One `runner_worker`, as workers are told of it: where it is, whose it is, and whether it takes an argument."""

    reference: Reference
    plugin: str
    takes_worker: bool


class Hooks:
    """The hooks that plugins may implement. All results of a hook are used; the order of plugins never matters."""

    def runner_tasks(self) -> Iterable[TaskFunction] | Mapping[str, Any]:  # type: ignore[empty-body]
        """Offer task functions that cannot be marked with `@task`: generated ones, or those of another library.

        Called when the plugin is loaded, and again in each worker that executes one of them, so it must always give
        the same names. A mapping's keys are the names in files, its values callables or `TaskFunction`s.
        """

    def runner_engines(self) -> Mapping[str, Callable[..., Any]]:  # type: ignore[empty-body]
        """Offer further engines: what `[run] engine` may say, and where tasks in processes then run.

        Called when a file names an engine that is not runner's own. The engine is a class, or a
        function, that is called with a `runner.engines.base.EngineContext` and gives a `runner.engines.base.Engine`.
        """

    def runner_check(self, config: Config) -> Iterable[Problem]:  # type: ignore[empty-body]
        """Find problems of a file, each made by `config.problem("text", "tasks", NAME, KEY)`.

        Called by `runner check` and at the start of a run, for files whose keys are right.
        """

    def runner_event(self, event: Event) -> None:
        """Receive the events of a run, in order, in the supervisor's thread; an item that goes well makes none.

        The run makes no decision meanwhile, so do slow work in a thread of the plugin. If it raises, a
        person is told once, and the plugin hears nothing more of this run.
        """

    def runner_worker(self, worker: WorkerInfo) -> AbstractContextManager[Any] | None:
        """Surround a worker's life, inside the worker: entered before its function is loaded, left at the end.

        If it raises, the worker has failed to start, and the run does what it does for a class whose set-up raises.
        """


NAMES = tuple(name for name in vars(Hooks) if name.startswith("runner_"))
for _name in NAMES:
    setattr(vars(Hooks)[_name], "runner_spec", {})  # noqa: B010  a function has no such attribute, says the type checker
