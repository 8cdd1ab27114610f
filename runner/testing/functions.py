"""Task functions of a test, under names by which threads and processes find them."""

from __future__ import annotations

import importlib.machinery
import re
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import PluginError
from runner.tasks import Reference, inspect_shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.supervisor import Plan


class FunctionModule:
    """While it is entered, a module of this process holds the functions; workers find those of process tasks."""

    def __init__(self) -> None:
        self._module = types.ModuleType(f"_runner_test_functions_{id(self):x}")
        self._references: dict[str, Reference] = {}

    def add_function(self, function: Callable[..., Any], mode: str) -> str:
        """Take a function in, and return its name; PluginError when processes could not import it."""
        word = str(getattr(function, "__name__", type(function).__name__))
        name = "_".join(re.findall(r"\w+", word))[:60] or "function"
        setattr(self._module, name, function)
        if mode == "process":
            self._references[name] = _importable_reference(function, word)
        return name

    def call_string(self, name: str) -> str:
        """Return the value of `call` for a file."""
        return f"{self._module.__name__}:{name}"

    @staticmethod
    def default_ports(function: Callable[..., Any], inputs: bool) -> tuple[str, ...]:
        """Return the outputs that a function has by default: without items, only what yields or puts has any."""
        form = inspect_shape(function)
        return ("default",) if inputs or form.call_kind in {"generator", "asyncgen"} or form.outboxes else ()

    def with_importable_references(self, plan: Plan) -> Plan:
        """Return the plan with the places where processes find the functions."""
        tasks = {
            name: replace(task, reference=self._references[name]) if name in self._references else task
            for name, task in plan.tasks.items()
        }
        return replace(plan, tasks=tasks)

    def __enter__(self) -> FunctionModule:
        sys.modules[self._module.__name__] = self._module
        return self

    def __exit__(self, *_: object) -> None:
        del sys.modules[self._module.__name__]


def _importable_reference(function: Callable[..., Any], word: str) -> Reference:
    """Return where a new process finds a function: by import, or else in the file of its module."""
    name, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    module = sys.modules.get(name or "")
    try:
        reference = Reference(name or "", qualname or "")
        found = module is not None and name != "__main__" and reference.load_callable() is function
    except (AttributeError, ImportError, ValueError):
        found = False
    if not found or module is None:
        raise PluginError(
            f"`{qualname or word}` cannot be found by a process: it is not at the top of a module that can be imported",
            "E308",
            'define it at the top of the test module or of a plugin, or say mode="thread"',
        )
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py") or _is_importable(module.__name__, file):
        return reference
    return Reference(reference.module, reference.qualname, file)


def _is_importable(name: str, file: str) -> bool:
    """Return True if `import` in a new process gives this file; pytest may have loaded it in a way of its own."""
    search: Any = sys.path
    parts = name.split(".")
    spec = None
    for end in range(1, len(parts) + 1):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:end]), search) if search is not None else None
        if spec is None:
            return False
        search = spec.submodule_search_locations
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == Path(file).resolve()
