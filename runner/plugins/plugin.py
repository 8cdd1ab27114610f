"""One plugin: what is known of it before it is imported, and what importing it has brought, or why it could not be."""

from __future__ import annotations

import contextlib
import opcode
import os
import re
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal

from runner.error_text import describe_error
from runner.hookspecs import MARK as HOOK_MARK
from runner.structs import dataclass, field
from runner.tasks import Reference, TaskFunction, find_declaration, load_module

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

    from runner.plugins.distributions import Distribution
    from runner.tasks import Declaration

_OURS = str(Path(__file__).parent.parent)


@dataclass(slots=True)
class Plugin:
    """A plugin. `module` has its task functions and `hooks_module` its hooks; a local plugin has both in one.

    `error` is a traceback or a sentence, `error_line` its one line; `path` is the file of a local plugin.
    """

    name: str
    origin: str
    module: str = ""
    path: str | None = None
    hooks_module: str = ""
    commands_module: str = ""
    distribution: Distribution | None = None
    source_file: str = ""
    functions: dict[str, TaskFunction] = field(default_factory=dict)
    #: Names under which it has several.
    duplicate_functions: dict[str, list[TaskFunction]] = field(default_factory=dict)
    hooks: tuple[str, ...] = ()
    unmarked_functions: tuple[str, ...] = ()
    #: What the tasks' `env` in the file gives their workers.
    worker_env: Mapping[str, str] = field(default_factory=dict)
    loaded: bool = False
    blocked_by: str = ""
    error: str = ""
    error_line: str = ""

    @property
    def version(self) -> str:
        """The version of its distribution; empty for a local one."""
        return self.distribution.version if self.distribution else ""

    @property
    def label(self) -> str:
        """The plugin as messages name it: with its distribution, version and file."""
        return f"`{self.name}` ({self.origin})"

    @property
    def status(self) -> Literal["loaded", "lazy", "blocked", "broken"]:
        """The plugin's state so far."""
        if self.blocked_by:
            return "blocked"
        if self.error:
            return "broken"
        return "loaded" if self.loaded else "lazy"

    def mark_broken(self, why: str, error: str = "") -> None:
        """Mark it as broken; the first reason counts."""
        if not self.error:
            self.error_line, self.error = why, error or why

    def load_functions(self) -> None:
        """Import its task functions, once; an error is kept, not raised. A blocked plugin is left alone."""
        if self.loaded or self.blocked_by or self.error or not self.module:
            return
        self.loaded = True
        module = self.import_own_module(self.module)
        if module is not None:
            self._collect_functions(module)

    def import_own_module(self, name: str) -> ModuleType | None:
        """Return one of its modules; None when it cannot be imported: it is broken then."""
        if ":" in name:
            self.mark_broken(f"its entry point must name a module, not {name!r}")
            return None
        try:
            module: ModuleType = import_with_env(self.worker_env, name, self.path)
        except BaseException as error:
            if is_user_interrupt(error):
                raise
            told = describe_error(trim_traceback(error))
            self.mark_broken(str(told), told.traceback or str(error))
            return None
        self.source_file = getattr(module, "__file__", None) or self.source_file
        return module

    def may_have_function(self, name: str) -> bool:
        """Return True if this broken plugin might have the function: its text names it, other than to call it."""
        if not self.error:
            return False
        word = re.escape(name)
        return bool(re.search(rf"(def|class)\s+{word}\b|\b{word}\b(?!\s*\()|^$|import\s*\*", self.source_text))

    @property
    def source_text(self) -> str:
        """Its file, for a guess at what importing it would have brought; empty when that cannot be read."""
        try:
            return Path(self.source_file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _collect_functions(self, module: ModuleType) -> None:
        unmarked = []
        found: dict[str, list[tuple[str, Any, Declaration]]] = {}
        for attribute, value in list(vars(module).items()):
            mark = find_declaration(value)
            if mark is not None:
                found.setdefault(mark.name, []).append((attribute, value, mark))
            elif type(value) is FunctionType and value.__module__ == self.module and not hasattr(value, HOOK_MARK):
                unmarked.append(attribute)
        self.unmarked_functions = tuple(unmarked)
        for name, claims in found.items():
            # What was marked; a copy only where that is out of reach (a decorator above `@task`).
            marked = [claim for claim in claims if claim[1] is claim[2].marked_object]
            for attribute, value, mark in marked or claims:
                reference = Reference(self.module, attribute, self.path)
                self.add_function(TaskFunction(name, value, reference, self.name, mark.options))

    def add_function(self, function: TaskFunction) -> None:
        """Take a task function in; when it is another one than that of the same name, neither can be called."""
        there = self.functions.setdefault(function.name, function)
        if there.obj is not function.obj and not there.is_copy_of(function):
            self.duplicate_functions.setdefault(function.name, [there]).append(function)


def import_with_env(env: Mapping[str, str], name: str, path: str | None = None) -> Any:
    """Import a module here as it is, or else as a worker would that has this `env`: it may not do without."""
    try:
        return load_module(name, path)
    except Exception:
        if not env:
            raise
    with changed_environment(env):
        return load_module(name, path)


@contextlib.contextmanager
def changed_environment(env: Mapping[str, str]) -> Iterator[None]:
    """Have these variables in the environment meanwhile."""
    before = {word: os.environ[word] for word in env if word in os.environ}
    os.environ.update(env)
    try:
        yield
    finally:
        for word in env:
            os.environ.pop(word, None)
        os.environ.update(before)


def trim_traceback(error: BaseException) -> BaseException:
    """Return the error without the frames of the import system and of ours, which lead to it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(("<frozen importlib", _OURS)):
        trace = trace.tb_next
    return error.with_traceback(trace)


def is_user_interrupt(error: BaseException) -> bool:
    """Return True for Ctrl-C, False for `raise KeyboardInterrupt` in the code that was executed."""
    trace = error.__traceback__
    if not isinstance(error, KeyboardInterrupt) or trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] != opcode.opmap["RAISE_VARARGS"]


def add_hook_note(error: BaseException, hook: str, plugin: Any) -> BaseException:
    """Return the error, with the plugin whose hook has raised it."""
    error.add_note(f"in hook {hook} of plugin {plugin.label}")
    return trim_traceback(error)
