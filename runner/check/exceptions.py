"""`retry_on`: the names of exceptions, which workers compare with the names of what was raised."""

from __future__ import annotations

import builtins
import importlib
import inspect
import sys
import types
from typing import TYPE_CHECKING, Any

from runner.problems import Problem, quote_name
from runner.text import clean_text, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.model import Config, TaskConfig
    from runner.plugins import TaskFunction

_MISSING = object()


def find_exception_problems(config: Config, task: TaskConfig, function: TaskFunction) -> Iterator[Problem]:
    """Yield what is wrong with the names in a task's `retry_on`."""
    if not task.retry_on:
        return
    space = _module_names(function)
    for number, word in enumerate(task.retry_on):
        own = config.locations.get(("tasks", task.name, "retry_on"))
        table = ("tasks", task.name) if own else ("defaults", "task")
        place = config.place(*table, "retry_on", str(number))
        found = resolve_exception(word, space)
        text = f"task {quote_name(task.name)} retries on {quote_name(word)}"
        if found is _MISSING:
            known = [one for one, value in {**vars(builtins), **space}.items() if _is_exception(value)]
            hint = did_you_mean(word, known) or "write it as `package.module.Name`"
            yield Problem("E307", f"{text}, which is not known", place, hint=hint)
        elif not _is_exception(found):
            yield Problem("E307", f"{text}, which is not an exception", place)
        elif word not in {found.__name__, found.__qualname__, full := f"{found.__module__}.{found.__qualname__}"}:
            text += f", whose own name is {quote_name(full)}"
            yield Problem("E307", text, place, hint=f"did you mean `{clean_text(full)}`?")


def resolve_exception(word: str, space: dict[str, Any]) -> Any:
    """Return what a name means: a built-in, a name of the function's module or of one it imports, or a dotted one."""
    if "." not in word:
        found = space.get(word, getattr(builtins, word, _MISSING))
        if found is not _MISSING:
            return found
        modules = [value for value in space.values() if issubclass(type(value), types.ModuleType)]
        return next((vars(each)[word] for each in modules if _is_exception(vars(each).get(word))), _MISSING)
    parts = word.split(".")
    if parts[0] in space:
        found = _find_attribute(space[parts[0]], parts[1:])
        if found is not _MISSING:
            return found
    for end in range(len(parts) - 1, 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:end]))
        except Exception:  # noqa: BLE001, S112  a package that does not import is not there
            continue
        return _find_attribute(module, parts[end:])
    return _MISSING


def _find_attribute(found: Any, parts: list[str]) -> Any:
    for part in parts:
        found = getattr(found, part, _MISSING)
    return found


def _is_exception(found: Any) -> bool:
    # By what it is, not by what it says: proxies raise when they are asked.
    return issubclass(type(found), type) and issubclass(found, BaseException)


def _module_names(function: TaskFunction) -> dict[str, Any]:
    """Return the names in the module of a function."""
    target = inspect.unwrap(function.obj)
    module = sys.modules.get(getattr(target, "__module__", None) or function.reference.module)
    return dict(vars(module)) if module is not None else {}
